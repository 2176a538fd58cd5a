"""Metrics of a recipe's runs for the model card: means and standard deviations over their seeds."""

import statistics
from collections.abc import Sequence

from ..results import Run, is_number, main_metric, metric_of, spread
from .text import escaped

SPLITS = ("test", "validation")
TIMES = ("runtime", "samples_per_second", "steps_per_second", "preparation_time")


def mean_of(runs: Sequence[Run], metric: str) -> float | None:
    """The mean of a metric over the runs; None if not all of them have it."""
    values = _values(runs, metric)
    return statistics.fmean(values) if values else None


def numbers(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Name and value of every metric that all runs have, the main one of the test rows first."""
    main = main_metric(runs[0])
    names = [name for name in runs[0]["metrics"] if name.split("_")[0] in SPLITS and not name.endswith(TIMES)]
    names.sort(key=lambda name: (SPLITS.index(name.split("_")[0]), name.split("_", 1)[1] != main))
    known = [(name, _values(runs, name)) for name in [*names, "train_loss"]]
    return [(escaped(name.replace("_", " ")), spread(values, digits=2 if "perplexity" in name else 4)) for name, values in known if values]


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


def _values(runs: Sequence[Run], metric: str) -> list[float]:
    """The metric of every run; empty if not all of them have it."""
    values = [metric_of(run, metric) for run in runs]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []
