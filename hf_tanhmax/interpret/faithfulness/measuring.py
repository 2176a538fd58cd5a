"""The values of every measure and method for some texts: explained, perturbed, and run in batches of all methods and seeds, or of each."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy
from torch import Tensor
from transformers import PreTrainedModel

from ...choices import CONTROL, METHODS, SAMPLED_METHODS
from ..attribution.methods import Attribution, AttributionOptions, attribute, scored_again
from ..inputs.encoding import PIXELS, ModelInput
from .metrics import MEASURES, Array, MeasuredExample
from .perturbation import Example, Perturbation, PerturbationRunner

# Texts whose copies are gathered before they are run, so that batches of equal length fill.
TEXTS_PER_CHUNK = 32
OF_MODEL = ""  # stands for the method of measures that are of the model
SEEDED_METHODS = frozenset({CONTROL, *SAMPLED_METHODS})  # whose scores are drawn
Targeted = tuple[ModelInput, int | str | None]


@dataclass(frozen=True)
class EvaluationOptions:
    """Arguments of `faithfulness` that say how to measure, checked.

    Raises:
        ValueError: a measure or removal that does not exist, or a number that is not positive.
    """

    measures: tuple[str, ...]
    batch_size: int
    removal: str
    draws: int

    def __post_init__(self) -> None:
        unknown = [measure for measure in self.measures if measure not in MEASURES]
        if isinstance(self.measures, str) or unknown or not self.measures:
            what = f"there is no measure {unknown[0]!r}" if unknown else "measures must be a tuple of names"
            raise ValueError(f"{what}; choose from {', '.join(MEASURES)}")
        if self.removal not in ("deletion", "mask"):
            raise ValueError(f'removal must be "deletion" or "mask", but is {self.removal!r}')
        for name in ("batch_size", "draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}")


class Job(NamedTuple):
    """What is measured of each text: some measures of one method with one seed."""

    method: str
    seed: int
    measures: tuple[str, ...]


class Measured(NamedTuple):
    """What came out for some texts: values by job and measure and text, what was explained of each text, and how many copies were run."""

    values: dict[Job, dict[str, dict[int, float]]]
    targets: dict[int, int]
    copies: int


class Measuring:
    """Measures texts of one model.

    Args:
        model: in evaluation mode.
        attribution: how texts are explained; the methods are those of the jobs.
        options: how to measure.
        apart: whether copies of one job alone are run by themselves. A copy's value has other last digits in another batch, so only then
            no value depends on what else is measured, and a run that goes on with other jobs gives what one run of all would.
    """

    def __init__(self, model: PreTrainedModel, attribution: AttributionOptions, options: EvaluationOptions, *, apart: bool = False) -> None:
        self.model, self.attribution, self.options, self.apart = model, attribution, options, apart
        self.signed: tuple[bool, ...] = ()

    def measure(self, texts: Mapping[int, Targeted], jobs: Sequence[Job], progress: Callable[[float], object]) -> Measured:
        """Explain some texts with their targets, run all the copies that they need, and take the value of every measure.

        Args:
            texts: by their index.
            jobs: what to measure.
            progress: called with the number of texts done, in parts.

        Raises:
            ValueError, TypeError, ImportError: as `explain`, with the index of the text.
        """
        explained: dict[int, _Explained] = {}
        for index, (text, target) in texts.items():
            explained[index] = self._attribute(index, text, target, jobs)
            progress(0.5)
        found = {index: each.attribution for index, each in explained.items()}
        examples = {index: Example(each.encoded, each.result.target, each.grid) for index, each in found.items()}
        scored = {job: [self._scored(index, each, job) for index, each in explained.items()] for job in jobs}
        runner = PerturbationRunner(
            self.model,
            examples,
            layers=self.attribution.layers,
            baseline=self.attribution.baseline,
            batch_size=self.options.batch_size,
            progress=lambda done: progress(0.5 * len(texts) * done / copies),
        )
        shared, own = _grouped(scored, apart=self.apart)
        copies = sum(map(len, (*shared, *own.values())))
        common = {copy: log_odds for group in shared for copy, log_odds in runner.log_odds(group).items()}
        values: dict[Job, dict[str, dict[int, float]]] = {job: {measure: {} for measure in job.measures} for job in jobs}
        for job, cases in scored.items():
            probabilities = {copy: _sigmoid(log_odds) for copy, log_odds in {**common, **runner.log_odds(own[job])}.items()}
            for example, scores in cases:
                for measure in job.measures:
                    values[job][measure][example.index] = MEASURES[measure].value(example, scores, probabilities.__getitem__)
        return Measured(values, {index: each.result.target.index for index, each in found.items()}, copies)

    def with_methods(self, methods: tuple[str, ...], *, seed: int = 0, positions: int = 0) -> AttributionOptions:
        """How texts of so many positions are explained; those methods that are sampled by a seed, at least two samples per position."""
        samples = max(self.attribution.samples, 2 * positions + 2)
        return replace(self.attribution, methods=methods, seed=seed, samples=samples)

    def _attribute(self, index: int, text: ModelInput, target: int | str | None, jobs: Sequence[Job]) -> "_Explained":
        """One pass, from which all methods score; those that are sampled once for each seed."""
        drawn = list(dict.fromkeys((job.method, job.seed) for job in jobs if job.method in SAMPLED_METHODS))
        methods = computed(job.method for job in jobs if job.method not in SAMPLED_METHODS)
        try:
            attribution = attribute(self.model, text, target, self.with_methods(methods))
            positions, sampled = len(attribution.encoded.content_positions), {}
            for method, seed in drawn:
                options = self.with_methods((method,), seed=seed, positions=positions)
                sampled[method, seed] = scored_again(self.model, attribution, method, options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"text {index}: {error}") from error
        if not attribution.encoded.content_positions:
            raise ValueError(f"text {index} has no token that is not special, so nothing can be erased")
        self.signed = attribution.result.signed
        return _Explained(attribution, sampled)

    def _scored(self, index: int, explained: "_Explained", job: Job) -> tuple[MeasuredExample, Array]:
        """A text as it is measured, and scores of the positions that can be erased; of a measure of the model any, as they do not enter."""
        encoded = explained.attribution.encoded
        removal = "mask" if encoded.is_image else self.options.removal
        example = MeasuredExample(index, encoded.content_positions, removal, self.options.draws, job.seed)
        if job.method in (CONTROL, OF_MODEL):
            return example, numpy.random.default_rng([job.seed, index]).standard_normal(len(example.positions))
        scores = explained.sampled.get((job.method, job.seed))
        scores = explained.attribution.scores[job.method] if scores is None else scores
        return example, scores[list(example.positions)].double().numpy()


class _Explained(NamedTuple):
    """One text: scores of all methods without a seed, and by method and seed those of the sampled ones."""

    attribution: Attribution
    sampled: dict[tuple[str, int], Tensor]


def chunks(texts: Sequence[ModelInput]) -> list[list[int]]:
    """Indices of texts, short ones first, in parts whose copies are run together."""
    lengths = [len(text) if isinstance(text, str) else 0 for text in texts]
    order = sorted(range(len(texts)), key=lengths.__getitem__)
    return [order[start : start + TEXTS_PER_CHUNK] for start in range(0, len(order), TEXTS_PER_CHUNK)]


def available_measures(texts: Sequence[ModelInput]) -> tuple[str, ...]:
    """The measures that inputs allow: nothing can be deleted from an image."""
    images = any(hasattr(text, "mode") or (isinstance(text, Mapping) and PIXELS in text) for text in texts)
    return tuple(name for name in MEASURES if not (images and name.startswith("deletion_") and name.endswith("tau")))


def computed(methods: Iterable[str]) -> tuple[str, ...]:
    """The methods that `attribute` computes; at least one, as that finds the target too."""
    return tuple(method for method in dict.fromkeys(methods) if method not in (CONTROL, OF_MODEL)) or METHODS[:1]


def _grouped(
    scored: Mapping[Job, list[tuple[MeasuredExample, Array]]], *, apart: bool
) -> tuple[list[list[Perturbation]], dict[Job, list[Perturbation]]]:
    """Copies that are run together: groups of those that several jobs may need, and those of each job alone."""
    measures = [name for name in MEASURES if any(name in job.measures for job in scored)]
    examples = list({example.index: example for cases in scored.values() for example, _ in cases}.values())
    groups = [[example.original for example in examples]]
    groups += [[copy for example in examples for copy in MEASURES[name].shared(example)] for name in measures]
    seen: set[Perturbation] = set()
    shared = []
    for group in groups:
        shared.append([copy for copy in dict.fromkeys(group) if copy not in seen])
        seen.update(group)
    own = {}
    for job, cases in scored.items():
        needed = (copy for example, scores in cases for measure in job.measures for copy in MEASURES[measure].copies(example, scores))
        own[job] = [copy for copy in dict.fromkeys(needed) if copy not in seen]
    if not apart:
        everything = dict.fromkeys(copy for group in (*shared, *own.values()) for copy in group)
        return [list(everything)], {job: [] for job in own}
    return shared, own


def _sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds)) if log_odds >= 0 else math.exp(log_odds) / (1 + math.exp(log_odds))
