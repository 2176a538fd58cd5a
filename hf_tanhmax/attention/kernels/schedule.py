"""Tile sizes and launch parameters (warps, pipeline stages) of each kernel, by head size and dtype; and choosing one by timing.

`balanced` is the forward kernel with a balanced shift, which holds two tiles of sums where the other holds one.
The rows of a decoding tile are the queries of all heads of a group; `decode_16` is the decoding kernel with 16 of them, and so on.

Every tile of the table is compiled ahead of time in the tests, which hold its registers, spills and shared memory. All fit into the 99 KiB
that the smallest supported GPUs give a block. The first tile of an entry is the default, but for calls that `Tile.crowded` and
`Tile.rounded` tell of; HF_TANHMAX_AUTOTUNE=1 times all of them, once per kind of call, and takes the fastest. HF_TANHMAX_ATOMIC=1 allows
the backward pass in one kernel, which adds dQ up in no fixed order.
"""

import logging
import math
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Literal, get_args

import torch

Kernel = Literal["forward", "balanced", "key_value", "query", "bias", "decode_16", "decode_32", "decode_64"]
KERNEL_NAMES: tuple[Kernel, ...] = get_args(Kernel)
HEAD_SIZES = (16, 32, 64, 128, 256)
SHORTEST = 256  # keys: a shorter chunk takes less time than it takes to start a program and to combine its result
PROGRAMS = 2  # of the backward pass for each multiprocessor, below which groups are split; one at a time fits
LEAST_ROWS = 2048  # rows of a share of a group: fewer take less time than it takes to add up one part more
WAVES = 4  # programs for each multiprocessor, so that the memory is busy while some of them begin or end


@dataclass(frozen=True)
class Tile:
    """A tile size and the launch parameters that go with it; `FusedProblem.fits` says which calls may have which tile.

    Attributes:
        rows, columns: queries and keys of a tile.
        warps: warps of a program.
        stages: blocks that are loaded ahead.
        static: a fixed shift instead of the running maximum (`shift`).
        polynomial: with a fixed shift, one score in four is exponentiated without the special-function unit (`shift`).
        described: keys and values are loaded by tensor descriptors.
        registers: the most that a thread may have, so that more programs run at once.
        reduced: the whole backward pass in one kernel, which adds dQ up atomically; taken only if the user asks.
        rounded: for float32 that tensor cores multiply, by TF32 or as products of split numbers; the default for such calls.
        crowded: fewer registers; the default where a bias, an additive mask, dropout, a softcap or packed sequences take them.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    static: bool = False
    polynomial: bool = False
    described: bool = False
    registers: int | None = None
    reduced: bool = False
    rounded: bool = False
    crowded: bool = False


# (kernel, padded head size, bytes of an element) -> tiles, the default first.
TABLE: dict[tuple[Kernel, int, int], tuple[Tile, ...]] = {
    ("forward", 16, 2): (Tile(128, 64, 4, 3),),
    ("forward", 32, 2): (Tile(128, 64, 4, 3),),
    ("forward", 64, 2): (Tile(128, 64, 8, 3), Tile(64, 64, 4, 3)),
    ("forward", 128, 2): (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2), Tile(128, 32, 8, 2, crowded=True)),
    ("forward", 256, 2): (Tile(64, 32, 8, 2), Tile(64, 16, 4, 2)),
    ("forward", 16, 4): (Tile(64, 32, 4, 2),),
    ("forward", 32, 4): (Tile(64, 32, 4, 2),),
    ("forward", 64, 4): (Tile(32, 32, 4, 2), Tile(128, 32, 8, 2, rounded=True)),
    ("forward", 128, 4): (Tile(16, 32, 4, 2),),
    ("forward", 256, 4): (Tile(16, 32, 8, 1),),
    ("balanced", 16, 2): (Tile(128, 64, 4, 3),),
    ("balanced", 32, 2): (Tile(64, 64, 4, 3),),
    ("balanced", 64, 2): (Tile(128, 64, 8, 3), Tile(64, 64, 4, 3), Tile(128, 32, 8, 3, crowded=True)),
    ("balanced", 128, 2): (Tile(128, 64, 8, 2), Tile(128, 32, 8, 2, crowded=True)),
    ("balanced", 256, 2): (Tile(64, 16, 8, 2), Tile(64, 32, 8, 2)),
    ("balanced", 16, 4): (Tile(64, 32, 4, 2),),
    ("balanced", 32, 4): (Tile(64, 32, 4, 2),),
    ("balanced", 64, 4): (Tile(32, 32, 4, 2),),
    ("balanced", 128, 4): (Tile(16, 32, 4, 2),),
    ("balanced", 256, 4): (Tile(16, 32, 8, 1),),
    ("key_value", 16, 2): (Tile(64, 64, 4, 2),),
    ("key_value", 32, 2): (Tile(64, 64, 4, 2),),
    ("key_value", 64, 2): (Tile(32, 128, 8, 2), Tile(64, 128, 8, 2), Tile(16, 128, 8, 2, crowded=True)),
    ("key_value", 128, 2): (Tile(32, 128, 8, 2), Tile(16, 128, 8, 1, crowded=True)),
    ("key_value", 256, 2): (Tile(32, 32, 8, 1),),
    ("key_value", 16, 4): (Tile(32, 32, 4, 1),),
    ("key_value", 32, 4): (Tile(32, 32, 4, 1),),
    ("key_value", 64, 4): (Tile(32, 32, 4, 1), Tile(32, 64, 8, 1, rounded=True)),
    ("key_value", 128, 4): (Tile(16, 32, 4, 1),),
    ("key_value", 256, 4): (Tile(16, 16, 8, 1),),
    ("query", 16, 2): (Tile(128, 64, 4, 2),),
    ("query", 32, 2): (Tile(128, 64, 4, 2),),
    ("query", 64, 2): (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
    ("query", 128, 2): (Tile(128, 32, 8, 1), Tile(64, 64, 8, 1), Tile(128, 16, 8, 1, crowded=True)),
    ("query", 256, 2): (Tile(32, 32, 8, 1), Tile(64, 16, 4, 1)),
    ("query", 16, 4): (Tile(32, 32, 4, 1),),
    ("query", 32, 4): (Tile(32, 32, 4, 1),),
    ("query", 64, 4): (Tile(16, 32, 4, 1), Tile(64, 32, 4, 1, rounded=True)),
    ("query", 128, 4): (Tile(16, 16, 8, 1),),
    ("query", 256, 4): (Tile(16, 16, 8, 1),),
    ("bias", 16, 2): (Tile(64, 64, 4, 1),),
    ("bias", 32, 2): (Tile(64, 64, 8, 1),),
    ("bias", 64, 2): (Tile(64, 64, 8, 1),),
    ("bias", 128, 2): (Tile(64, 64, 8, 1),),
    ("bias", 256, 2): (Tile(32, 64, 8, 1),),
    ("bias", 16, 4): (Tile(32, 32, 4, 1),),
    ("bias", 32, 4): (Tile(32, 32, 4, 1),),
    ("bias", 64, 4): (Tile(32, 32, 4, 1),),
    ("bias", 128, 4): (Tile(16, 32, 4, 1),),
    ("bias", 256, 4): (Tile(16, 16, 4, 1),),
    ("decode_16", 16, 2): (Tile(16, 64, 4, 3),),
    ("decode_16", 32, 2): (Tile(16, 64, 4, 3),),
    ("decode_16", 64, 2): (Tile(16, 64, 4, 3),),
    ("decode_16", 128, 2): (Tile(16, 64, 4, 3),),
    ("decode_16", 256, 2): (Tile(16, 32, 4, 3),),
    ("decode_16", 16, 4): (Tile(16, 64, 4, 2),),
    ("decode_16", 32, 4): (Tile(16, 64, 4, 2),),
    ("decode_16", 64, 4): (Tile(16, 32, 4, 2),),
    ("decode_16", 128, 4): (Tile(16, 32, 4, 2),),
    ("decode_16", 256, 4): (Tile(16, 16, 4, 2),),
    ("decode_32", 16, 2): (Tile(32, 64, 4, 3),),
    ("decode_32", 32, 2): (Tile(32, 64, 4, 3),),
    ("decode_32", 64, 2): (Tile(32, 64, 4, 3),),
    ("decode_32", 128, 2): (Tile(32, 64, 4, 3),),
    ("decode_32", 256, 2): (Tile(32, 32, 8, 2),),
    ("decode_32", 16, 4): (Tile(32, 64, 4, 2),),
    ("decode_32", 32, 4): (Tile(32, 64, 4, 2),),
    ("decode_32", 64, 4): (Tile(32, 32, 4, 2),),
    ("decode_32", 128, 4): (Tile(32, 32, 4, 2),),
    ("decode_32", 256, 4): (Tile(32, 16, 8, 1),),
    ("decode_64", 16, 2): (Tile(64, 64, 4, 3),),
    ("decode_64", 32, 2): (Tile(64, 64, 4, 3),),
    ("decode_64", 64, 2): (Tile(64, 64, 4, 3),),
    ("decode_64", 128, 2): (Tile(64, 64, 4, 2),),
    ("decode_64", 256, 2): (Tile(64, 32, 8, 2),),
    ("decode_64", 16, 4): (Tile(64, 64, 4, 2),),
    ("decode_64", 32, 4): (Tile(64, 64, 4, 2),),
    ("decode_64", 64, 4): (Tile(64, 32, 4, 2),),
    ("decode_64", 128, 4): (Tile(64, 16, 8, 1),),
    ("decode_64", 256, 4): (Tile(32, 16, 8, 1),),
}

# What a GPU of compute capability 9.0 has besides. No GPU has timed these rows, so none is an entry's first.
HOPPER: dict[tuple[Kernel, int, int], tuple[Tile, ...]] = {
    ("forward", 64, 2): (
        Tile(128, 64, 8, 3, static=True),
        Tile(128, 64, 8, 3, static=True, polynomial=True),
        Tile(128, 64, 8, 3, described=True),
        Tile(128, 64, 8, 3, described=True, registers=128),
        Tile(128, 128, 8, 2, described=True),
        Tile(128, 64, 8, 3, static=True, described=True),
        Tile(128, 64, 8, 3, static=True, polynomial=True, described=True),
        Tile(128, 128, 8, 2, static=True, polynomial=True, described=True),
    ),
    ("forward", 128, 2): (
        Tile(128, 64, 8, 2, static=True),
        Tile(128, 64, 8, 2, static=True, polynomial=True),
        Tile(128, 64, 8, 2, described=True),
        Tile(128, 128, 8, 2, described=True),
        Tile(128, 64, 8, 2, static=True, described=True),
        Tile(128, 64, 8, 2, static=True, polynomial=True, described=True),
        Tile(128, 128, 8, 2, static=True, polynomial=True, described=True),
    ),
    ("key_value", 64, 2): (Tile(64, 128, 8, 2, reduced=True),),
    ("key_value", 128, 2): (Tile(32, 128, 8, 1, reduced=True),),
}

# What GPUs of compute capability 8 take first: without the Hopper's matrix instructions, the other tiles do not fit into registers.
OLDER: dict[tuple[Kernel, int, int], tuple[Tile, ...]] = {
    ("key_value", 128, 2): (Tile(32, 64, 8, 2),),
    ("balanced", 128, 2): (Tile(64, 32, 8, 2),),
}


@cache
def padded_size(head_dim: int) -> int:
    """The head size that a kernel is compiled for: the next power of two, from 16 on."""
    return next(size for size in HEAD_SIZES if size >= head_dim)


def tiles(kernel: Kernel, head_dim: int, element_size: int, capability: tuple[int, int] | None = None) -> tuple[Tile, ...]:
    """The tiles of a kernel, the default first, for the larger of head size and value size, and the bytes of an element (2 or 4).

    `capability` is the compute capability of an NVIDIA GPU: (9, 0) adds the tiles of `HOPPER`, (8, ..) puts those of `OLDER` first.
    """
    entry = kernel, padded_size(head_dim), element_size
    first = OLDER.get(entry, ()) if capability is not None and capability[0] == 8 else ()
    return first + TABLE[entry] + (HOPPER.get(entry, ()) if capability == (9, 0) else ())


def decode_kernel_for(rows: int) -> Kernel:
    """The decoding kernel whose tile holds the `rows` of a group (heads times queries), or the largest, which then takes several."""
    return "decode_16" if rows <= 16 else "decode_32" if rows <= 32 else "decode_64"


def splits(programs: int, keys: int, processors: int) -> int:
    """The number of chunks that decoding splits the keys into: enough for `WAVES` programs per multiprocessor, none below `SHORTEST`.

    Args:
        programs: the number without splitting: batch entries times key heads, times the tiles of a group.
        keys: the most that an entry of the batch can have.
        processors: multiprocessors of the GPU.
    """
    return max(1, min(math.ceil(WAVES * processors / max(programs, 1)), math.ceil(keys / SHORTEST)))


def group_splits(programs: int, groups: int, queries: int, processors: int) -> int:
    """The number of shares that the backward pass splits the heads of a group into, so that few key heads keep all multiprocessors busy.

    Args:
        programs: the number without splitting: batch entries times key heads times blocks of keys.
        groups: query heads per key head.
        queries: rows of each of them; a share has at least `LEAST_ROWS`.
        processors: multiprocessors of the GPU.
    """
    most = min(groups, groups * queries // LEAST_ROWS, math.ceil(PROGRAMS * processors / max(programs, 1)))
    return math.ceil(groups / math.ceil(groups / most)) if most > 1 else 1


TuningKey = tuple[Hashable, ...]
_fastest: dict[TuningKey, Tile] = {}


def autotuning() -> bool:
    """Whether to time the tiles of an entry (HF_TANHMAX_AUTOTUNE=1) instead of taking the first; never while a CUDA graph is captured."""
    if os.environ.get("HF_TANHMAX_AUTOTUNE", "0") != "1":
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def splits_products() -> bool:
    """Whether float32 that is not to be rounded to TF32 is multiplied as three TF32 products of split numbers (HF_TANHMAX_FLOAT32=tf32x3).

    Raises:
        ValueError: the variable is something else than `ieee` (or empty) and `tf32x3`.
    """
    chosen = os.environ.get("HF_TANHMAX_FLOAT32", "")
    if chosen not in ("", "ieee", "tf32x3"):
        raise ValueError(f"HF_TANHMAX_FLOAT32 must be ieee or tf32x3, but is {chosen!r}")
    return chosen == "tf32x3"


def adds_atomically() -> bool:
    """Whether the backward pass may add dQ up atomically (HF_TANHMAX_ATOMIC=1), which torch's deterministic mode forbids."""
    return os.environ.get("HF_TANHMAX_ATOMIC", "0") == "1" and not torch.are_deterministic_algorithms_enabled()


def fastest(key: TuningKey, rows: Sequence[Tile], run: Callable[[Tile], None], timer: Callable[[Callable[[], None]], float]) -> Tile:
    """The fastest tile; one with which the kernel does not compile or start is left out.

    Args:
        key: the kind of call that the answer is cached for; the kernel's name comes first.
        rows: the tiles.
        run: launches the kernel with a tile.
        timer: measures a call.

    Raises:
        RuntimeError: the kernel runs with none of them; the cause is the error of the last.
        torch.OutOfMemoryError, torch.AcceleratorError: there is no room, or the device is lost, with whichever tile.
    """
    if key not in _fastest:
        outcomes = {tile: _time_of(key, tile, run, timer) for tile in rows}
        times = {tile: outcome for tile, outcome in outcomes.items() if not isinstance(outcome, Exception)}
        if not times:
            raise RuntimeError(
                f"none of the {len(rows)} tiles of the {key[0]} kernel runs on this GPU; HF_TANHMAX_AUTOTUNE=0 takes the first of them and "
                "raises what stops it"
            ) from [outcome for outcome in outcomes.values() if isinstance(outcome, Exception)][-1]
        _fastest[key] = min(times, key=times.__getitem__)
    return _fastest[key]


def _time_of(key: TuningKey, tile: Tile, run: Callable[[Tile], None], timer: Callable[[Callable[[], None]], float]) -> float | Exception:
    """The time that a tile takes, or the error that the kernel raises with it."""
    triton_error = import_module("triton.errors").TritonError  # where this runs there is a Triton
    try:
        return timer(lambda: run(tile))
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (triton_error, RuntimeError) as error:  # the compiler's passes raise the latter
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()  # raises if the device is lost, of which Triton itself says RuntimeError
        reason = " ".join(str(error).split())[:200]
        logging.getLogger(__name__).warning(f"the {key[0]} kernel is not timed with {tile}: {type(error).__name__}: {reason}")
        return error


def length_bucket(length: int) -> int:
    """The length that a choice is cached for: a power of two between 512 and 8192, so that there are at most five."""
    return max(512, min(8192, 1 << max(length - 1, 0).bit_length()))
