"""How far explanations of a model can be trusted: several methods by several measures, over many texts, in one batched run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
import torch
import transformers
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...choices import CONTROL, METHODS
from ..attribution.evaluation_mode import display_name, evaluation_mode, resolve_layers, unwrap
from ..attribution.integrated_gradients import baseline_token
from ..attribution.methods import Attribution, AttributionOptions, attribute
from ..inputs.encoding import PIXELS, ImageProcessor, ModelInput
from .metrics import MEASURES, Array, MeasuredExample
from .perturbation import Example, Perturbation, PerturbationRunner
from .report import FaithfulnessReport, mean_with_interval

DEFAULT_METHODS = ("weights", "oriented", "contributions", "rollout", "integrated_gradients", "random")
# A text is half done when it is explained, and done when its copies are; the bar counts whole texts.
BAR_FORMAT = "{l_bar}{bar}| {n:.0f}/{total_fmt} texts [{elapsed}<{remaining}]"
# Texts whose copies are gathered before they are run, so that batches of equal length fill.
TEXTS_PER_CHUNK = 32


@dataclass(frozen=True)
class EvaluationOptions:
    """Arguments of `faithfulness` that say how to measure, checked.

    Raises:
        ValueError: a measure or removal that does not exist, or a number that is not positive.
    """

    measures: tuple[str, ...]
    batch_size: int
    seed: int
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


def faithfulness(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    texts: Sequence[ModelInput],
    methods: tuple[str, ...] = DEFAULT_METHODS,
    measures: tuple[str, ...] | None = None,
    *,
    targets: Sequence[int | str | None] | None = None,
    processor: ImageProcessor | None = None,
    layers: int | Sequence[int] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    removal: str = "deletion",
    draws: int = 20,
    max_length: int | None = None,
    steps: int = 32,
    progress: bool = True,
) -> FaithfulnessReport:
    """Measure how faithful the scores of several methods are to a model, TanhMax or softmax; `metrics` defines the measures.

    Perturbed copies that several methods or measures need are run once, in full batches over several texts. The result does not depend on
    the batch size beyond rounding, and random numbers come from the seed alone.

    Args:
        model: as for `explain`.
        tokenizer: of the model; None for images.
        texts: texts, or whatever else `explain` takes as inputs.
        methods: scores to compare, of `METHODS`, and `"random"`: normal numbers, which show what chance achieves.
        measures: names, of `MEASURES`; None is all that the inputs allow, as nothing can be deleted from an image.
        targets: one per text; None explains what the model predicts.
        processor: image processor, for PIL images.
        layers: attention layers that are explained, erased and shuffled; None is all.
        batch_size: copies per forward pass.
        seed: of random scores, shuffles, random weights and the bootstrap.
        removal: how comprehensiveness and sufficiency take positions away, `"deletion"` or `"mask"`; images have only `"mask"`.
        draws: shuffled and random copies per text.
        max_length: cuts longer texts.
        steps: of integrated gradients.
        progress: whether to show a bar.

    Raises:
        ValueError, TypeError, ImportError: as `explain`, with the index of the text; or options that do not exist.
    """
    if isinstance(texts, str) or not len(texts):
        raise ValueError("texts must be a list of at least one text")
    evaluation_options = EvaluationOptions(_available_measures(texts) if measures is None else measures, batch_size, seed, removal, draws)
    targets = [None] * len(texts) if targets is None else list(targets)
    if len(targets) != len(texts):
        raise ValueError(f"there are {len(targets)} targets for {len(texts)} texts; give one for each, or None")
    inner = unwrap(model)
    indices, baseline = resolve_layers(inner, layers), baseline_token(inner, tokenizer)
    attribution_options = AttributionOptions(
        _computed(methods), indices, baseline, tokenizer, processor, None, max_length, steps, layers is None
    )
    with evaluation_mode(inner), tqdm(total=len(texts), unit="text", bar_format=BAR_FORMAT, disable=not progress) as bar:
        evaluation = _Evaluation(inner, methods, attribution_options, evaluation_options, bar)
        evaluation.measure_all(texts, targets)
    return evaluation.report(len(texts))


def _available_measures(texts: Sequence[ModelInput]) -> tuple[str, ...]:
    images = any(hasattr(text, "mode") or (isinstance(text, Mapping) and PIXELS in text) for text in texts)
    return tuple(name for name in MEASURES if not (images and name.startswith("deletion_") and name.endswith("tau")))


def _computed(methods: tuple[str, ...]) -> tuple[str, ...]:
    """The methods that `attribute` computes; at least one, as that finds the target too."""
    if isinstance(methods, str) or not methods:
        raise ValueError(f"methods must be a tuple of names, of {', '.join((*METHODS, CONTROL))}")
    return tuple(method for method in methods if method != CONTROL) or ("weights",)


class _Evaluation:
    """Collects the values of every measure and method, text by text."""

    def __init__(
        self,
        model: PreTrainedModel,
        methods: tuple[str, ...],
        attribution_options: AttributionOptions,
        options: EvaluationOptions,
        bar: tqdm,
    ) -> None:
        self.model, self.methods, self.attribution_options, self.options, self.bar = model, methods, attribution_options, options, bar
        self.signed: tuple[bool, ...] = ()
        self.copies = 0
        self.values: dict[tuple[str, str], dict[int, float]] = {}

    def measure_all(self, texts: Sequence[ModelInput], targets: Sequence[int | str | None]) -> None:
        """Measure all texts, short ones first, a chunk at a time."""
        lengths = [len(text) if isinstance(text, str) else 0 for text in texts]
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        for start in range(0, len(order), TEXTS_PER_CHUNK):
            self.measure({index: (texts[index], targets[index]) for index in order[start : start + TEXTS_PER_CHUNK]})

    def measure(self, texts: dict[int, tuple[ModelInput, int | str | None]]) -> None:
        """Explain some texts with their targets, run all the copies that they need, and keep the value of every measure."""
        examples: dict[int, Example] = {}
        measured: list[tuple[MeasuredExample, dict[str, Array]]] = []
        for index, (text, target) in texts.items():
            attribution = self._attribute(index, text, target)
            encoded = attribution.encoded
            examples[index] = Example(encoded, attribution.result.target, attribution.grid)
            removal = "mask" if encoded.is_image else self.options.removal
            example = MeasuredExample(index, encoded.content_positions, removal, self.options.draws)
            measured.append((example, self._scores(example, attribution)))
            self.bar.update(0.5)
        copies = dict.fromkeys(copy for example, scores in measured for copy in self._copies(example, scores))
        runner = PerturbationRunner(
            self.model,
            examples,
            layers=self.attribution_options.layers,
            baseline=self.attribution_options.baseline,
            batch_size=self.options.batch_size,
            seed=self.options.seed,
            progress=lambda done: self.bar.update(0.5 * len(texts) * done / len(copies)),
        )
        probabilities = {copy: _sigmoid(log_odds) for copy, log_odds in runner.log_odds(copies).items()}
        self.copies += len(probabilities)
        for example, scores in measured:
            for measure, method in self._pairs():
                value = MEASURES[measure].value(example, scores[method or self.methods[0]], probabilities.__getitem__)
                self.values.setdefault((measure, method), {})[example.index] = value

    def report(self, count: int) -> FaithfulnessReport:
        """Values and means of all texts."""
        values: dict[str, dict[str, tuple[float, ...]]] = {}
        for (measure, method), by_text in self.values.items():
            values.setdefault(measure, {})[method] = tuple(by_text[index] for index in range(count))
        cells = {
            measure: {method: mean_with_interval(per_text, self.options.seed) for method, per_text in by_method.items()}
            for measure, by_method in values.items()
        }
        settings = {
            "texts": count,
            "copies": self.copies,
            "layers": self.attribution_options.layers,
            "seed": self.options.seed,
            "removal": self.options.removal,
            "draws": self.options.draws,
            "steps": self.attribution_options.steps,
            "max_length": self.attribution_options.max_length,
            "baseline": self.attribution_options.baseline,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        name = display_name(self.model)
        return FaithfulnessReport(name, self.signed, tuple(self.methods), self.options.measures, values, cells, settings)

    def _attribute(self, index: int, text: ModelInput, target: int | str | None) -> Attribution:
        try:
            attribution = attribute(self.model, text, target, self.attribution_options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"text {index}: {error}") from error
        if not attribution.encoded.content_positions:
            raise ValueError(f"text {index} has no token that is not special, so nothing can be erased")
        self.signed = attribution.result.signed
        return attribution

    def _scores(self, example: MeasuredExample, attribution: Attribution) -> dict[str, Array]:
        positions = list(example.positions)
        random = numpy.random.default_rng([self.options.seed, example.index]).standard_normal(len(positions))
        computed = {method: scores[positions].double().numpy() for method, scores in attribution.scores.items()}
        return {method: random if method == CONTROL else computed[method] for method in self.methods}

    def _pairs(self) -> list[tuple[str, str]]:
        """Measures with each method, or with "" where the measure is of the model."""
        return [(measure, method) for measure in self.options.measures for method in ("",) * MEASURES[measure].of_model or self.methods]

    def _copies(self, example: MeasuredExample, scores: dict[str, Array]) -> list[Perturbation]:
        pairs = ((MEASURES[measure], method or self.methods[0]) for measure, method in self._pairs())
        return [example.original, *(copy for measure, method in pairs for copy in measure.copies(example, scores[method]))]


def _sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds)) if log_odds >= 0 else math.exp(log_odds) / (1 + math.exp(log_odds))
