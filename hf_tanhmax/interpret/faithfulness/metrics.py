r"""Measures of how truly scores tell what a model does: which changed copies of an input each needs, and its value from them.

With p the target's probability, p(-E) that of a copy with the positions E erased, s the scores of the n positions that can be erased:

* `attention_tau`, `mask_tau`, `deletion_tau`: Kendall's tau-b of :math:`s_j` and the effect :math:`p - p(-j)`, erased as `erasing` defines
  it; `..._abs_tau`: of their absolute values. Huang, Yang and Wang 2024 measure these by attention in a model of one layer.
* `sign_agreement`: the share of positions whose score has the sign of their effect (by attention; effects of 0 are left out).
* `comprehensiveness`: mean of p - p(-E) over E = the top 1, 5, 10, 20 and 50 % of the positions by score, rounded up (DeYoung et al. 2020,
  ERASER, area over the perturbation curve); `sufficiency`: the same where all positions but E are erased.
* `deletion_auc`, `insertion_auc`: area under p while positions are masked from the highest score to the lowest, or unmasked from nothing
  (Petsiuk, Das and Saenko 2018), at tenths of n.
* `permutation`, `random`: median of |p - p'| over copies whose weights are shuffled or random (Huang, Yang and Wang 2024); of the model, as
  no scores enter. Near 0 the weights do not matter.

Special tokens are never erased and never counted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from ...errors import optional_package
from .perturbation import Copy

Array = NDArray[numpy.float64]
Lookup = Callable[[Copy], float]
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)
TENTHS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class Subject:
    """One input as it is measured.

    Attributes:
        case: its index.
        units: the positions that can be erased.
        removal: how comprehensiveness and sufficiency erase, `"deletion"` or `"mask"`.
        draws: random copies.
    """

    case: int
    units: tuple[int, ...]
    removal: str = "deletion"
    draws: int = 20

    @property
    def whole(self) -> Copy:
        """The input as it is."""
        return Copy(self.case, "mask")

    def without(self, way: str, *units: int) -> Copy:
        """The input without some of its units, given by their index into `units`."""
        return Copy(self.case, way, frozenset(self.units[unit] for unit in units))


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        title: for tables.
        better: `"higher"`, `"lower"`, or "" where neither is.
        copies: which copies it needs, for a subject and its scores `[units]`.
        value: the measure, from the probability of each copy; NaN where it is not defined.
        of_model: whether it is the same for all scores.
    """

    title: str
    better: str
    copies: Callable[[Subject, Array], list[Copy]]
    value: Callable[[Subject, Array, Lookup], float]
    of_model: bool = False


def _ranked(way: str, absolute: bool) -> Measure:
    def _value(subject: Subject, scores: Array, probability: Lookup) -> float:
        effects = _effects(subject, way, probability)
        if absolute:
            scores, effects = abs(scores), abs(effects)
        if len(scores) < 2:
            return math.nan
        return float(optional_package("scipy.stats", "rank correlations").kendalltau(scores, effects).statistic)

    return Measure(f"{way} {'absolute ' if absolute else ''}tau", "higher", _singles(way), _value)


def _singles(way: str) -> Callable[[Subject, Array], list[Copy]]:
    return lambda subject, _: [subject.without(way, unit) for unit in range(len(subject.units))]


def _effects(subject: Subject, way: str, probability: Lookup) -> Array:
    whole = probability(subject.whole)
    return numpy.array([whole - probability(subject.without(way, unit)) for unit in range(len(subject.units))])


def _agreement(subject: Subject, scores: Array, probability: Lookup) -> float:
    effects = _effects(subject, "attention", probability)
    moved = effects != 0
    return float((numpy.sign(scores) == numpy.sign(effects))[moved].mean()) if moved.any() else math.nan


def _eraser(kept: bool) -> Measure:
    def _copies(subject: Subject, scores: Array) -> list[Copy]:
        order, count = _order(scores), len(scores)
        tops = [math.ceil(share * count) for share in BINS]
        return [subject.without(subject.removal, *(order[top:] if kept else order[:top])) for top in tops]

    def _value(subject: Subject, scores: Array, probability: Lookup) -> float:
        found = [probability(copy) for copy in _copies(subject, scores)]
        return probability(subject.whole) - float(numpy.mean(found))

    return Measure("sufficiency" if kept else "comprehensiveness", "lower" if kept else "higher", _copies, _value)


def _curve(inserted: bool) -> Measure:
    def _steps(scores: Array) -> list[int]:
        return sorted({round(tenth * len(scores)) for tenth in TENTHS})

    def _copies(subject: Subject, scores: Array) -> list[Copy]:
        order = _order(scores)
        return [subject.without("mask", *(order[top:] if inserted else order[:top])) for top in _steps(scores)]

    def _value(subject: Subject, scores: Array, probability: Lookup) -> float:
        heights = [probability(copy) for copy in _copies(subject, scores)]
        return float(optional_package("scipy.integrate", "areas").trapezoid(heights, [step / len(scores) for step in _steps(scores)]))

    name = "insertion" if inserted else "deletion"
    return Measure(f"{name} AUC", "higher" if inserted else "lower", _copies, _value)


def _replaced(way: str) -> Measure:
    def _copies(subject: Subject, _: Array) -> list[Copy]:
        return [Copy(subject.case, way, draw=draw) for draw in range(subject.draws)]

    def _value(subject: Subject, scores: Array, probability: Lookup) -> float:
        whole = probability(subject.whole)
        return float(numpy.median([abs(whole - probability(copy)) for copy in _copies(subject, scores)]))

    return Measure(f"{way} median", "", _copies, _value, of_model=True)


def _order(scores: Array) -> list[int]:
    """Units from the highest score to the lowest, equal ones in order of position."""
    return [int(unit) for unit in numpy.argsort(-scores, kind="stable")]


MEASURES: dict[str, Measure] = {
    **{f"{way}{'_abs' * absolute}_tau": _ranked(way, bool(absolute)) for way in ("attention", "mask", "deletion") for absolute in (0, 1)},
    "sign_agreement": Measure("sign agreement", "higher", _singles("attention"), _agreement),
    "comprehensiveness": _eraser(kept=False),
    "sufficiency": _eraser(kept=True),
    "deletion_auc": _curve(inserted=False),
    "insertion_auc": _curve(inserted=True),
    "permutation": _replaced("permutation"),
    "random": _replaced("random"),
}
