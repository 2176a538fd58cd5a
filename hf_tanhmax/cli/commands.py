"""The commands convert, push, push-kernel, card and doctor of `hf-tanhmax`.

Each takes the parsed options and returns an exit code. What the user has to mend ends it as `SystemExit` with one sentence.
"""

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from ..cards import is_repository, model_card
from ..checkpoint import length_limit, read_checkpoint
from ..conversion.calibration.calibrate import calibrate
from ..conversion.calibration.inputs import LENGTH, calibration_batches
from ..conversion.calibration.quality import is_language_model
from ..conversion.convert import convert_uncalibrated
from ..conversion.projections import aligns_by_default
from ..conversion.report import ConversionReport
from ..conversion.runner import Batch
from ..doctor import check_checkpoint, check_environment, errors_in, in_lines
from ..errors import one_line
from ..hub import HubError, push, push_kernel
from ..hub.kernel import check_kernel, is_kernel, write_kernel
from ..integration.summary import attention_summary, parts_summary, softmax_summary
from ..processors import KINDS, Processor, knows_words, modalities, modality, nouns
from .checks import CARD, LONGEST, RESULTS, ROWS, in_a_sentence, no_auto_class
from .input_files import draw, excerpts

FOUND_ERRORS = 1


def run_convert(options: argparse.Namespace) -> int:
    """A softmax checkpoint as a TanhMax one in a new folder, with its processors and a card."""
    out = Path(options.out)
    wanted = {"num_labels": options.num_labels, "revision": options.revision}
    loading = {"use_safetensors": True, **{key: value for key, value in wanted.items() if value is not None}}
    with in_a_sentence(f"cannot convert {options.source}"):
        model = convert_uncalibrated(options.source, _auto_class(options.auto_class), options.plan, **loading)
        report = None if options.inputs is None else _calibrated(options, model)
    model.save_pretrained(out)
    if report is not None:
        report.save(out)
    said = _save_processors(options.source, out, model, options.revision)
    # Where the weights came from is known now and nowhere else.
    model_card(out, base_model=options.source if is_repository(options.source) else None).save(out / CARD)
    _forget_partial(out)
    settings, words = model.config.tanhmax_settings, attention_summary(model)
    print(f"{options.source} is a {type(model).__name__} with {words} now: {model.num_parameters():,} parameters, in {out}")
    print("\n".join([*parts_summary(model), *softmax_summary(model), said]))
    if report is not None:
        print(f"it {report.describe()}; fine-tune it as usual, without annealing")
    elif isinstance(settings.polarity, float) and settings.polarity > 0:
        print(
            "its weights were trained for softmax: fine-tune it before use, best from polarity 0 (hf-tanhmax train --help), or keep it "
            "close to softmax with --calibrate FILE"
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


def run_push_kernel(options: argparse.Namespace) -> int:
    """TanhMax attention as a kernel, to the Hub or to a folder."""
    if options.out is not None:
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        write_kernel(out, repo_id=options.repo)
        builds = ", ".join(sorted(build.name for build in (out / "build").iterdir()))
        print(f"wrote a kernel repository to {out}: {builds}; LOCAL_KERNELS={options.repo}={out.resolve()} loads it from there")
        return 0
    try:
        print(push_kernel(options.repo, private=options.private or None, message=options.message))
    except HubError as error:
        raise SystemExit(str(error)) from error
    return 0


def run_card(options: argparse.Namespace) -> int:
    """A model card for a folder."""
    try:
        card = model_card(
            options.path,
            repo_id=options.repo,
            results=[_on(run, options.dataset) for run in options.runs] or None,
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
    if options.path is None:
        findings = check_environment()
    else:
        folder = Path(options.path)
        findings = check_kernel(folder) if is_kernel(folder) else check_checkpoint(folder)
    print(in_lines(findings))
    return FOUND_ERRORS if errors_in(findings) else 0


def _on(run: Any, dataset: str | None) -> Any:
    """A run with the name on the Hub of the data that its files hold."""
    if dataset is None or not isinstance(run, dict):
        return run
    return {**run, "data": {**run.get("data", {}), "dataset": dataset}}


def _auto_class(name: str | None) -> type | None:
    found = None if name is None else getattr(transformers, name, None)
    if name is not None and found is None:
        raise SystemExit(no_auto_class(name))
    return found


def _save_processors(source: str, out: Path, model: PreTrainedModel, revision: str | None) -> str:
    """Save all that makes inputs of a model, and say what it was and what of it there is not."""
    found, missing = read_checkpoint(source, revision=revision).processors(modalities(model))
    for each in found:
        each.save_pretrained(out)
    said = [f"its {nouns(found)} {'is' if len(found) == 1 else 'are'} there too"] if found else []
    return "; ".join([*said, *(f"no {KINDS[kind].noun} was saved, as {reason}" for kind, reason in missing.items())])


def _processor(source: str, model: PreTrainedModel, revision: str | None) -> tuple[str, Processor | str]:
    """What makes the main input of a model is called, and it, or why there is none."""
    kind = modality(model)
    noun = KINDS[kind].noun
    try:
        found = read_checkpoint(source, revision=revision).processor(kind)
    except (ImportError, OSError, TypeError, ValueError) as error:
        return noun, f"that of {source} cannot be loaded here: {one_line(error, LONGEST)}"
    return noun, found if knows_words(found) else f"{source} has none"


def _partial(out: Path) -> Path:
    """Where a refit that is stopped keeps what it has done."""
    return out.with_name(f"{out.name}.partial") / "refit"


def _forget_partial(out: Path) -> None:
    """Delete that, and the folder that it is in if nothing else is there."""
    folder = _partial(out)
    if folder.is_dir():
        shutil.rmtree(folder)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def _calibrated(options: argparse.Namespace, model: PreTrainedModel) -> ConversionReport:
    plan, partial = options.plan, _partial(Path(options.out))
    plan = plan.for_model(alignable=aligns_by_default(model, plan.polarity))
    folder = None if plan.refit is False else partial
    try:
        return calibrate(
            model,
            _batches(options, model),
            balance=plan.balance,
            refit=plan.refit,
            transfer_steps=plan.transfer_steps,
            folder=folder,
        )
    except torch.OutOfMemoryError as error:
        reason = one_line(error, LONGEST)
        raise SystemExit(f"cannot convert {options.source}: {reason}; take a lower --batch-size or --length") from error
    except KeyboardInterrupt:
        if (partial / "fitted").is_dir():
            print(f"stopped; the layers that were refitted are in {partial}: the same command continues there", file=sys.stderr)
        elif partial.is_dir():
            _forget_partial(Path(options.out))
            print("stopped before the first layer was refitted; the same command begins again", file=sys.stderr)
        raise


def _batches(options: argparse.Namespace, model: PreTrainedModel) -> Sequence[Batch]:
    """What to calibrate with, as the model takes it; longer texts are cut to what it reads."""
    noun, found = _processor(options.source, model, options.revision)
    if isinstance(found, str):
        raise ValueError(f"--calibrate needs its {noun}, but {found}")
    inputs, path = options.inputs, Path(options.calibrate)
    if (noun == "tokenizer") != isinstance(inputs[0], str):
        wanted = "a file of texts" if noun == "tokenizer" else "a folder of pictures"
        raise ValueError(f"its {noun} cannot read what is in {options.calibrate}; a {type(model).__name__} takes {wanted}")
    length, rows = options.length, options.rows
    if not is_language_model(model):
        kept = inputs[: rows or ROWS]  # in the order in which they were drawn
        return calibration_batches(model, kept, found, length=length, batch_size=options.batch_size)
    size = min(length or LENGTH, length_limit(model, found) or LENGTH)
    needed = max(8192, 9 * model.config.get_text_config().hidden_size) / size * 10 / 9  # a tenth is held out
    rows = rows or math.ceil(needed)
    texts = excerpts(path, inputs, 6 * rows * size, 6 * size)
    batches = calibration_batches(model, texts, found, length=size, batch_size=options.batch_size)
    batches.rows = draw(batches.rows, rows)  # type: ignore[attr-defined]
    return batches


def _comparison(files: list[Path]) -> str:
    """The Markdown table of these results; what makes it needs the packages of the recipes."""
    with in_a_sentence("cannot compare the results"):
        from ..results import read_runs
        from ..training.compare import comparison

        return comparison([run for file in files for run in read_runs(file)], markdown=True).strip()
