"""What the user asks of the schedule: rows that are timed, once a kind of call (HF_TANHMAX_AUTOTUNE=1), and sums in no certain order."""

import logging
import os
from collections.abc import Callable, Hashable, Sequence
from importlib import import_module

import torch

from .schedule import Tile

TuningKey = tuple[Hashable, ...]
_fastest: dict[TuningKey, Tile] = {}


def autotuning() -> bool:
    """Whether to time the rows of an entry, instead of taking the first. A CUDA graph that is being captured cannot be timed."""
    if os.environ.get("HF_TANHMAX_AUTOTUNE", "0") != "1":
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def adds_atomically() -> bool:
    """Whether the backward pass may add dQ up in no certain order (HF_TANHMAX_ATOMIC=1), which torch's deterministic mode forbids."""
    return os.environ.get("HF_TANHMAX_ATOMIC", "0") == "1" and not torch.are_deterministic_algorithms_enabled()


def fastest(key: TuningKey, rows: Sequence[Tile], run: Callable[[Tile], None], timer: Callable[[Callable[[], None]], float]) -> Tile:
    """The tile with which `run` takes the least time; one with which the kernel does not compile or start is left out.

    Args:
        key: what the answer is remembered for; the kernel's name comes first.
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
    """The time that a tile takes, or what the kernel raises with it."""
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
    """The length that a choice is remembered for: a power of two between 512 and 8192, so that there are at most five."""
    return max(512, min(8192, 1 << max(length - 1, 0).bit_length()))
