"""How far explanations of a model can be trusted: several methods by several measures, over many texts, in one batched run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
import transformers
from tqdm.auto import tqdm

from ..attribution.evaluation import check_attentions, evaluating, name_of, unwrapped
from ..attribution.examining import METHODS, Examined, Request, examine
from ..attribution.gradients import baseline_token
from ..inputs.encoding import PIXELS
from .metrics import MEASURES, Array, Subject
from .perturbation import Case, Copy, Eraser
from .report import FaithfulnessReport, summarised

COMPARED = ("weights", "oriented", "contributions", "rollout", "integrated_gradients", "random")
CONTROL = "random"
# Explaining a text is half of its work, and so are its copies: whole texts are shown.
BAR = "{l_bar}{bar}| {n:.0f}/{total_fmt} texts [{elapsed}<{remaining}]"
# Texts whose copies are gathered before they are run, so that batches of equal length fill.
TOGETHER = 32


@dataclass(frozen=True)
class Options:
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
    model: Any,
    tokenizer: Any,
    texts: Sequence[Any],
    methods: tuple[str, ...] = COMPARED,
    measures: tuple[str, ...] | None = None,
    *,
    targets: Sequence[int | str | None] | None = None,
    processor: Any = None,
    layers: Any = None,
    batch_size: int = 32,
    seed: int = 0,
    removal: str = "deletion",
    draws: int = 20,
    max_length: int | None = None,
    steps: int = 32,
    progress: bool = True,
) -> FaithfulnessReport:
    """Measure how truly methods explain a model, TanhMax or softmax; `measures` has the definitions.

    Copies that several methods or measures need are run once, in full batches over several texts. The result does not depend on the
    batch size beyond rounding, and random numbers come from the seed alone.

    Args:
        model: as for `explain`.
        tokenizer: of the model; None for pictures.
        texts: texts, or whatever else `explain` takes as inputs.
        methods: scores to compare, of `explain`'s, and `"random"`: normal numbers, which show what chance achieves.
        measures: names, of `measures.MEASURES`; None is all that the inputs allow, as nothing can be deleted from a picture.
        targets: one for each text; None explains what the model predicts.
        processor: image processor, for PIL images.
        layers: attention layers that are explained, erased and shuffled; None is all.
        batch_size: copies that go through the model together.
        seed: of random scores, shuffles, random weights and the bootstrap.
        removal: how comprehensiveness and sufficiency take positions away, `"deletion"` or `"mask"`; pictures have only `"mask"`.
        draws: shuffled and random copies of each text.
        max_length: cuts longer texts.
        steps: of integrated gradients.
        progress: whether to show a bar.

    Raises:
        ValueError, TypeError, ImportError: as `explain`, with the index of the text; or options that do not exist.
    """
    if isinstance(texts, str) or not len(texts):
        raise ValueError("texts must be a list of at least one text")
    options = Options(_possible(texts) if measures is None else measures, batch_size, seed, removal, draws)
    targets = [None] * len(texts) if targets is None else list(targets)
    if len(targets) != len(texts):
        raise ValueError(f"there are {len(targets)} targets for {len(texts)} texts; give one for each, or None")
    model = unwrapped(model)
    shown, baseline = check_attentions(model, layers), baseline_token(model, tokenizer)
    request = Request(_explained(methods), shown, baseline, tokenizer, processor, None, max_length, steps)
    run = _Run(model, request, options, methods)
    with evaluating(model), tqdm(total=len(texts), unit="text", bar_format=BAR, disable=not progress) as bar:
        run.measure_all(texts, targets, bar)
    return run.report(len(texts))


def _possible(texts: Sequence[Any]) -> tuple[str, ...]:
    pictures = any(hasattr(text, "mode") or (isinstance(text, Mapping) and PIXELS in text) for text in texts)
    return tuple(name for name in MEASURES if not (pictures and name.startswith("deletion_") and name.endswith("tau")))


def _explained(methods: tuple[str, ...]) -> tuple[str, ...]:
    """The methods that `explain` computes; at least one, as a pass finds the target too."""
    if isinstance(methods, str) or not methods:
        raise ValueError(f"methods must be a tuple of names, of {', '.join((*METHODS, CONTROL))}")
    return tuple(method for method in methods if method != CONTROL) or ("weights",)


class _Run:
    """Collects values text by text."""

    def __init__(self, model: Any, request: Request, options: Options, methods: tuple[str, ...]) -> None:
        self.model, self.request, self.options, self.methods = model, request, options, methods
        self.signed: tuple[bool, ...] = ()
        self.copies = 0
        self.values: dict[tuple[str, str], dict[int, float]] = {}

    def measure_all(self, texts: Sequence[Any], targets: Sequence[Any], bar: Any) -> None:
        """Measure all texts, short ones first, some at a time."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]) if isinstance(texts[index], str) else 0)
        for start in range(0, len(order), TOGETHER):
            together = order[start : start + TOGETHER]
            self.measure({index: texts[index] for index in together}, {index: targets[index] for index in together}, bar)

    def measure(self, texts: dict[int, Any], targets: dict[int, Any], bar: Any) -> None:
        """Explain some texts, run all the copies that they need, and keep the value of every measure."""
        cases, wanted = {}, []
        for index, text in texts.items():
            examined = self._examine(index, text, targets[index])
            cases[index] = Case(examined.encoded, examined.seen.target, examined.grid)
            removal = "mask" if PIXELS in examined.encoded.inputs else self.options.removal
            subject = Subject(index, examined.encoded.places, removal, self.options.draws)
            wanted.append((subject, self._scores(index, examined)))
            bar.update(0.5)
        needed = dict.fromkeys(copy for subject, scores in wanted for copy in self._needed(subject, scores))
        eraser = Eraser(
            self.model,
            cases,
            layers=self.request.layers,
            baseline=self.request.baseline,
            batch_size=self.options.batch_size,
            seed=self.options.seed,
            progress=lambda done: bar.update(0.5 * len(texts) * done / len(needed)),
        )
        found = {copy: _sigmoid(odds) for copy, odds in eraser.log_odds(needed).items()}
        self.copies += len(found)
        for subject, scores in wanted:
            for measure, method in self._pairs():
                value = MEASURES[measure].value(subject, scores[method or self.methods[0]], found.__getitem__)
                self.values.setdefault((measure, method), {})[subject.case] = value

    def report(self, count: int) -> FaithfulnessReport:
        """What all texts came to."""
        values: dict[str, dict[str, tuple[float, ...]]] = {}
        for (measure, method), found in self.values.items():
            values.setdefault(measure, {})[method] = tuple(found[index] for index in range(count))
        cells = {name: {method: summarised(found, self.options.seed) for method, found in of.items()} for name, of in values.items()}
        settings = {
            "texts": count,
            "copies": self.copies,
            "layers": self.request.layers,
            "seed": self.options.seed,
            "removal": self.options.removal,
            "draws": self.options.draws,
            "steps": self.request.steps,
            "max_length": self.request.max_length,
            "baseline": self.request.baseline,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        return FaithfulnessReport(name_of(self.model), self.signed, tuple(self.methods), self.options.measures, values, cells, settings)

    def _examine(self, index: int, text: Any, target: Any) -> Examined:
        try:
            found = examine(self.model, text, target, self.request)
        except (TypeError, ValueError) as error:
            raise type(error)(f"text {index}: {error}") from error
        if not found.encoded.places:
            raise ValueError(f"text {index} has no token that is not special, so nothing can be erased")
        self.signed = found.seen.signed
        return found

    def _scores(self, index: int, examined: Examined) -> dict[str, Array]:
        places = list(examined.encoded.places)
        chance = numpy.random.default_rng([self.options.seed, index]).standard_normal(len(places))
        given = {method: scores[places].double().numpy() for method, scores in examined.scores.items()}
        return {method: chance if method == CONTROL else given[method] for method in self.methods}

    def _pairs(self) -> list[tuple[str, str]]:
        return [(measure, method) for measure in self.options.measures for method in ("",) * MEASURES[measure].of_model or self.methods]

    def _needed(self, subject: Subject, scores: dict[str, Array]) -> list[Copy]:
        pairs = ((MEASURES[measure], method or self.methods[0]) for measure, method in self._pairs())
        return [subject.whole, *(copy for measure, method in pairs for copy in measure.copies(subject, scores[method]))]


def _sigmoid(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))
