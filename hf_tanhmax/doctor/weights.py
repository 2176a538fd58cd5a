"""Checks of the weights of a checkpoint: complete safetensors files, with every tensor that the model needs, in its shape.

Only headers are read. Whether tensors are missing is asked of Transformers itself, by loading stand-ins: one number, expanded to the shape
that the header says. So the renaming that it does for some families is done here too, and the largest model costs a moment and no memory.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel

from ..checkpoint import INDEX, WEIGHTS, read_object
from ..errors import some
from .report import Finding

SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
Shapes = dict[str, tuple[int, ...]]


def check_weights(folder: Path, model_class: type[PreTrainedModel] | None, config: PreTrainedConfig) -> Iterator[Finding]:
    """Findings about the weights; those about missing tensors only where the class of the model is known."""
    names, findings = _files(folder)
    yield from findings
    if not names:
        return
    shapes: Shapes = {}
    for name in names:
        found = read_header(folder / name)
        if isinstance(found, str):
            yield Finding("error", name, found)
            return
        shapes |= found
    subject = WEIGHTS if names == [WEIGHTS] else INDEX
    lacking = set() if subject == WEIGHTS else set(_weight_map(folder)) - set(shapes)
    if lacking:
        yield Finding("error", INDEX, f"names tensors that are in none of its files: {some(lacking)}; copy or save the checkpoint again")
    elif model_class is None:
        yield Finding("ok", subject, f"is whole, with {len(shapes)} tensors")
    else:
        yield _completeness(subject, shapes, model_class, config)


def read_header(path: Path) -> Shapes | str:
    """Names and shapes of the tensors of a safetensors file, or a sentence about what is wrong with it."""
    try:
        with safe_open(path, framework="np") as file:  # which maps the file and reads none of it
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        return "is missing; copy or save the checkpoint again"
    except (OSError, SafetensorError) as error:
        return f"is not a whole safetensors file ({error}); copy or save it again"


def _files(folder: Path) -> tuple[list[str], list[Finding]]:
    single, index = (folder / WEIGHTS).is_file(), (folder / INDEX).is_file()
    shards = {path.name for path in folder.iterdir() if SHARD.fullmatch(path.name)}
    if single:
        beside = sorted(shards | ({INDEX} if index else set()))
        stale = [Finding("warning", beside[0], f"is not read, because {WEIGHTS} is beside it; delete it and its like")] if beside else []
        return [WEIGHTS], stale
    if not index:
        say = f"is not there, and neither is {INDEX}" + (f", though there are shards ({some(shards)})" if shards else "")
        return [], [Finding("error", WEIGHTS, f"{say}; save the model again")]
    named = sorted(set(_weight_map(folder).values()))
    if not named or any(Path(name).name != name for name in named):
        return [], [Finding("error", INDEX, "holds no `weight_map` of tensors and files beside it; save the model again")]
    stray = sorted(shards - set(named))
    return named, [Finding("warning", stray[0], f"is not read, because {INDEX} does not name it; delete it and its like")] if stray else []


def _weight_map(folder: Path) -> dict[str, str]:
    named = (read_object(folder / INDEX) or {}).get("weight_map")
    return {str(tensor): str(name) for tensor, name in named.items()} if isinstance(named, dict) else {}


def _completeness(subject: str, shapes: Shapes, model_class: type[PreTrainedModel], config: PreTrainedConfig) -> Finding:
    report = _loading_report(shapes, model_class, config)
    if report["mismatched_keys"]:
        wrong = some(f"{name} is {list(have)} and not {list(want)}" for name, have, want in report["mismatched_keys"])
        return Finding("error", subject, f"has tensors of other shapes than config.json says: {wrong}")
    if report["missing_keys"]:
        missing = report["missing_keys"]
        return Finding("error", subject, f"lacks {len(missing)} tensors, which would be random numbers after loading: {some(missing)}")
    if report["unexpected_keys"]:
        left = report["unexpected_keys"]
        return Finding("warning", subject, f"has {len(left)} tensors that {model_class.__name__} has no place for: {some(left)}")
    return Finding("ok", subject, f"is whole: all of the {len(shapes)} tensors that {model_class.__name__} needs")


def _loading_report(shapes: Shapes, model_class: type[PreTrainedModel], config: PreTrainedConfig) -> dict[str, Any]:
    stand_ins = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    verbosity, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()  # what it would print, the finding says
    transformers.logging.disable_progress_bar()
    try:
        loaded: Any = model_class.from_pretrained(
            None, config=config, state_dict=stand_ins, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
    return dict(loaded[1])
