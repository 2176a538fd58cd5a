"""The commands of `hf-tanhmax` that need the package: convert, push, card and doctor.

Each takes the parsed options and returns an exit code. What the user has to mend ends it as `SystemExit` with one sentence.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from ..cards import is_repository, model_card
from ..checkpoint import PIPELINES, RESULTS, read_checkpoint
from ..doctor import check_checkpoint, check_environment, errors_in, in_lines
from ..errors import one_line
from ..hub import HubError, push
from ..models.conversion import convert

FOUND_ERRORS = 1
CARD = "README.md"


def run_convert(options: argparse.Namespace) -> int:
    """A softmax checkpoint as a TanhMax one in a new folder, with its tokenizer or image processor and a card."""
    out = Path(options.out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise SystemExit(f"{out} is there already and not an empty folder; name one that is new")
    wanted = {"num_labels": options.num_labels, "revision": options.revision}
    loading = {"use_safetensors": True, **{key: value for key, value in wanted.items() if value is not None}}
    chosen = {"polarity": options.polarity, "layers": options.layers, "heads": options.heads, "score_bias": options.score_bias}
    try:
        model = convert(options.source, _auto_class(options), **chosen, **loading)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise SystemExit(f"cannot convert {options.source}: {one_line(error, 400)}") from error
    model.save_pretrained(out)
    said = _save_processor(options.source, out, model, options.revision)
    # Where the weights came from is known now and nowhere else.
    model_card(out, base_model=options.source if is_repository(options.source) else None).save(out / CARD)
    config: Any = model.config
    words = config.tanhmax_settings.describe(layers=config.num_hidden_layers)
    print(f"{options.source} is a {type(model).__name__} with {words} now: {model.num_parameters():,} parameters, in {out}")
    print(said)
    if isinstance(options.polarity, float) and options.polarity > 0:
        print("its weights were trained for softmax: fine-tune it before use, best from polarity 0 (hf-tanhmax train --help)")
    return 0


def run_push(options: argparse.Namespace) -> int:
    """A folder to the Hub."""
    try:
        address = push(
            _folder(options.path),
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
    folder = _folder(options.path)
    out = Path(options.out) if options.out else folder / CARD
    if out.exists() and not options.overwrite:
        raise SystemExit(f"{out} is there already; add --overwrite to replace it, or name another file with --out")
    own = folder / RESULTS
    files = [Path(file) for file in options.results or ([own] if own.is_file() else [])]
    runs = [run for file in files for run in _runs(file)]
    try:
        card = model_card(
            folder,
            repo_id=options.repo,
            results=runs or None,
            comparison=_comparison([*files, *options.compare_with]) if options.compare_with else None,
            base_model=options.base_model,
            license=options.license,
            language=options.language,
        )
    except ValueError as error:
        raise SystemExit(one_line(error, 400)) from error
    card.save(out)
    print(f"wrote {out}" + ("" if runs else f", which says that nothing was measured: there is no {RESULTS} in {folder} and no --results"))
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    """What is wrong with a checkpoint, or with the environment."""
    findings = check_environment() if options.path is None else check_checkpoint(_folder(options.path))
    print(in_lines(findings))
    return FOUND_ERRORS if errors_in(findings) else 0


def _auto_class(options: argparse.Namespace) -> Any:
    tasks = {task: auto for auto, task in PIPELINES.items()}
    if options.task is not None and options.task not in tasks:
        raise SystemExit(f"there is no task {options.task!r}; there are {', '.join(tasks)}")
    name = options.auto_class if options.task is None else tasks[options.task]
    found = None if name is None else getattr(transformers, name, None)
    if name is not None and (found is None or not name.startswith("AutoModel")):
        raise SystemExit(f"{name!r} is no Auto class of a model; name one such as AutoModelForSequenceClassification, or a --task")
    return found


def _save_processor(source: str, out: Path, model: PreTrainedModel, revision: str | None) -> str:
    is_image = model.config.model_type == "tanhmax_vit"
    noun = "image processor" if is_image else "tokenizer"
    try:
        found: Any = read_checkpoint(source, revision=revision).processor(images=is_image)
    except (ImportError, OSError, TypeError, ValueError) as error:
        return f"no {noun} was saved, as that of {source} cannot be loaded here: {one_line(error, 400)}"
    # Without its files Transformers makes a BERT tokenizer that knows no word.
    if not is_image and len(found) <= len(found.all_special_tokens):
        return f"no {noun} was saved, as {source} has none"
    found.save_pretrained(out)
    return f"its {noun} is there too"


def _runs(path: Path) -> list[Any]:
    """The runs in a result file, of one run or of several seeds."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"cannot read results from {path}: {one_line(error, 400)}") from error
    return list(found["runs"]) if isinstance(found, dict) and isinstance(found.get("runs"), list) else [found]


def _comparison(files: Sequence[object]) -> str:
    """The table of `hf_tanhmax.training.compare`, which this package does not import."""
    command = [sys.executable, "-m", "hf_tanhmax.training.compare", *map(str, files), "--markdown"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["hf_tanhmax.training.compare failed"]
        raise SystemExit(f"cannot compare the results: {said[-1].removeprefix('error: ')}")
    return done.stdout.strip()


def _folder(name: str) -> Path:
    if not Path(name).is_dir():
        raise SystemExit(f"{name} is not a folder; name one that a model was saved to")
    return Path(name)
