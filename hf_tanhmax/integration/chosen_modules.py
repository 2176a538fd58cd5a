"""Which attention modules of a model compute TanhMax: all that ask the attention interface, or those of chosen layers and parts."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from ..settings import TanhMaxSettings
from .detection.attention_facts import attention_facts, softmax_parts
from .registration import heads_of, refused_argument


def chosen_modules(model: nn.Module, settings: TanhMaxSettings) -> list[nn.Module]:
    """The attention modules that settings choose, in the model's order.

    Raises:
        ValueError: no module asks the attention interface; there is no such layer, head or part; a part would stay softmax unaccepted.
        NotImplementedError: a module passes an argument that TanhMax does not compute.
    """
    layers = list(modules_by_layer(model).values())
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__).removeprefix("tanhmax_")
    modules = [module for layer in layers for module in layer]
    bypassing = softmax_parts(model)
    if not modules:
        found = (
            f"its {', '.join(bypassing)} compute softmax themselves, without asking"
            if bypassing
            else "it has no attention modules that ask"
        )
        raise ValueError(
            f"{kind!r} cannot compute TanhMax: {found} Transformers' attention interface; choose an architecture that asks it, such as "
            "BERT, ViT or LLaMA"
        )
    if settings.layers is not None:
        modules = _named_modules(model, settings.layers, kind)
    for module in modules:
        for argument in attention_facts(module).refused:
            raise NotImplementedError(refused_argument(module, argument))
    _check_softmax_parts(kind, bypassing, settings)
    if settings.heads is not None:
        fewest = min(heads_of(module) for module in modules)
        if settings.heads[-1] >= fewest:
            raise ValueError(f"there is no head {settings.heads[-1]}: the chosen layers have {fewest} heads, counted from 0")
    return modules


def _check_softmax_parts(kind: str, bypassing: dict[str, list[str]], settings: TanhMaxSettings) -> None:
    """Refuse parts that stay softmax and were not accepted, and words that accept none."""
    accepted = settings.softmax_parts or ()
    for name in accepted:
        if name not in bypassing and not any(_is_part(name, path) for paths in bypassing.values() for path in paths):
            there = f"those of {kind!r} are {', '.join(bypassing)}" if bypassing else f"{kind!r} has none"
            raise ValueError(f"softmax_parts names {name!r}, but there is no such part that computes softmax itself: {there}")
    others = [
        owner
        for owner, paths in bypassing.items()
        if owner not in accepted and not all(any(_is_part(name, path) for name in accepted) for path in paths)
    ]
    if others and settings.layers is None:
        where = ", ".join(f"{owner} ({', '.join(bypassing[owner][:3])})" for owner in others)
        raise ValueError(
            f"part of {kind!r} would stay softmax: {where} do not ask Transformers' attention interface; to accept that, pass "
            f"softmax_parts={(*accepted, *others)}, or name the layers that should compute TanhMax, or pass the part to patch, such as "
            "use_tanhmax(model.bert)"
        )


def _named_modules(model: nn.Module, chosen: Iterable[int | str], kind: str) -> list[nn.Module]:
    """The attention modules of chosen layers, each once, in the model's order."""
    layers = modules_by_layer(model)
    paths = {module: path for path, module in model.named_modules()}
    found: set[nn.Module] = set()
    for name in chosen:
        if isinstance(name, str):
            matching = [module for layer in layers.values() for module in layer if _is_part(name, paths[module])]
            if not matching:
                parts = dict.fromkeys(re.split(r"\.\d+(?:\.|$)", path)[0] for path in layers)
                raise ValueError(f"no attention module of {kind!r} is in {name!r}: they are in {', '.join(parts)}")
            found.update(matching)
        elif name >= len(layers):
            raise ValueError(f"there is no layer {name}: {kind!r} has {len(layers)} layers, counted from 0")
        else:
            found.update(list(layers.values())[name])
    return [module for layer in layers.values() for module in layer if module in found]


def _is_part(name: str, path: str) -> bool:
    """Whether a name, with * and ? as in file names, is a part of a module's path: one word of it, or several in a row."""
    words = path.split(".")
    parts = (".".join(words[first:last]) for last in range(len(words), 0, -1) for first in range(last))
    return any(fnmatchcase(part, name) for part in parts)


def modules_by_layer(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Attention modules by layer: by their path up to its last number, so that self and cross attention are one layer."""
    layers: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        if attention_facts(module).asks:
            numbered = re.match(r"(?:.*\.)?\d+(?=\.|$)", name)
            layers.setdefault(numbered.group() if numbered else name, []).append(module)
    return layers
