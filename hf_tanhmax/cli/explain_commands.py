"""The commands explain, faithfulness, ablate and rank-collapse of `hf-tanhmax`.

Each takes the parsed options and returns an exit code. What the user has to mend ends it as `SystemExit` with one sentence.
"""

import argparse
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from tqdm import tqdm

from ..choices import ALL, CLASSIFIER, CONTROL, METHODS
from ..interpret import (
    INTERVENTIONS,
    ComparisonOptions,
    Explanation,
    RankCollapse,
    ablate_negatives,
    compare_faithfulness,
    explain,
    explain_generation,
    explain_whole_generation,
    faithfulness,
    methods_refused,
    most_probable,
    plot_comparison,
    rank_collapse,
    save_explanation,
    save_page,
)
from ..interpret.inputs.encoding import DECODER_IDS, IDS, ModelInput, with_decoder_start
from ..interpret.inputs.loading import Loaded, load
from ..interpret.viz import plots
from ..interpret.viz.views import VIEWS, head_numbers
from .checks import in_a_sentence
from .generating import GENERATING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI, STOPPED = 150, 130
TARGETS = 3  # of a page of a classifier
# Beginnings of warnings that are among an explanation's notes.
SAID = (".* computes softmax", "the model knows none", "the tokenizer has", "the text was cut")
Batch = dict[str, Tensor]


def run_explain(options: argparse.Namespace) -> int:
    """Explain one output, as a page, a picture or numbers."""
    with in_a_sentence(f"cannot explain {options.model}"):
        loaded = _loaded(options)
        if options.whole_generation:
            return _run_whole_generation(loaded, options)
        explanations = _explanations(loaded, options)
        for note, is_warning in _notes(explanations).items():
            print(f"{'warning' if is_warning else 'note'}: {note}")
        _save(explanations, options)
    texts = len(options.text or ())
    first = explanations[0]
    steps = f"“{first.target_name}”, probability {first.probability:.3g}" + (f", and {texts - 1} more texts" if texts > 1 else "")
    if options.generate and len(explanations) > 1:
        steps = f"{len(explanations)} next tokens"
    print(f"wrote {options.out}: {steps}")
    return 0


def _run_whole_generation(loaded: Loaded, options: argparse.Namespace) -> int:
    """Every token that a causal model writes, by every token before it."""
    if not loaded.is_causal:
        raise ValueError(GENERATING)
    found = explain_whole_generation(
        loaded.model, loaded.tokenizer, options.text[0], new_tokens=options.generate, method=options.whole_generation
    )
    for note in found.notes:
        print(f"note: {note}")
    if options.out.suffix == ".html":
        _write_page(_explanations(loaded, options), options, generation=found)
    elif options.out.suffix == ".json":
        found.save(options.out)
    else:
        plots.plot_generation(found).savefig(options.out, dpi=DPI)
    print(f"wrote {options.out}: {len(found.written)} written tokens")
    return 0


def _notes(explanations: Sequence[Explanation]) -> dict[str, bool]:
    """The notes, each once, and whether it is about what the model has not read: unknown words, or a text that was cut."""
    return {note: place < bool(found.unknown) + bool(found.cut) for found in explanations for place, note in enumerate(found.notes)}


def run_faithfulness(options: argparse.Namespace) -> int:
    """Measure how far explanations of a model can be trusted, or compare models by that."""
    if options.models:
        return _compare(options)
    out: Path = options.out
    with in_a_sentence(f"cannot measure {options.model}"):
        loaded = _loaded(options)
        chosen: dict[str, Any] = {name: tuple(value) for name in ("methods", "measures") if (value := getattr(options, name))}
        if options.methods == [ALL]:
            chosen["methods"] = (*all_methods(loaded.model), CONTROL)
        chosen |= {name: value for name in ("steps", "samples") if (value := getattr(options, name)) is not None}
        report = faithfulness(
            loaded.model,
            loaded.tokenizer,
            options.inputs,
            **chosen,
            processor=loaded.processor,
            batch_size=options.batch_size,
            seed=options.seed or 0,
            removal=options.removal,
            max_length=options.max_length,
            head_texts=options.heads or 0,
        )
        out.write_text(report.to_json() if out.suffix == ".json" else report.table() + "\n", encoding="utf-8")
    print(report.table())
    print(f"wrote {out}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    out: Path = options.out
    part = out.with_name(f"{out.name}.part")
    chosen = {name: getattr(options, name) for name in ("seeds", "steps", "samples") if getattr(options, name) is not None}
    chosen |= {} if options.heads is None else {"head_texts": options.heads}
    with in_a_sentence(f"cannot compare {', '.join(options.models)}"):
        how = ComparisonOptions(
            tuple(options.measures) if options.measures else None,
            removal=options.removal,
            batch_size=options.batch_size,
            max_length=options.max_length,
            **chosen,
        )
        models = {}
        for name, source in options.sources.items():
            with in_a_sentence(f"cannot load {source}"):
                models[name] = load(source, device=options.device)
                _check_inputs(models[name], options)
        methods = ALL if options.methods in (None, [ALL]) else tuple(options.methods)
        try:
            found = compare_faithfulness(models, options.inputs, methods, options=how, partial=part, workers=options.workers or 1)
        except KeyboardInterrupt:
            print(f"\nstopped; the same command goes on with what is in {part}")
            return STOPPED
        out.write_text(found.to_json() if out.suffix == ".json" else found.table(markdown=True) + "\n", encoding="utf-8")
        plot_comparison(found).savefig(options.figure, dpi=DPI)
    print(found.table())
    print(f"wrote {out} and {options.figure} in {found.settings['seconds'] / 60:.1f} minutes of measuring")
    return 0


def _check_inputs(loaded: Loaded, options: argparse.Namespace) -> None:
    """The rows are what the model reads."""
    of_texts = isinstance(options.inputs[0], str)
    if of_texts == (loaded.tokenizer is None):
        wanted, read = ("a folder of pictures", "images") if of_texts else ("a file of texts", "texts")
        raise ValueError(f"it is a {type(loaded.model).__name__}, which reads {read}; give --data, {wanted}")


def run_ablate(options: argparse.Namespace) -> int:
    """Measure whether a model uses its negative attention weights."""
    data = Path(options.data)
    with in_a_sentence(f"cannot measure {options.model}"):
        loaded = _loaded(options)
        found = ablate_negatives(
            loaded.model,
            options.inputs,
            loaded.processor or loaded.tokenizer,
            labels=options.labels if CLASSIFIER.search(type(loaded.model).__name__) else None,
            interventions=options.interventions or INTERVENTIONS,
            batch_size=options.batch_size,
            samples=options.samples,
            seed=options.seed,
        )
        digest = {} if data.is_dir() else {"sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
        found = replace(found, settings={**found.settings, "data": data.name, **digest})
        found.save(options.out)
    print(found.table())
    print(found.describe())
    print(f"wrote {options.out}")
    return 0


def run_rank_collapse(options: argparse.Namespace) -> int:
    """Measure how far attention makes all tokens of an input alike, layer by layer, with and without skip connections and MLPs."""
    out: Path = options.out
    with in_a_sentence(f"cannot measure {options.model}"):
        loaded = _loaded(options)
        inputs = _batch(loaded, options)
        found: dict[str, RankCollapse] = {}
        for skip, mlp in tqdm(list(product((True, False), repeat=2)), unit="setting"):
            name = f"{'with' if skip else 'no'} skip, {'with' if mlp else 'no'} MLP"
            found[name] = rank_collapse(loaded.model, inputs, skip=skip, mlp=mlp, norm=options.norm)
        if out.suffix == ".json":
            told = {name: {part: values.tolist() for part, values in vars(one).items()} for name, one in found.items()}
            out.write_text(json.dumps({"model": options.model, "norm": options.norm, "settings": told}, indent=1), encoding="utf-8")
        else:
            title = f"Rank collapse of {Path(options.model).name}"
            plots.plot_rank_collapse(found, title=title).savefig(out, dpi=DPI)
    for name, one in found.items():
        print(f"{name:22}" + " ".join(f"{ratio:.3f}" for ratio in one.ratio.tolist()))
    print(f"residual over whole norm, before the first layer and after each; wrote {out}")
    return 0


def _loaded(options: argparse.Namespace) -> Loaded:
    return load(options.model, revision=options.revision, device=options.device)


def _explanations(loaded: Loaded, options: argparse.Namespace) -> list[Explanation]:
    """An explanation for each text and target, or for each next token."""
    chosen: dict[str, Any] = {name: tuple(value) for name in ("methods", "layers") if (value := getattr(options, name))}
    if chosen.get("methods") == (ALL,):
        chosen["methods"] = all_methods(loaded.model)
    chosen |= {"max_length": options.max_length, "steps": options.steps, "samples": options.samples, "twin": _twin(loaded, options)}
    if options.generate and not loaded.is_causal:
        raise ValueError(GENERATING)
    with warnings.catch_warnings():
        for said in SAID:
            warnings.filterwarnings("ignore", message=said)
        if options.generate:
            (text,) = options.text
            encoded = dict(_tokenizer(loaded)(text, return_tensors="pt").to(loaded.model.device))
            batch = with_decoder_start(loaded.model, encoded)
            return list(_written(partial(explain_generation, loaded.model, loaded.tokenizer, **chosen), batch, options.generate))
        return [
            explain_one(loaded, given, target, position=options.position, **chosen)
            for given in _inputs(loaded, options)
            for target in _targets(loaded, options, given)
        ]


def all_methods(model: Any) -> tuple[str, ...]:
    """The methods that a model serves; those that it does not are printed with the reason."""
    refused = methods_refused(model)
    for reason in dict.fromkeys(refused.values()):
        print(f"note: without {', '.join(method for method, why in refused.items() if why == reason)}: {reason}")
    return tuple(method for method in METHODS if method not in refused)


def _inputs(loaded: Loaded, options: argparse.Namespace) -> list[ModelInput]:
    """What is explained: pictures, texts, or a pair of texts."""
    if options.pictures:
        if loaded.processor is None:
            raise ValueError(f"it is a {type(loaded.model).__name__}, which reads texts; give --text")
        return list(options.pictures)
    _tokenizer(loaded)
    return list(options.text) if options.text_pair is None else [(options.text[0], options.text_pair)]


def _tokenizer(loaded: Loaded) -> Any:
    if loaded.tokenizer is None:
        raise ValueError(f"it is a {type(loaded.model).__name__}, which reads images; give --image")
    return loaded.tokenizer


def _targets(loaded: Loaded, options: argparse.Namespace, given: ModelInput) -> Sequence[int | str | None]:
    """Those that were asked for, or in a page of a classifier the most probable ones, between which the reader can switch."""
    if options.target:
        return [target_of(text) for text in options.target]
    return targets_of_page(loaded, given, options.max_length) if options.out.suffix == ".html" else [None]


def targets_of_page(loaded: Loaded, given: ModelInput, max_length: int | None) -> Sequence[int | None]:
    """The targets between which the reader of a page can switch: of a classifier the most probable ones, else what the model says."""
    if not CLASSIFIER.search(type(loaded.model).__name__):
        return [None]
    return most_probable(loaded.model, given, TARGETS, tokenizer=loaded.tokenizer, processor=loaded.processor, max_length=max_length)


def _twin(loaded: Loaded, options: argparse.Namespace) -> tuple[Any, Any] | None:
    if not options.twin:
        return None
    twin = load(options.twin, device=options.device)
    if (twin.tokenizer is None) != (loaded.tokenizer is None):
        kinds = ["images" if each.tokenizer is None else "texts" for each in (twin, loaded)]
        raise ValueError(f"its twin reads {kinds[0]} and the model {kinds[1]}; give a twin of the same kind")
    return twin.model, twin.tokenizer or twin.processor


def explain_one(loaded: Loaded, given: ModelInput, target: int | str | None, *, position: int | None = None, **chosen: Any) -> Explanation:
    """Explain what a model makes of an input: the next token of a text, if it writes texts.

    Args:
        loaded: the model.
        given: a text, a pair of texts, or an image.
        target: as for `explain`.
        position: as for `explain`; None is the last of a model that writes texts.
        **chosen: as for `explain`.

    Raises:
        ValueError, TypeError: as `explain`.
    """
    if loaded.processor is None and loaded.is_causal and position is None:
        return explain_generation(loaded.model, loaded.tokenizer, given, target, **chosen)
    reader = {"tokenizer": loaded.tokenizer, "processor": loaded.processor}
    return explain(loaded.model, given, target, position=position, **reader, **chosen)


def _written(explained: Callable[[Batch], Explanation], batch: Batch, count: int) -> Iterator[Explanation]:
    """Explanations of tokens that the model writes one after the other."""
    for _ in tqdm(range(count), unit="token"):
        found = explained(batch)
        yield found
        if DECODER_IDS in batch:
            batch = {**batch, DECODER_IDS: _longer(batch[DECODER_IDS], found.target)}
        else:
            batch = {name: _longer(values, found.target if name == IDS else 1) for name, values in batch.items()}


def _longer(values: Tensor, last: int) -> Tensor:
    return values.new_tensor([[*values[0].tolist(), last]])


def target_of(text: str | None) -> int | str | None:
    """What a word of the user names: a number if it is one."""
    return int(text) if text is not None and text.isdecimal() else text


def _batch(loaded: Loaded, options: argparse.Namespace) -> Batch:
    if loaded.processor is not None:
        if not options.pictures:
            raise ValueError(f"it is a {type(loaded.model).__name__}, which reads images; give --image")
        batch = loaded.processor(images=options.pictures, return_tensors="pt")
    else:
        if not options.text:
            raise ValueError(f"it is a {type(loaded.model).__name__}, which reads texts; give --text")
        batch = loaded.tokenizer(options.text, padding=len(options.text) > 1, return_tensors="pt")
    return {name: values.to(loaded.model.device) for name, values in batch.items()}


def _save(explanations: Sequence[Explanation], options: argparse.Namespace) -> None:
    out: Path = options.out
    if out.suffix == ".html":
        _write_page(explanations, options)
    elif out.suffix == ".json":
        told = [_numbers(explanation) for explanation in explanations]
        out.write_text(json.dumps(told[0] if len(told) == 1 else told, indent=1), encoding="utf-8")
    elif out.suffix == ".safetensors":
        save_explanation(explanations[0], out)
    else:
        _figure(explanations, options).savefig(out, dpi=DPI)


def _write_page(explanations: Sequence[Explanation], options: argparse.Namespace, **more: Any) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.filterwarnings("always", message="the page takes")
        save_page(explanations, options.out, contributions=options.contributions, **more)
    for each in said:
        print(f"warning: {each.message}")


def _figure(explanations: Sequence[Explanation], options: argparse.Namespace) -> "Figure":
    first = explanations[0]
    usual = "next" if len(explanations) > 1 else "tokens" if first.grid is None else "image"
    picture = options.picture or ("head" if options.head else usual)
    scores = options.scores or ("contributions" if "contributions" in first.scores else next(iter(first.scores)))
    if picture == "head":
        return plots.plot_head(first, layer=options.head[0], head=options.head[1], view=options.view)
    if picture == "heads":
        return plots.plot_heads(first, view=options.view)
    if picture == "next":
        return plots.plot_next_tokens(explanations, scores=scores)
    return plots.plot_image(first, scores=scores) if picture == "image" else plots.plot_tokens(first, scores=scores)


def _numbers(explanation: Explanation) -> dict[str, object]:
    """What JSON holds: everything but matrices and pixels."""
    plain = ("model_name", "family", "target", "target_name", "logit", "probability", "position", "tokens", "words", "word_texts")
    return {
        **{name: getattr(explanation, name) for name in (*plain, "layers", "signed", "notes", "unknown", "knows_no_word", "cut")},
        "scores": {name: scores.tolist() for name, scores in explanation.scores.items()},
        "scores_by_word": {name: explanation.by_word(name).tolist() for name in explanation.scores},
        "conservation": {name: each.as_dict() for name, each in explanation.conservation.items()},
        "orientation": explanation.orientation.tolist(),
        "one_signed": explanation.one_signed.tolist(),
        "heads": {view: head_numbers(explanation, view).tolist() for view in VIEWS},
        **({} if explanation.twin is None else {"twin": _numbers(explanation.twin)}),
    }
