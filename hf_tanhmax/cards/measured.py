"""What the runs of a recipe measured, as the model card shows it: means and standard deviations over their seeds."""

import statistics
from collections.abc import Sequence
from typing import Any

from .text import escaped

Run = dict[str, Any]
NEEDED = {"recipe", "variant", "seed", "metrics"}
SPLITS = ("test", "validation")
TIMES = ("runtime", "samples_per_second", "steps_per_second", "preparation_time")


def check_runs(runs: Sequence[Run]) -> None:
    """Refuse what cannot be told as one model's numbers.

    Raises:
        ValueError: not results of recipes.train, runs of different settings or data, or one seed twice.
    """
    if isinstance(runs, dict) or not runs or not all(isinstance(run, dict) and run.keys() >= NEEDED for run in runs):
        raise ValueError("results must be a list of what recipes.train writes to results.json, one per seed, or None")
    first = _settings(runs[0])
    for run in runs[1:]:
        other = _settings(run)
        differing = sorted(key for key in {*first, *other} if first.get(key) != other.get(key))
        if differing:
            names = ", ".join(differing)
            raise ValueError(f"the results are not of one model: they differ in {names}; give those of one variant and its seeds")
    seeds = [run["seed"] for run in runs]
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise ValueError(f"seed {twice} is given twice; a run counts once")


def main_metric(run: Run) -> str:
    """The metric by which models of this task are compared."""
    return str(run.get("main_metric", "accuracy"))


def mean_of(runs: Sequence[Run], metric: str) -> float | None:
    """The mean of a metric over the runs; None if not all of them have it."""
    values = [run["metrics"].get(metric) for run in runs]
    return statistics.fmean(values) if all(is_number(value) for value in values) else None


def numbers(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Name and value of every metric that all runs have, the main one of the test rows first."""
    main = main_metric(runs[0])
    names = [name for name in runs[0]["metrics"] if name.split("_")[0] in SPLITS and not name.endswith(TIMES)]
    names.sort(key=lambda name: (SPLITS.index(name.split("_")[0]), name.split("_", 1)[1] != main))
    rows = []
    for name in [*names, "train_loss"]:
        values = [run["metrics"].get(name) for run in runs]
        if all(is_number(value) for value in values):
            rows.append((escaped(name.replace("_", " ")), spread(values, digits=2 if "perplexity" in name else 4)))
    return rows


def spread(values: Sequence[float], *, digits: int = 4) -> str:
    """Mean and, of several values, standard deviation."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def health(runs: Sequence[Run]) -> dict[str, str]:
    """The measures of attention health over the whole model that all runs have, and the share of negative weight in percent.

    `learned` tells the polarities of the first run's heads, where they were learned.
    """
    reports = [(run.get("attention_health") or {}).get("overall", {}) for run in runs]
    shared = [name for name in reports[0] if all(is_number(report.get(name)) for report in reports)]
    found = {name: spread([report[name] for report in reports]) for name in shared}
    if "negative_mass" in shared:
        found["negative_percent"] = f"{100 * statistics.fmean(report['negative_mass'] for report in reports):.1f}"
    heads = [polarity for layer in (runs[0].get("attention_health") or {}).get("polarity_per_head", []) for polarity in layer]
    if heads:
        found["learned"] = f"from {min(heads):.4g} to {max(heads):.4g}, with a mean of {statistics.fmean(heads):.4g}"
    return found


def is_number(value: object) -> bool:
    """Whether a value of a result file is a number that a mean can be taken of."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _settings(run: Run) -> dict[str, Any]:
    data = {key: value for key, value in run.get("data", {}).items() if key != "rows"}
    kept = {key: value for key, value in run.get("config", {}).items() if key != "seed"}
    return {**kept, "recipe": run["recipe"], "variant": run["variant"], "data": data}
