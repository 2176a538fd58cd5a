"""A checkpoint on disk: is it a TanhMax model, is it whole, and what does it bring along that it should not?"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import PreTrainedModel

from ..checkpoint import ADAPTER_CONFIG, BASE, CONFIG, class_of, read_config, read_object
from ..settings_text import settings_in_words, some
from .code import check_code
from .files import check_files
from .report import Finding
from .weights import ADAPTER, check_weights, read_header

GENERATION_CONFIG = "generation_config.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def check_checkpoint(folder: str | Path) -> list[Finding]:
    """Look at a model, or at an adapter and its base. Of weights only headers are read; nothing is unpickled, and no code is imported.

    Args:
        folder: where `save_pretrained`, a Trainer, a recipe or a download put it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [Finding("error", str(folder), "is not a folder; name the one that holds config.json")]
    if (folder / ADAPTER_CONFIG).is_file():
        return [*check_files(folder), *_check_adapter(folder)]
    files = check_files(folder) if (folder / CONFIG).is_file() else ()  # of any other folder there is nothing to say
    return [*files, *_check_model(folder)]


def _check_model(folder: Path, *, is_base: bool = False) -> Iterator[Finding]:
    try:
        config = read_config(folder / CONFIG)
    except ValueError as error:
        yield Finding("error", CONFIG, str(error))
        return
    values = read_object(folder / CONFIG) or {}
    try:
        _, model_class = class_of(config)
    except ValueError as error:
        yield Finding("warning", CONFIG, f"{error}; until then nobody can tell whether tensors are missing")
        yield from check_weights(folder, None, config)
    else:
        yield from _check_built(folder, values, model_class, config)
    yield from check_code(folder, values)
    if not is_base:  # the processor lies beside the adapter
        yield from _check_processor(folder, config.model_type)


def _check_built(folder: Path, values: dict[str, Any], model_class: type[PreTrainedModel], config: Any) -> Iterator[Finding]:
    try:
        with torch.device("meta"):
            model_class(config)
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        yield Finding("error", CONFIG, f"describes a model that cannot be built: {' '.join(str(error).split())}")
        return
    words = settings_in_words(config.tanhmax_settings, layers=config.num_hidden_layers)
    yield Finding("ok", CONFIG, f"{model_class.__name__} with {words}")
    if model_class.can_generate():
        yield from _check_cache(folder, values)
    yield from check_weights(folder, model_class, config)


def _check_cache(folder: Path, values: dict[str, Any]) -> Iterator[Finding]:
    if values.get("use_cache") is False:
        say = "has use_cache false, as training leaves it: generate() keeps a cache anyway, other callers get none; set it to true"
        yield Finding("warning", CONFIG, say)
    if (read_object(folder / GENERATION_CONFIG) or {}).get("use_cache") is False:
        yield Finding("warning", GENERATION_CONFIG, "has use_cache false, so each new token costs as much as all before it; set it to true")


def _check_processor(folder: Path, model_type: str) -> Iterator[Finding]:
    noun, wanted = ("image processor", PROCESSORS) if model_type == "tanhmax_vit" else ("tokenizer", TOKENIZERS)
    found = next((name for name in wanted if (folder / name).is_file()), None)
    if found is not None:
        yield Finding("ok", found, f"the {noun} is there")
    else:
        say = f"is not there ({', '.join(wanted)}), so a pipeline cannot use the model; save it into the same folder"
        yield Finding("warning", noun, say)


def _check_adapter(folder: Path) -> Iterator[Finding]:
    values = read_object(folder / ADAPTER_CONFIG) or {}
    header = read_header(folder / ADAPTER)
    if isinstance(header, str):
        yield Finding("error", ADAPTER, header)
    elif not header:
        yield Finding("error", ADAPTER, "holds no tensors; save the adapter again")
    else:
        yield Finding("ok", ADAPTER, f"is whole, with {len(header)} tensors")
    targets = values.get("target_modules")
    chosen = some(targets, shown=8) if isinstance(targets, list) else str(targets)
    yield Finding("ok", ADAPTER_CONFIG, f"{values.get('peft_type') or 'an adapter of unknown kind'} on the modules {chosen}")
    yield from _check_base(folder, values.get("base_model_name_or_path"))


def _check_base(folder: Path, name: object) -> Iterator[Finding]:
    inside = folder / BASE
    if not isinstance(name, str) or not name:
        yield Finding("error", ADAPTER_CONFIG, "names no base model (base_model_name_or_path), so the adapter cannot be loaded")
    elif inside.is_dir() and not Path(name).is_dir():
        say = f"names its base {name!r}, which is not found from here, though {BASE}/ lies beside it; write its path there instead"
        yield Finding("warning", ADAPTER_CONFIG, say)
    elif not inside.is_dir():
        yield _base_elsewhere(name)
    if inside.is_dir():
        yield from (replace(finding, subject=f"{BASE}/{finding.subject}") for finding in _check_model(inside, is_base=True))


def _base_elsewhere(name: str) -> Finding:
    local = Path(name) / CONFIG
    path = local if local.is_file() else _cached(name)
    if path is None:
        say = f"names its base {name!r}, which is not on this machine, so whether it is a TanhMax model is unknown; load it once"
        return Finding("warning", ADAPTER_CONFIG, say)
    try:
        config = read_config(path)
    except ValueError as error:
        return Finding("error", ADAPTER_CONFIG, f"names its base {name!r}, whose {CONFIG} {error}")
    return Finding("ok", ADAPTER_CONFIG, f"names its base {name!r}, which has {settings_in_words(config.tanhmax_settings)}")


def _cached(name: str) -> Path | None:
    try:
        found = try_to_load_from_cache(name, CONFIG)
    except HFValidationError:  # a folder of another machine
        return None
    return Path(found) if isinstance(found, str) else None
