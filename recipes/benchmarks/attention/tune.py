"""Times the tiles of the fused kernels on this GPU, and writes what is fastest to the file that the kernels read (`kernels/tuned.py`).

What is timed is what `HF_TANHMAX_AUTOTUNE=1` times, for calls that are common: each kernel of a forward and a backward pass, and decoding,
by dtype, head size, and the features of `CALLS`. Choices for other GPUs, other versions of Triton and other calls stay in the file.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hf_tanhmax.attention.kernels import launch, schedule
from hf_tanhmax.attention.kernels.schedule import Tile
from hf_tanhmax.attention.kernels.support import capability
from hf_tanhmax.attention.kernels.tuned import TunedCall, call_like, choice_of, choices_in, machine_of, tuned_file

from .contenders import output_of

DTYPES = ("bfloat16", "float16", "float32")
HEAD_SIZES = (64, 128)
CALLS: dict[str, dict[str, Any]] = {
    "all keys": {},
    "causal": {"is_causal": True},
    "padding": {"keep": True},
    "causal, padding": {"is_causal": True, "keep": True},
    "balanced": {"shift": "balanced", "polarity": 0.2},
    "softmax": {"polarity": 0.0},
}


class Sizes(NamedTuple):
    """Of a call: `[batch, heads, length, head_size]`."""

    batch: int
    heads: int
    length: int


FULL, SMALL = Sizes(4, 16, 2048), Sizes(1, 1, 20)


def tune(device: str, *, dtypes: tuple[str, ...] = DTYPES, head_sizes: tuple[int, ...] = HEAD_SIZES) -> Iterator[tuple[TunedCall, Tile]]:
    """The fastest tile of each kernel that has several, setting by setting; on the CPU a rehearsal, whose clock counts calls."""
    sizes = FULL if device == "cuda" else SMALL
    with _autotuning(rehearsed=device == "cpu"):
        for dtype in dtypes:
            for head_size in head_sizes:
                for name, arguments in CALLS.items():
                    yield from _fastest_of(sizes, getattr(torch, dtype), head_size, arguments, device)
                    print(f"timed: {dtype}, head size {head_size}, {name}", file=sys.stderr, flush=True)


def _fastest_of(
    sizes: Sizes, dtype: torch.dtype, head_size: int, arguments: dict[str, Any], device: str
) -> Iterator[tuple[TunedCall, Tile]]:
    batch, heads, length = sizes
    tensors = torch.randn(3, batch, heads, length, head_size, dtype=dtype, device=device).unbind()
    query, key, value = (tensor.requires_grad_() for tensor in tensors)
    given = dict(arguments)
    if "keep" in given:
        given["keep"] = torch.ones(batch, 1, 1, length, dtype=torch.bool, device=device)
    found: dict[TunedCall, Tile] = {}
    with _noted(found):
        output_of(query, key, value, implementation="triton", **given).sum().backward()
        with torch.no_grad():
            given.pop("is_causal", None)
            output_of(query[:, :, :1], key, value, implementation="triton", **given)
    yield from found.items()


@contextmanager
def _noted(found: dict[TunedCall, Tile]) -> Iterator[None]:
    """Write down each choice that is made, with the call that it is for."""
    run = launch.FusedProblem.run

    def _run(problem: launch.FusedProblem, kernel: schedule.Kernel, launcher: Callable[[Tile], None]) -> None:
        last: list[Tile] = []

        def _launch(tile: Tile) -> None:
            last[:] = [tile]
            launcher(tile)

        run(problem, kernel, _launch)
        seen = problem.visibility
        absent = tuple(item is None for item in (seen.keep, seen.segments, problem.bias))
        size = max(problem.dim, problem.value_dim)
        if last and len(schedule.tiles(kernel, size, problem.query.element_size(), capability(problem.query.device))) > 1:
            found[call_like(kernel, problem.layout, problem.query.dtype, absent)] = last[0]

    launch.FusedProblem.run = _run  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        launch.FusedProblem.run = run  # type: ignore[method-assign]


@contextmanager
def _autotuning(*, rehearsed: bool) -> Iterator[None]:
    before, clock = os.environ.get("HF_TANHMAX_AUTOTUNE"), launch.do_bench
    os.environ["HF_TANHMAX_AUTOTUNE"] = "1"
    if rehearsed:
        ticks = count(start=1000, step=-1)  # the tile that is timed last is the fastest

        def _tick(call: Callable[[], None]) -> float:
            call()
            return float(next(ticks))

        launch.do_bench = _tick
    try:
        yield
    finally:
        launch.do_bench = clock
        if before is None:
            del os.environ["HF_TANHMAX_AUTOTUNE"]
        else:
            os.environ["HF_TANHMAX_AUTOTUNE"] = before


def write_choices(path: Path, found: dict[TunedCall, Tile], device: str) -> None:
    """Add choices to the file; one for the same call on the same machine is replaced.

    Raises:
        SystemExit: the file is there, and is another one.
    """
    machine = machine_of(torch.device(device))
    new = [choice_of(machine, call, tile) for call, tile in found.items()]
    try:
        old = choices_in(path) if path.exists() else []
    except ValueError as error:
        sys.exit(f"{path} is no file of tiles: {error}; move it, or name another with --output")
    named = [{**choice, "tile": None} for choice in new]
    kept = [choice for choice in old if {**choice, "tile": None} not in named]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(json.dumps({"choices": kept + new}, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def usual_file() -> Path:
    """The file that the kernels read.

    Raises:
        SystemExit: they read none.
    """
    path = tuned_file()
    if path is None:
        sys.exit("HF_TANHMAX_TUNED=0 says that no file of tiles is read; name one with --output")
    return path
