"""What the first GPU run forces upon a call for the duration of a context: a tile, the backward pass in one kernel, a way to multiply."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace

import torch

from hf_tanhmax.attention.kernels import schedule
from hf_tanhmax.attention.kernels.schedule import Kernel, Tile, tiles

HOPPER = (9, 0)
TIMED_KERNELS: tuple[Kernel, ...] = ("forward", "key_value", "query")


def rows(kernel: Kernel, head_dim: int) -> list[int]:
    """Numbers of the rows that a Hopper has besides the first, in bfloat16, without those that need `atomic`."""
    known = tiles(kernel, head_dim, 2, HOPPER)
    return [number for number, tile in enumerate(known) if number and not tile.reduced]


@contextlib.contextmanager
def row(first: Kernel, number: int) -> Iterator[None]:
    """Make one row of a Hopper's table of tiles the first of its kernel; a call that it does not fit takes the usual first row."""
    from hf_tanhmax.attention.kernels import launch

    usual = launch.tiles

    def _tiles(kernel: Kernel, head_dim: int, element_size: int, capability: tuple[int, int] | None = None) -> tuple[Tile, ...]:
        known = usual(kernel, head_dim, element_size, capability or HOPPER)
        return (replace(known[number], crowded=False), known[0]) if kernel == first else known

    launch.tiles = _tiles
    try:
        yield
    finally:
        launch.tiles = usual


@contextlib.contextmanager
def environment(name: str, word: str) -> Iterator[None]:
    """A variable of the environment; empty afterwards where it was not set."""
    before, os.environ[name] = os.environ.get(name, ""), word
    try:
        yield
    finally:
        os.environ[name] = before


@contextlib.contextmanager
def atomic() -> Iterator[None]:
    """The backward pass in one kernel, where there is one."""
    torch.use_deterministic_algorithms(False)
    with environment("HF_TANHMAX_ATOMIC", "1"):
        yield


@contextlib.contextmanager
def least_share(queries: int) -> Iterator[None]:
    """How many rows a share of a group has at least, where the backward pass splits groups."""
    before, schedule.LEAST_ROWS = schedule.LEAST_ROWS, queries
    try:
        yield
    finally:
        schedule.LEAST_ROWS = before
