"""The values of every measure and method for some texts: explained, perturbed, and run in one batched pass for all methods and seeds."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy
from transformers import PreTrainedModel

from ...choices import CONTROL, METHODS
from ..attribution.methods import Attribution, AttributionOptions, attribute
from ..inputs.encoding import PIXELS, ModelInput
from .metrics import MEASURES, Array, MeasuredExample
from .perturbation import Example, Perturbation, PerturbationRunner

# Texts whose copies are gathered before they are run, so that batches of equal length fill.
TEXTS_PER_CHUNK = 32
OF_MODEL = ""  # stands for the method of measures that are of the model
SEEDED_METHODS = frozenset({CONTROL})  # whose scores are drawn
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
    """

    def __init__(self, model: PreTrainedModel, attribution: AttributionOptions, options: EvaluationOptions) -> None:
        self.model, self.attribution, self.options = model, attribution, options
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
        explained: dict[int, Attribution] = {}
        for index, (text, target) in texts.items():
            explained[index] = self._attribute(index, text, target, computed(job.method for job in jobs))
            progress(0.5)
        examples = {index: Example(found.encoded, found.result.target, found.grid) for index, found in explained.items()}
        cases = [(job, self._example(index, found, job.seed), found) for index, found in explained.items() for job in jobs]
        scored = [(job, example, _scores(job, example, found)) for job, example, found in cases]
        copies = dict.fromkeys(copy for case in scored for copy in _copies(*case))
        runner = PerturbationRunner(
            self.model,
            examples,
            layers=self.attribution.layers,
            baseline=self.attribution.baseline,
            batch_size=self.options.batch_size,
            progress=lambda done: progress(0.5 * len(texts) * done / len(copies)),
        )
        probabilities = {copy: _sigmoid(log_odds) for copy, log_odds in runner.log_odds(copies).items()}
        values: dict[Job, dict[str, dict[int, float]]] = {job: {measure: {} for measure in job.measures} for job in jobs}
        for job, example, scores in scored:
            for measure in job.measures:
                values[job][measure][example.index] = MEASURES[measure].value(example, scores, probabilities.__getitem__)
        return Measured(values, {index: found.result.target.index for index, found in explained.items()}, len(copies))

    def with_methods(self, methods: tuple[str, ...]) -> AttributionOptions:
        """How texts are explained by some methods."""
        return replace(self.attribution, methods=methods)

    def _attribute(self, index: int, text: ModelInput, target: int | str | None, methods: tuple[str, ...]) -> Attribution:
        try:
            attribution = attribute(self.model, text, target, self.with_methods(methods))
        except (TypeError, ValueError) as error:
            raise type(error)(f"text {index}: {error}") from error
        if not attribution.encoded.content_positions:
            raise ValueError(f"text {index} has no token that is not special, so nothing can be erased")
        self.signed = attribution.result.signed
        return attribution

    def _example(self, index: int, attribution: Attribution, seed: int) -> MeasuredExample:
        removal = "mask" if attribution.encoded.is_image else self.options.removal
        return MeasuredExample(index, attribution.encoded.content_positions, removal, self.options.draws, seed)


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


def _scores(job: Job, example: MeasuredExample, attribution: Attribution) -> Array:
    """Scores of the positions that can be erased; of a measure of the model any, as they do not enter."""
    if job.method in (CONTROL, OF_MODEL):
        return numpy.random.default_rng([job.seed, example.index]).standard_normal(len(example.positions))
    return attribution.scores[job.method][list(example.positions)].double().numpy()


def _copies(job: Job, example: MeasuredExample, scores: Array) -> list[Perturbation]:
    return [example.original, *(copy for measure in job.measures for copy in MEASURES[measure].copies(example, scores))]


def _sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds)) if log_odds >= 0 else math.exp(log_odds) / (1 + math.exp(log_odds))
