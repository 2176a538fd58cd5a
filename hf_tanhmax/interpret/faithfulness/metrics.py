r"""Faithfulness metrics of scores: which perturbed copies of an input each metric needs, and its value from their probabilities.

With p the target's probability, p(-E) that of a copy with the positions E erased, s the scores of the n positions that can be erased:

* `attention_tau`, `mask_tau`, `deletion_tau`: Kendall's tau-b of :math:`s_j` and the effect :math:`p - p(-j)`, erased as `perturbation`
  defines it; `..._abs_tau`: of their absolute values. Huang, Yang and Wang 2024 measure these by attention in a model of one layer.
* `sign_agreement`: the share of positions whose score has the sign of their effect (by attention; effects of 0 are left out).
* `comprehensiveness`: mean of p - p(-E) over E = the top 1, 5, 10, 20 and 50 % of the positions by score, rounded up (DeYoung et al. 2020,
  ERASER, area over the perturbation curve); `sufficiency`: the same where all positions but E are erased.
* `deletion_auc`, `insertion_auc`: area under p while positions are masked from the highest score to the lowest, or unmasked from nothing
  (Petsiuk, Das and Saenko 2018), at tenths of n.
* `soft_comprehensiveness`, `soft_sufficiency`: Soft-NC and Soft-NS of Zhao and Aletras 2023, with importances
  :math:`a_j = (s_j - \min s) / (\max s - \min s)` (1/2 where all scores are equal), p(r) the probability if every number of the embedding
  of position j (of the pixels of patch j) is retained with chance :math:`r_j` and else 0, and :math:`d(r) = \max(0, p - p(r))`:
  :math:`NC = d(1 - a) / d(0)` and :math:`NS = 1 - d(a) / d(0)`. Not defined where d(0), what erasing all does, is below 0.05.
* `pi_soft_comprehensiveness`, `pi_soft_sufficiency`: the same with the same expected share retained for every method, as Huang and Chan
  2026 (arXiv 2601.03089) ask, since scores with a large mean otherwise keep more of the text. Chances r of mean m are brought to the mean
  :math:`\pi` by :math:`r \pi / m` if :math:`m \ge \pi`, else by :math:`1 - (1 - r)(1 - \pi) / (1 - m)`, which keeps their order and stays
  in [0, 1] (this map is ours); and the mean is taken over :math:`\pi` = 1/4 and 3/4.
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
from .perturbation import Perturbation

Array = NDArray[numpy.float64]
Probability = Callable[[Perturbation], float]
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
TENTHS = tuple(step / 10 for step in range(11))
PIS = (0.25, 0.75)
SMALLEST_DROP = 0.05  # of p, by erasing all: what is below is no scale to measure by


@dataclass(frozen=True)
class MeasuredExample:
    """One input as it is measured.

    Attributes:
        index: of the input.
        positions: the positions that can be erased.
        removal: how comprehensiveness and sufficiency erase, `"deletion"` or `"mask"`.
        draws: number of random copies.
        seed: of random copies.
    """

    index: int
    positions: tuple[int, ...]
    removal: str = "deletion"
    draws: int = 20
    seed: int = 0

    @property
    def original(self) -> Perturbation:
        """The input as it is."""
        return Perturbation(self.index, "mask")

    def without(self, kind: str, *indices: int) -> Perturbation:
        """The input without some of its positions, given by their index into `positions`."""
        return Perturbation(self.index, kind, frozenset(self.positions[index] for index in indices))

    def retaining(self, chances: Array) -> Perturbation:
        """The input of which each position is retained with a chance, `[positions]`."""
        seed = self.seed if ((chances > 0) & (chances < 1)).any() else 0  # nothing is drawn where all chances are 0 or 1
        return Perturbation(self.index, "soft", frozenset(self.positions), seed=seed, retained=tuple(chances.tolist()))


@dataclass(frozen=True)
class Measure:
    """One metric.

    Attributes:
        title: for tables.
        better: `"higher"`, `"lower"`, or "" where neither is.
        copies: the perturbed copies that it needs for an example and its scores `[positions]`.
        value: the metric, from the probability of each copy; NaN where it is not defined.
        of_model: whether it is the same for all scores.
        of_seed: whether a seed enters, also where the scores have none.
        shared: the copies that it needs beside them, which are the same for all scores and seeds.
    """

    title: str
    better: str
    copies: Callable[[MeasuredExample, Array], list[Perturbation]]
    value: Callable[[MeasuredExample, Array, Probability], float]
    of_model: bool = False
    of_seed: bool = False
    shared: Callable[[MeasuredExample], list[Perturbation]] = lambda _: []


def _rank_correlation(kind: str, absolute: bool) -> Measure:
    def _value(example: MeasuredExample, scores: Array, probability: Probability) -> float:
        effects = _effects(example, kind, probability)
        if absolute:
            scores, effects = abs(scores), abs(effects)
        if len(scores) < 2:
            return math.nan
        return float(optional_package("scipy.stats", "rank correlations").kendalltau(scores, effects).statistic)

    return Measure(f"{kind} {'absolute ' if absolute else ''}tau", "higher", _none, _value, shared=_one_erased(kind))


def _none(_: MeasuredExample, __: Array) -> list[Perturbation]:
    return []


def _one_erased(kind: str) -> Callable[[MeasuredExample], list[Perturbation]]:
    return lambda example: [example.without(kind, index) for index in range(len(example.positions))]


def _effects(example: MeasuredExample, kind: str, probability: Probability) -> Array:
    original = probability(example.original)
    return numpy.array([original - probability(example.without(kind, index)) for index in range(len(example.positions))])


def _sign_agreement(example: MeasuredExample, scores: Array, probability: Probability) -> float:
    effects = _effects(example, "attention", probability)
    has_effect = effects != 0
    return float((numpy.sign(scores) == numpy.sign(effects))[has_effect].mean()) if has_effect.any() else math.nan


def _top_erased(kept: bool) -> Measure:
    def _copies(example: MeasuredExample, scores: Array) -> list[Perturbation]:
        order, count = _descending(scores), len(scores)
        tops = [math.ceil(share * count) for share in SHARES]
        return [example.without(example.removal, *(order[top:] if kept else order[:top])) for top in tops]

    def _value(example: MeasuredExample, scores: Array, probability: Probability) -> float:
        probabilities = [probability(copy) for copy in _copies(example, scores)]
        return probability(example.original) - float(numpy.mean(probabilities))

    return Measure("sufficiency" if kept else "comprehensiveness", "lower" if kept else "higher", _copies, _value)


def _curve(inserted: bool) -> Measure:
    def _counts(scores: Array) -> list[int]:
        return sorted({round(tenth * len(scores)) for tenth in TENTHS})

    def _copies(example: MeasuredExample, scores: Array) -> list[Perturbation]:
        order = _descending(scores)
        return [example.without("mask", *(order[top:] if inserted else order[:top])) for top in _counts(scores)]

    def _value(example: MeasuredExample, scores: Array, probability: Probability) -> float:
        probabilities = [probability(copy) for copy in _copies(example, scores)]
        return float(
            optional_package("scipy.integrate", "areas").trapezoid(probabilities, [count / len(scores) for count in _counts(scores)])
        )

    name = "insertion" if inserted else "deletion"
    return Measure(f"{name} AUC", "higher" if inserted else "lower", _copies, _value)


def _attention_replaced(kind: str) -> Measure:
    def _copies(example: MeasuredExample, _: Array) -> list[Perturbation]:
        return [Perturbation(example.index, kind, draw=draw, seed=example.seed) for draw in range(example.draws)]

    def _value(example: MeasuredExample, scores: Array, probability: Probability) -> float:
        original = probability(example.original)
        return float(numpy.median([abs(original - probability(copy)) for copy in _copies(example, scores)]))

    return Measure(f"{kind} median", "", _copies, _value, of_model=True, of_seed=True)


def _softly_erased(sufficiency: bool, pis: tuple[float, ...] = ()) -> Measure:
    def _nothing(example: MeasuredExample) -> Perturbation:
        return example.retaining(numpy.zeros(len(example.positions)))

    def _copies(example: MeasuredExample, scores: Array) -> list[Perturbation]:
        chances = importances(scores) if sufficiency else 1 - importances(scores)
        return [example.retaining(each) for each in ([with_mean(chances, pi) for pi in pis] or [chances])]

    def _value(example: MeasuredExample, scores: Array, probability: Probability) -> float:
        original = probability(example.original)
        whole = original - probability(_nothing(example))
        if whole < SMALLEST_DROP:
            return math.nan
        drop = float(numpy.mean([max(0.0, original - probability(copy)) for copy in _copies(example, scores)])) / whole
        return 1 - drop if sufficiency else drop

    title = f"{'pi-' * bool(pis)}soft {'NS' if sufficiency else 'NC'}"
    return Measure(title, "higher", _copies, _value, of_seed=True, shared=lambda example: [_nothing(example)])


def importances(scores: Array) -> Array:
    """Scores `[positions]` moved and scaled to [0, 1]; 1/2 where all are equal."""
    spread = numpy.ptp(scores)
    return (scores - scores.min()) / spread if spread else numpy.full(len(scores), 0.5)


def with_mean(chances: Array, pi: float) -> Array:
    """Chances `[positions]` in [0, 1] brought to a mean, in the same order and in [0, 1]."""
    mean = float(chances.mean())
    if mean >= pi:
        return chances * (pi / mean if mean else 0.0)
    return 1 - (1 - chances) * ((1 - pi) / (1 - mean))


def _descending(scores: Array) -> list[int]:
    """Indices from the highest score to the lowest, equal ones in order of position."""
    return [int(index) for index in numpy.argsort(-scores, kind="stable")]


MEASURES: dict[str, Measure] = {
    **{
        f"{kind}{'_abs' * absolute}_tau": _rank_correlation(kind, bool(absolute))
        for kind in ("attention", "mask", "deletion")
        for absolute in (0, 1)
    },
    "sign_agreement": Measure("sign agreement", "higher", _none, _sign_agreement, shared=_one_erased("attention")),
    "comprehensiveness": _top_erased(kept=False),
    "sufficiency": _top_erased(kept=True),
    "deletion_auc": _curve(inserted=False),
    "insertion_auc": _curve(inserted=True),
    **{
        f"{'pi_' * bool(pis)}soft_{'sufficiency' if sufficiency else 'comprehensiveness'}": _softly_erased(sufficiency, pis)
        for pis in ((), PIS)
        for sufficiency in (False, True)
    },
    "permutation": _attention_replaced("permutation"),
    "random": _attention_replaced("random"),
}
