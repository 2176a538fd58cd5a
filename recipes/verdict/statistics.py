"""Paired tests of a map and softmax over seeds and rows, and Holm's correction for several comparisons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95  # of intervals
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A map less softmax.

    Attributes:
        mean: over seeds.
        low, high: its interval of 95 % over seeds (t); both the mean if there is one seed.
        p_seeds, p_rows: of t-tests over seeds and over rows, two-sided; the second is None where there are no rows.
        n: seeds.
    """

    mean: float
    low: float
    high: float
    p_seeds: float
    p_rows: float | None
    n: int

    @property
    def p(self) -> float:
        """The larger one: a difference must hold beyond the seeds and beyond the rows."""
        return self.p_seeds if self.p_rows is None else max(self.p_seeds, self.p_rows)


def paired(seeds: Sequence[float], rows: Array | None = None) -> Difference:
    """The difference of a map and softmax.

    Args:
        seeds: of each seed.
        rows: of each row, mean over seeds.

    Raises:
        ValueError: no seed.
    """
    if not len(seeds):
        raise ValueError("there is no seed of which both models are there")
    values = np.asarray(seeds, dtype=float)
    mean, half = float(values.mean()), 0.0
    if len(values) > 1:
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Difference(mean, mean - half, mean + half, t_test(values), None if rows is None else t_test(rows), len(values))


def t_test(values: Array) -> float:
    """Two-sided p that the mean is 0; 1 of fewer than two values, if all are 0, or if one is no number, as a loss that diverged."""
    if len(values) < 2 or not values.any() or not np.isfinite(values).all():
        return 1.0
    deviation = values.std(ddof=1)
    if deviation <= 1e-12 * abs(values.mean()):
        return 0.0
    t = values.mean() / (deviation / math.sqrt(len(values)))
    return float(2 * stats.t.sf(abs(t), len(values) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p of each of several comparisons (Holm 1979), in their order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected
