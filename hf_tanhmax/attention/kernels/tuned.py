"""Tiles that a benchmark has chosen on this GPU, read from a file; nothing is timed here.

`hf-tanhmax bench --tune` writes the file: `HF_TANHMAX_TUNED` names it, by default it is `hf_tanhmax/tiles.json` in the cache folder
(`XDG_CACHE_HOME`, else `~/.cache`); `HF_TANHMAX_TUNED=0` reads none. It is read once per process and device, by the first kernel that runs
there, as the GPU is known only then. It holds a list of choices, each of which says what it was timed with and for:

    {"choices": [{"gpu": "NVIDIA H200", "capability": [9, 0], "triton": "3.6", "kernel": "forward", "dtype": "bfloat16", "head_size": 64,
                  "features": ["causal"], "tile": {"rows": 128, "columns": 64, "warps": 8, "stages": 3, "described": true}}]}

A choice holds for calls with these very `features`. Whatever is not as it should be is logged in one line, and the default tile is taken:
a file that cannot be read, choices for another GPU or Triton, an unknown word, a tile that the kernel does not have.
"""

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .layout import Layout
from .schedule import HEAD_SIZES, KERNEL_NAMES, Kernel, Tile, padded_size, tiles
from .support import capability

TUNED_SWITCH = "HF_TANHMAX_TUNED"
TUNED_DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4}  # bytes
CALL_FEATURES = frozenset(
    ("additive", "balanced", "bias", "causal", "dropout", "keep", "packed", "polarity", "softcap", "softmax", "tf32", "tf32x3", "window")
)
CHOICE_KEYS = ("gpu", "capability", "triton", "kernel", "dtype", "head_size", "features", "tile")


class Machine(NamedTuple):
    """What a choice was timed on: the name of the GPU, its compute capability (None but for NVIDIA's), and Triton's version, as "3.6"."""

    gpu: str
    capability: tuple[int, int] | None
    triton: str


class TunedCall(NamedTuple):
    """What a choice is for; `features` are some of `CALL_FEATURES`."""

    kernel: Kernel
    dtype: str
    head_size: int
    features: frozenset[str]


def machine_of(device: torch.device) -> Machine:
    """The machine of a device; the CPU stands for Triton's interpreter."""
    version = ".".join(import_module("triton").__version__.split(".")[:2])
    if device.type == "cpu":
        return Machine("Triton's interpreter", None, version)
    return Machine(torch.get_device_module(device).get_device_name(device), capability(device), version)


def tuned_file() -> Path | None:
    """The file that `HF_TANHMAX_TUNED` names, or the usual one; None if none is to be read."""
    given = os.environ.get(TUNED_SWITCH, "")
    if given == "0":
        return None
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hf_tanhmax" / "tiles.json"


@cache
def tuned_tiles(device: torch.device) -> dict[TunedCall, Tile]:
    """The choices for a device; empty where there is no file."""
    path = tuned_file()
    if path is None or (not os.environ.get(TUNED_SWITCH) and not path.exists()):
        return {}
    machine, found = machine_of(device), {}
    try:
        choices = choices_in(path)
        mine = [(number, choice) for number, choice in enumerate(choices, 1) if _machine_in(choice) == machine]
        if not mine:
            others = ", ".join(sorted({str(_machine_in(choice)) for choice in choices})) or "nothing"
            raise ValueError(f"it is for {others}, and this is {machine}")
    except (OSError, ValueError) as error:
        _say(path, f"{error}; kernels take their default tiles")
        return {}
    for number, choice in mine:
        try:
            found[call_of(choice)] = tile_of(choice)
        except ValueError as error:
            _say(path, f"choice {number}: {error}; that kernel takes its default tile")
    return found


def tuned_tile(kernel: Kernel, layout: Layout, query: Tensor, absent: tuple[bool, ...]) -> Tile | None:
    """The choice for a call, if there is one; `absent` says whether it is without keep, packed sequences, and bias or additive mask."""
    known = tuned_tiles(query.device)
    return known.get(call_like(kernel, layout, query.dtype, absent)) if known else None


def call_like(kernel: Kernel, layout: Layout, dtype: torch.dtype, absent: tuple[bool, ...]) -> TunedCall:
    """What a choice for a call is for; arguments as those of `tuned_tile`."""
    keep, segments, added = (not each for each in absent)
    features = {
        "additive": layout.additive,
        "balanced": layout.balanced,
        "bias": added and not layout.additive,
        "causal": layout.causal,
        "dropout": layout.dropout_p > 0,
        "keep": keep,
        "packed": segments,
        "polarity": layout.polarity == 2,
        "softcap": layout.softcap is not None,
        "softmax": layout.polarity == 0,
        "tf32": layout.precision == "tf32",
        "tf32x3": layout.precision == "tf32x3",
        "window": layout.window is not None,
    }
    size = padded_size(max(layout.dim, layout.value_dim))
    return TunedCall(kernel, str(dtype).removeprefix("torch."), size, frozenset(name for name, present in features.items() if present))


def choices_in(path: Path) -> list[dict[str, Any]]:
    """The choices of a file, each with all keys and no other.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or says something else.
    """
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from error
    choices = text.get("choices") if isinstance(text, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise ValueError('it holds no list of "choices"')
    for number, choice in enumerate(choices, 1):
        _check_words(f"choice {number}", choice, CHOICE_KEYS, needed=CHOICE_KEYS)
    return choices


def call_of(choice: dict[str, Any]) -> TunedCall:
    """What a choice is for.

    Raises:
        ValueError: there is no such kernel, dtype, head size or feature.
    """
    known = {"kernel": KERNEL_NAMES, "dtype": tuple(TUNED_DTYPES), "head_size": HEAD_SIZES}
    for name, words in known.items():
        if choice[name] not in words:
            raise ValueError(f"unknown {name} {choice[name]!r}; there are {', '.join(map(str, words))}")
    features = choice["features"]
    if not isinstance(features, list) or not CALL_FEATURES.issuperset(map(str, features)):
        raise ValueError(f"unknown features {features!r}; there are {', '.join(sorted(CALL_FEATURES))}")
    return TunedCall(choice["kernel"], choice["dtype"], choice["head_size"], frozenset(features))


def tile_of(choice: dict[str, Any]) -> Tile:
    """The tile that a choice names.

    Raises:
        ValueError: the kernel has no such tile on such a GPU, or it must be asked for otherwise.
    """
    call, given = call_of(choice), choice["tile"]
    if not isinstance(given, dict):
        raise ValueError(f"its tile is no object, but {given!r}")
    names = tuple(field.name for field in fields(Tile))
    _check_words("its tile", given, names, needed=("rows", "columns", "warps", "stages"))
    tile, machine = Tile(**given), _machine_in(choice)
    if tile.reduced or tile not in tiles(call.kernel, call.head_size, TUNED_DTYPES[call.dtype], machine.capability):
        raise ValueError(f"the {call.kernel} kernel has no tile {given} for head size {call.head_size} in {call.dtype} on {machine.gpu}")
    return tile


def choice_of(machine: Machine, call: TunedCall, tile: Tile) -> dict[str, Any]:
    """A choice as the file has it: of the tile, what is not the default."""
    usual = {field.name: field.default for field in fields(Tile)}
    told = {name: value for name, value in asdict(tile).items() if value != usual[name]}
    told_call = call._asdict() | {"features": sorted(call.features), "tile": told}
    return machine._asdict() | {"capability": None if machine.capability is None else list(machine.capability)} | told_call


def _machine_in(choice: dict[str, Any]) -> Machine:
    compute = choice["capability"]
    return Machine(choice["gpu"], tuple(compute) if isinstance(compute, list) else compute, choice["triton"])


def _check_words(what: str, given: dict[str, Any], known: Iterable[str], *, needed: Iterable[str]) -> None:
    unknown, missing = sorted(given.keys() - set(known)), [name for name in needed if name not in given]
    if unknown:
        raise ValueError(f"{what} has unknown keys: {', '.join(unknown)} (there are {', '.join(known)})")
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing)}")


def _say(path: Path, what: str) -> None:
    logging.getLogger(__name__).warning("the tiles in %s: %s", path, " ".join(what.split()))
