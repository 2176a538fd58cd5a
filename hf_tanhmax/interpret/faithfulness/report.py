"""The report of faithfulness: every example's values, their means with intervals, a table and JSON."""

import json
import math
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy

from ...errors import optional_package
from ...results import table
from .metrics import MEASURES

LEVEL, RESAMPLES = 0.95, 2000
ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


@dataclass(frozen=True)
class Cell:
    """A mean over examples, with a bootstrap interval of 95 %; n examples in which the measure is defined. None where it is not known."""

    mean: float | None
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}{interval}"


@dataclass(frozen=True)
class FaithfulnessReport:
    """Faithfulness of several methods by several measures.

    Attributes:
        model: the model's name.
        signed: per explained layer, whether it computes TanhMax.
        methods: names of scores.
        measures: names of measures, of `MEASURES`.
        values: by measure and method, one value per text, NaN where it is not defined; measures of the model have the one method "".
        cells: by measure and method, the mean of `values` and its interval.
        settings: arguments of the run, `copies`, the number of perturbed copies that were run, and versions.
    """

    model: str
    signed: tuple[bool, ...]
    methods: tuple[str, ...]
    measures: tuple[str, ...]
    values: dict[str, dict[str, tuple[float, ...]]]
    cells: dict[str, dict[str, Cell]]
    settings: dict[str, Any] = field(default_factory=dict)

    def table(self) -> str:
        """A Markdown table, methods by measures, mean and interval in each cell, and under it the measures of the model."""
        columns = [measure for measure in self.measures if not MEASURES[measure].of_model]
        header = ["method", *(MEASURES[measure].title + ARROWS[MEASURES[measure].better] for measure in columns)]
        rows = [[method, *(str(self.cells[measure][method]) for measure in columns)] for method in self.methods]
        return "\n".join([*([table(header, rows, markdown=True, align="left")] if columns else []), "", *self._notes()])

    def _notes(self) -> list[str]:
        cells = [(measure, method, cell) for measure, by_method in self.cells.items() for method, cell in by_method.items()]
        texts = max((len(values) for by_method in self.values.values() for values in by_method.values()), default=0)
        undefined = [f"{MEASURES[measure].title} of {method} in {cell.n}" for measure, method, cell in cells if method and cell.n < texts]
        kind = "TanhMax" if all(self.signed) else "TanhMax in part" if any(self.signed) else "softmax"
        lines = [f"{self.model} ({kind}), {texts} texts; mean over texts and a bootstrap interval of {LEVEL:.0%}."]
        lines += [f"{MEASURES[measure].title}: {cell}." for measure, method, cell in cells if not method]
        return lines + ([f"Not defined in every text: {'; '.join(undefined)}."] if undefined else [])

    def to_json(self) -> str:
        """Everything, as JSON; what is not defined is null, and values of single texts have six decimals."""
        values = {
            measure: {
                method: [None if math.isnan(value) else round(value, 6) for value in per_text] for method, per_text in by_method.items()
            }
            for measure, by_method in self.values.items()
        }
        return json.dumps({**asdict(self), "values": values})


def mean_with_interval(values: tuple[float, ...], seed: int) -> Cell:
    """Mean of the values that are numbers, and its percentile bootstrap interval (Efron 1979, by scipy).

    Args:
        values: one per example.
        seed: of the resampling.
    """
    defined = numpy.array([value for value in values if not math.isnan(value)])
    if len(defined) == 0:
        return Cell(None, None, None, 0)
    if len(defined) == 1:
        return Cell(float(defined[0]), None, None, 1)
    stats = optional_package("scipy.stats", "bootstrap intervals")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (defined,), numpy.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="percentile", rng=numpy.random.default_rng(seed)
        ).confidence_interval
    return Cell(float(defined.mean()), float(interval.low), float(interval.high), len(defined))
