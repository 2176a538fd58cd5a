"""A mean over texts and its bootstrap interval."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from ...errors import optional_package

LEVEL, RESAMPLES = 0.95, 2000


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


def mean_with_interval(values: Sequence[float], seed: int) -> Cell:
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
