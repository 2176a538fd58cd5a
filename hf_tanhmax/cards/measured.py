"""Metrics of a recipe's runs for the model card: means and standard deviations over their seeds."""

import statistics
from collections.abc import Sequence

from ..ablation import NegativesAblation
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


def verdict(runs: Sequence[Run], softmax: Sequence[Run], ablation: NegativesAblation | None) -> str | None:
    """What was measured in three sentences: the main metric beside that of softmax, whether negative weights are used, what it is good for.

    Args:
        runs: of the model.
        softmax: runs at the same budget on the same data; empty where there are none.
        ablation: of the model's negative weights, if it was measured.

    Returns:
        Plain Markdown; None where the runs have no main metric.
    """
    main = main_metric(runs[0])
    split = next((split for split in SPLITS if mean_of(runs, f"{split}_{main}") is not None), None)
    if split is None:
        return None
    name, digits = f"{split}_{main}", 2 if main == "perplexity" else 3
    own, other = _values(runs, name), _values(softmax, name) if softmax else []
    beside = f", against {statistics.fmean(other):.{digits}f} of softmax at the same budget" if other else ""
    used = "Whether its negative weights carry information was not measured"
    if ablation is not None:
        used = (
            "Its negative weights carry information"
            if ablation.matters
            else "That its negative weights carry information could not be shown"
        )
    first = f"{split.capitalize()} {escaped(main)} {statistics.fmean(own):.{digits}f}{beside}."
    return f"{first} {used}. {_use(runs, own, other, ablation)}"


def _use(runs: Sequence[Run], own: Sequence[float], other: Sequence[float], ablation: NegativesAblation | None) -> str:
    """What a model is good for: it is worse than softmax if its mean is, by more than the two standard deviations together.

    One run has no standard deviation, so it says nothing of which is better.
    """
    signs = ablation is not None and ablation.matters
    purpose = "to see what speaks against a prediction" if signs else "to study attention that may be negative"
    if not other:
        return f"Use it {purpose}; how softmax does at the same budget is not known."
    if min(len(own), len(other)) < 2:
        return f"Use it {purpose}; which of the two is better at the task is not known, as that takes several seeds of both."
    gap = statistics.fmean(own) - statistics.fmean(other)
    gap = gap if runs[0].get("higher_is_better", main_metric(runs[0]) != "perplexity") else -gap
    noise = statistics.stdev(own) + statistics.stdev(other)
    if gap < -noise:
        return f"Use it {purpose}; for the task alone softmax is better."
    return f"Use it {purpose}, or in the place of softmax."


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
