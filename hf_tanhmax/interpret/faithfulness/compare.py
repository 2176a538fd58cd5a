"""Models compared by how faithful explanations of them are: the same methods, measures, texts and seeds, in one run that can be stopped."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm

from ...choices import ALL, CONTROL, METHODS, check_choice
from ...models.bundle import own_version
from ...processors import modality
from ..attribution.evaluation_mode import unwrap
from ..inputs.encoding import IDS, PIXELS, ModelInput, encode
from ..inputs.loading import Loaded
from .comparison import ComparedModel, FaithfulnessComparison, Seeds
from .heads import HeadAblation
from .measuring import OF_MODEL, EvaluationOptions, Measured, Targeted, available_measures, chunks
from .metrics import MEASURES
from .one_model import OneModel, Part, jobs_of
from .partial import PartialValues, fingerprint
from .perturbation import BAR_FORMAT, advance
from .workers import check_workers, results_of

# Erasure, deletion, comprehensiveness and sufficiency, hard and soft.
COMPARED = (
    *("attention_tau", "deletion_tau", "comprehensiveness", "sufficiency"),
    *("pi_soft_comprehensiveness", "pi_soft_sufficiency"),
)
HEAD = re.compile(r"(For[A-Z]\w*|LMHeadModel)$")  # in the name of a class, what it is for
HEAD_TEXTS = 32


@dataclass(frozen=True)
class ComparisonOptions:
    """Arguments of `compare_faithfulness` that say how to measure; the defaults are those of its command.

    Attributes:
        measures: names, of `MEASURES`; None is those of `COMPARED` that the inputs allow.
        seeds: how many, counted from 0, of random scores, sampled methods, soft perturbation and replaced attention.
        removal: as for `faithfulness`.
        batch_size: copies per forward pass.
        draws: shuffled and random copies per text.
        steps: of integrated gradients.
        samples: of KernelSHAP, the subsets to run; twice as many as positions where these are more.
        max_length: cuts longer texts.
        head_texts: of how many texts, from the first, every head is left out; 0 leaves that away.

    Raises:
        ValueError: a number that is not positive, or names that do not exist.
    """

    measures: tuple[str, ...] | None = None
    seeds: int = 5
    removal: str = "deletion"
    batch_size: int = 64
    draws: int = 5
    steps: int = 16
    samples: int = 64
    max_length: int | None = None
    head_texts: int = HEAD_TEXTS

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, but is {self.seeds}")
        if self.head_texts < 0:
            raise ValueError(f"head_texts must be 0 or more, but is {self.head_texts}")
        if self.measures is not None:
            check_choice("measure", self.measures, MEASURES)
        self.of(COMPARED)

    def of(self, measures: tuple[str, ...]) -> EvaluationOptions:
        """The same as `Measuring` takes it."""
        return EvaluationOptions(measures, self.batch_size, self.removal, self.draws)

    def to_dict(self) -> dict[str, object]:
        """What changes values, without how many seeds and heads were asked for."""
        names = ("removal", "draws", "steps", "samples", "max_length")
        return {name: getattr(self, name) for name in names}


def compare_faithfulness(
    models: Mapping[str, Loaded],
    texts: Sequence[ModelInput],
    methods: str | Sequence[str] = ALL,
    *,
    targets: Sequence[int | str | None] | None = None,
    options: ComparisonOptions | None = None,
    partial: Path | None = None,
    workers: int = 1,
    progress: bool = True,
) -> FaithfulnessComparison:
    """Measure how faithful explanations of several models are, by the same methods on the same texts, and compare them text by text.

    A method that a model cannot serve is named in the result with the reason, and the others are measured. Values that no seed enters are
    measured once. Every model explains what it predicts itself, unless targets are given.

    Args:
        models: two or more, by different names; the first is what the others are compared with.
        texts: texts, or whatever else `explain` takes as inputs.
        methods: scores to compare, or `"all"`: all of `METHODS`, and `"random"`.
        targets: one per text; None explains what the model predicts.
        options: how to measure.
        partial: a file for values of a run that is not finished; one that is there is gone on with, and it is removed at the end.
        workers: processes that share the work, each with as many of torch's threads as come to it; models must be on the CPU then. The
            values are those of one process with that many threads. A script that uses them needs `if __name__ == "__main__":`.
        progress: whether to show a bar.

    Raises:
        ValueError: fewer than two models, no texts, names that do not exist, models of different tasks or tokenizers, methods that none of
            the models can serve, a partial file of another run, or workers that are not positive or have models on another device.
        ValueError, TypeError, ImportError: as `explain`, with the index of the text.
    """
    options = ComparisonOptions() if options is None else options
    asked = (*METHODS, CONTROL) if methods == ALL else (methods,) if isinstance(methods, str) else tuple(methods)
    check_choice("method", asked, (*METHODS, CONTROL))
    given = _targeted(texts, targets)
    check_comparable(models, texts)
    check_workers(workers, models)
    measures = options.measures or tuple(name for name in COMPARED if name in available_measures(texts))
    about = {**options.to_dict(), "measures": measures, "targets": None if targets is None else [str(target) for target in targets]}
    known = PartialValues(partial, fingerprint({name: loaded.model for name, loaded in models.items()}, _told(texts), about))
    numbers = {"max_length": options.max_length, "steps": options.steps, "samples": options.samples}
    each = {name: OneModel(name, loaded, asked, options.of(measures), numbers) for name, loaded in models.items()}
    reasons = {name: one.unavailable(given[0]) for name, one in each.items()}
    if all(method in found for found in reasons.values() for method in asked):
        raise ValueError(f"none of the models can serve {', '.join(asked)}: {next(iter(reasons[next(iter(models))].values()))}")
    with tqdm(total=len(texts) * len(models), unit="text", bar_format=BAR_FORMAT, disable=not progress) as bar:
        parts = _missing(each, reasons, texts, given, known, options, measures)
        advance(bar, bar.total - sum(len(part.texts) for part in parts if part.jobs))
        _carry_out(parts, each, known, options, workers, bar)
    compared = tuple(_compared(one, reasons[name], known, options) for name, one in each.items())
    values = {model.name: _assembled(known, model, asked, measures, options.seeds, len(texts)) for model in compared}
    settings = {
        **about,
        "texts": len(texts),
        "seeds": options.seeds,
        "seconds": round(known.seconds, 1),
        "workers": workers,
        "versions": _versions(),
    }
    known.remove()
    return FaithfulnessComparison(compared, asked, measures, values, settings)


def _missing(
    models: Mapping[str, OneModel],
    reasons: Mapping[str, dict[str, str]],
    texts: Sequence[ModelInput],
    given: dict[int, Targeted],
    known: PartialValues,
    options: ComparisonOptions,
    measures: tuple[str, ...],
) -> list[Part]:
    """The parts of which something is not known yet, with that alone."""
    parts = []
    for name, one in models.items():
        jobs = jobs_of([method for method in one.methods if method not in reasons[name]], measures, options.seeds)
        for number, chunk in enumerate(chunks(texts)):
            missing = tuple(job for job in jobs if (name, job.method, job.seed, number) not in known.values)
            if missing:
                parts.append(Part(name, number, {index: given[index] for index in chunk}, missing))
        if options.head_texts and _note(name, options) not in known.notes:
            parts.append(Part(name, None, {index: given[index] for index in sorted(given)[: options.head_texts]}, ()))
    return parts


def _carry_out(
    parts: list[Part], models: Mapping[str, OneModel], known: PartialValues, options: ComparisonOptions, workers: int, bar: tqdm
) -> None:
    """Keep what every part gives as soon as it is there, with the time since the one before."""
    last = time.monotonic()
    for part, found in results_of(parts, models, workers, bar):
        now = time.monotonic()
        if isinstance(found, Measured):
            values = {(part.model, job.method, job.seed, part.number or 0): by_measure for job, by_measure in found.values.items()}
            known.add(values, {part.model: found.targets}, now - last)
        else:
            known.note(_note(part.model, options), found, now - last)
        last = now


def _compared(one: OneModel, unavailable: dict[str, str], known: PartialValues, options: ComparisonOptions) -> ComparedModel:
    targets, signed = known.targets.get(one.name, {}), one.measuring.signed
    kind = "TanhMax" if all(signed) else "TanhMax in part" if any(signed) else "softmax"
    ordered = tuple(targets[index] for index in sorted(targets))
    heads = HeadAblation.from_dict(known.notes[_note(one.name, options)]) if options.head_texts else None
    return ComparedModel(one.name, kind, len(signed), unavailable, ordered, heads)


def _note(name: str, options: ComparisonOptions) -> str:
    """Under which the heads of a model are kept."""
    return f"heads {name} {options.head_texts}"


def check_comparable(models: Mapping[str, Loaded], texts: Sequence[ModelInput]) -> None:
    """Refuse models whose explanations cannot be compared text by text.

    Raises:
        ValueError: fewer than two, of different tasks, classes, inputs, or with tokenizers that make different tokens of the texts.
    """
    if len(models) < 2:
        raise ValueError(f"a comparison needs two or more models, but there is {next(iter(models), 'none')}; faithfulness() measures one")
    (first_name, first), *others = models.items()
    for name, loaded in others:
        pair = f"{first_name} and {name}"
        tasks = [_task(each) for each in (first, loaded)]
        if tasks[0] != tasks[1]:
            raise ValueError(f"{pair} have different tasks, {tasks[0]} and {tasks[1]}; compare models of one task")
        classes = [_classes(each) for each in (first, loaded)]
        if classes[0] != classes[1]:
            raise ValueError(f"{pair} have different classes, {classes[0]} and {classes[1]}; compare models of the same classes")
        for index, text in enumerate(texts):
            if not _same_input(first, loaded, text):
                kind = "image processors" if modality(first.model) == "image" else "tokenizers"
                raise ValueError(f"{pair} have different {kind}: text {index} is not the same input for both, so positions have no pairs")


def _task(loaded: Loaded) -> str:
    name = type(unwrap(loaded.model)).__name__
    found = HEAD.search(name)
    return f"{modality(loaded.model)} {found.group() if found else name}"


def _classes(loaded: Loaded) -> list[str]:
    labels = getattr(loaded.model.config, "id2label", None) or {}
    is_classifier = "Classification" in _task(loaded)
    return [str(labels[index]) for index in sorted(labels)] if is_classifier else []


def _same_input(first: Loaded, other: Loaded, text: ModelInput) -> bool:
    if isinstance(text, Mapping):
        return True
    found = []
    for loaded in (first, other):
        if loaded.tokenizer is not None and isinstance(text, str | tuple):
            parts = (text,) if isinstance(text, str) else text
            found.append(torch.tensor(loaded.tokenizer(*parts, verbose=False)[IDS]))
        elif loaded.processor is not None and not isinstance(text, str | tuple):
            found.append(encode(loaded.model, text, processor=loaded.processor).inputs[PIXELS])
        else:
            return True  # an input of another kind than the model reads, about which the model says more
    return found[0].shape == found[1].shape and bool(torch.equal(found[0], found[1]))


def _targeted(texts: Sequence[ModelInput], targets: Sequence[int | str | None] | None) -> dict[int, Targeted]:
    if isinstance(texts, str) or not len(texts):
        raise ValueError("texts must be a list of at least one text")
    wanted = [None] * len(texts) if targets is None else list(targets)
    if len(wanted) != len(texts):
        raise ValueError(f"there are {len(wanted)} targets for {len(texts)} texts; give one for each, or None")
    return dict(enumerate(zip(texts, wanted, strict=True)))


def _told(texts: Sequence[ModelInput]) -> list[str]:
    """Of each input something that tells it from others."""
    found: list[str] = []
    for text in texts:
        value: Any = text
        if hasattr(value, "tobytes"):
            found.append(value.tobytes().hex())
        elif isinstance(value, Mapping):
            found.append(str({name: each.tolist() for name, each in sorted(value.items()) if isinstance(each, torch.Tensor)}))
        else:
            found.append(str(value))
    return found


def _assembled(
    known: PartialValues, model: ComparedModel, methods: Sequence[str], measures: Sequence[str], seeds: int, count: int
) -> dict[str, dict[str, Seeds]]:
    """Values of one model by measure, method and seed."""
    gathered: dict[tuple[str, str, int], dict[int, float]] = {}
    for (name, method, seed, _), by_measure in known.values.items():
        if name == model.name and method in (*methods, OF_MODEL) and seed < seeds:
            for measure, rows in by_measure.items():
                gathered.setdefault((measure, method, seed), {}).update(rows)
    values: dict[str, dict[str, Seeds]] = {measure: {} for measure in measures}
    for (measure, method, seed), rows in sorted(gathered.items()):
        values[measure].setdefault(method, {})[seed] = tuple(rows[index] for index in range(count))
    return values


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "transformers": transformers.__version__, "hf-tanhmax": own_version()}
