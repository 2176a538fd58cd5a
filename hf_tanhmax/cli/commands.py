"""The commands convert, push, card and doctor of `hf-tanhmax`.

Each takes the parsed options and returns an exit code. What the user has to mend ends it as `SystemExit` with one sentence.
"""

import argparse
from pathlib import Path

import transformers
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from ..cards import is_repository, model_card
from ..checkpoint import read_checkpoint
from ..conversion.convert import convert_unaligned
from ..conversion.gauge import Batch, align
from ..doctor import check_checkpoint, check_environment, errors_in, in_lines
from ..errors import one_line
from ..hub import HubError, push
from ..settings import TanhMaxSettings
from .checks import CARD, LONGEST, RESULTS, in_a_sentence, no_auto_class

FOUND_ERRORS = 1
BATCH_SIZE = 32  # texts or pictures that are run together to calibrate


def run_convert(options: argparse.Namespace) -> int:
    """A softmax checkpoint as a TanhMax one in a new folder, with its tokenizer or image processor and a card."""
    out = Path(options.out)
    wanted = {"num_labels": options.num_labels, "revision": options.revision}
    loading = {"use_safetensors": True, **{key: value for key, value in wanted.items() if value is not None}}
    chosen = {name: getattr(options, name) for name in ("polarity", "layers", "heads", "score_bias", "shift")}
    with in_a_sentence(f"cannot convert {options.source}"):
        settings = TanhMaxSettings(**chosen)
        aligned = options.inputs is not None
        model = convert_unaligned(options.source, _auto_class(options.auto_class), settings, to_align=aligned, **loading)
        report = align(model, _batches(options, model), balance=options.balance) if aligned else None
    model.save_pretrained(out)
    if report is not None:
        report.save(out)
    said = _save_processor(options.source, out, model, options.revision)
    # Where the weights came from is known now and nowhere else.
    model_card(out, base_model=options.source if is_repository(options.source) else None).save(out / CARD)
    words = model.config.tanhmax_settings.describe(layers=model.config.num_hidden_layers)
    print(f"{options.source} is a {type(model).__name__} with {words} now: {model.num_parameters():,} parameters, in {out}")
    print(said)
    if report is not None:
        print(f"it {report.describe()}; fine-tune it as usual, without annealing")
    elif isinstance(options.polarity, float) and options.polarity > 0:
        print(
            "its weights were trained for softmax: fine-tune it before use, best from polarity 0 (hf-tanhmax train --help), or align it "
            "with --calibrate (BERT, ViT)"
        )
    return 0


def run_push(options: argparse.Namespace) -> int:
    """A folder to the Hub."""
    try:
        address = push(
            options.path,
            options.repo,
            private=options.private or None,
            revision=options.revision,
            message=options.message,
            merge=options.merge,
        )
    except HubError as error:
        raise SystemExit(str(error)) from error
    print(address)
    return 0


def run_card(options: argparse.Namespace) -> int:
    """A model card for a folder."""
    try:
        card = model_card(
            options.path,
            repo_id=options.repo,
            results=options.runs or None,
            comparison=_comparison([*options.results, *options.compare_with]) if options.compare_with else None,
            base_model=options.base_model,
            license=options.license,
            language=options.language,
        )
    except ValueError as error:
        raise SystemExit(one_line(error, LONGEST)) from error
    card.save(options.out)
    unmeasured = f", which says that nothing was measured: there is no {RESULTS} in {options.path} and no --results"
    print(f"wrote {options.out}" + ("" if options.runs else unmeasured))
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    """What is wrong with a checkpoint, or with the environment."""
    findings = check_environment() if options.path is None else check_checkpoint(options.path)
    print(in_lines(findings))
    return FOUND_ERRORS if errors_in(findings) else 0


def _auto_class(name: str | None) -> type | None:
    found = None if name is None else getattr(transformers, name, None)
    if name is not None and found is None:
        raise SystemExit(no_auto_class(name))
    return found


def _save_processor(source: str, out: Path, model: PreTrainedModel, revision: str | None) -> str:
    noun, found = _processor(source, model, revision)
    if isinstance(found, str):
        return f"no {noun} was saved, as {found}"
    found.save_pretrained(out)
    return f"its {noun} is there too"


def _processor(source: str, model: PreTrainedModel, revision: str | None) -> tuple[str, PreTrainedTokenizerBase | BaseImageProcessor | str]:
    """What makes inputs of a model is called, and it, or why there is none."""
    is_image = model.config.model_type == "tanhmax_vit"
    noun = "image processor" if is_image else "tokenizer"
    try:
        found = read_checkpoint(source, revision=revision).processor(images=is_image)
    except (ImportError, OSError, TypeError, ValueError) as error:
        return noun, f"that of {source} cannot be loaded here: {one_line(error, LONGEST)}"
    # Without its files Transformers makes a BERT tokenizer that knows no word.
    if isinstance(found, PreTrainedTokenizerBase) and len(found) <= len(found.all_special_tokens):
        return noun, f"{source} has none"
    return noun, found


def _batches(options: argparse.Namespace, model: PreTrainedModel) -> list[Batch]:
    """What to calibrate with, as the model takes it; longer texts are cut to what it reads."""
    from ..interpret.inputs.encoding import length_limit

    noun, found = _processor(options.source, model, options.revision)
    if isinstance(found, str):
        raise ValueError(f"--calibrate needs its {noun}, but {found}")
    if (noun == "tokenizer") != isinstance(options.inputs[0], str):
        raise ValueError(f"its {noun} cannot read what is in {options.calibrate}; a ViT takes a folder of pictures, others a file of texts")
    parts = [options.inputs[start : start + BATCH_SIZE] for start in range(0, len(options.inputs), BATCH_SIZE)]
    if not isinstance(found, PreTrainedTokenizerBase):
        return [found(images=part, return_tensors="pt") for part in parts]
    limit = length_limit(model, found)
    return [found(part, padding=True, truncation=limit is not None, max_length=limit, return_tensors="pt") for part in parts]


def _comparison(files: list[Path]) -> str:
    """The Markdown table of these results; what makes it needs the packages of the recipes."""
    with in_a_sentence("cannot compare the results"):
        from ..results import read_runs
        from ..training.compare import comparison

        return comparison([run for file in files for run in read_runs(file)], markdown=True).strip()
