"""What the user asks of the schedule: rows that are timed, once a kind of call (HF_TANHMAX_AUTOTUNE=1), and sums in no certain order."""

import os
from collections.abc import Callable, Hashable, Sequence

import torch

from .schedule import Tile

_fastest: dict[Hashable, Tile] = {}


def autotuning() -> bool:
    """Whether to time the rows of an entry, instead of taking the first. A CUDA graph that is being captured cannot be timed."""
    if os.environ.get("HF_TANHMAX_AUTOTUNE", "0") != "1":
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def adds_atomically() -> bool:
    """Whether the backward pass may add dQ up in no certain order (HF_TANHMAX_ATOMIC=1), which torch's deterministic mode forbids."""
    return os.environ.get("HF_TANHMAX_ATOMIC", "0") == "1" and not torch.are_deterministic_algorithms_enabled()


def fastest(key: Hashable, rows: Sequence[Tile], run: Callable[[Tile], None], timer: Callable[[Callable[[], None]], float]) -> Tile:
    """The tile with which `run` takes the least time; `timer` measures a call, and `key` is what the answer is remembered for."""
    if key not in _fastest:
        _fastest[key] = min(rows, key=lambda tile: timer(lambda: run(tile)))
    return _fastest[key]


def length_bucket(length: int) -> int:
    """The length that a choice is remembered for: a power of two between 512 and 8192, so that there are at most five."""
    return max(512, min(8192, 1 << max(length - 1, 0).bit_length()))
