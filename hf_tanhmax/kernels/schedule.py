"""Tiles as a table: how many rows and keys a program takes, with how many warps and pipeline stages, by kernel, head size and dtype.

Every row of the table is compiled ahead of time in the tests, which hold its registers, spills and shared memory. All fit into the 99 KiB
that the smallest supported GPUs give a block. The first row of an entry is used, unless `tuning` is asked to find the fastest.
"""

from dataclasses import dataclass
from typing import Literal

Kernel = Literal["forward", "key_value", "query", "bias"]
HEAD_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Tile:
    """`rows` of queries by `columns` of keys, computed by `warps` warps with loads `stages` blocks ahead."""

    rows: int
    columns: int
    warps: int
    stages: int


# (kernel, padded head size, bytes of an element) -> tiles, the default first.
TABLE: dict[tuple[Kernel, int, int], tuple[Tile, ...]] = {
    ("forward", 16, 2): (Tile(128, 64, 4, 3),),
    ("forward", 32, 2): (Tile(128, 64, 4, 3),),
    ("forward", 64, 2): (Tile(128, 64, 8, 3), Tile(64, 64, 4, 3)),
    ("forward", 128, 2): (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
    ("forward", 256, 2): (Tile(64, 32, 8, 2), Tile(64, 16, 4, 2)),
    ("forward", 16, 4): (Tile(64, 32, 4, 2),),
    ("forward", 32, 4): (Tile(64, 32, 4, 2),),
    ("forward", 64, 4): (Tile(32, 32, 4, 2),),
    ("forward", 128, 4): (Tile(16, 32, 4, 2),),
    ("forward", 256, 4): (Tile(16, 32, 8, 1),),
    ("key_value", 16, 2): (Tile(64, 64, 4, 2),),
    ("key_value", 32, 2): (Tile(64, 64, 4, 2),),
    ("key_value", 64, 2): (Tile(32, 128, 8, 2), Tile(64, 128, 8, 2)),
    ("key_value", 128, 2): (Tile(32, 128, 8, 2), Tile(16, 128, 8, 1)),
    ("key_value", 256, 2): (Tile(32, 32, 8, 1),),
    ("key_value", 16, 4): (Tile(32, 32, 4, 1),),
    ("key_value", 32, 4): (Tile(32, 32, 4, 1),),
    ("key_value", 64, 4): (Tile(32, 32, 4, 1),),
    ("key_value", 128, 4): (Tile(16, 32, 4, 1),),
    ("key_value", 256, 4): (Tile(16, 16, 8, 1),),
    ("query", 16, 2): (Tile(128, 64, 4, 2),),
    ("query", 32, 2): (Tile(128, 64, 4, 2),),
    ("query", 64, 2): (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
    ("query", 128, 2): (Tile(128, 32, 8, 1), Tile(64, 64, 8, 1)),
    ("query", 256, 2): (Tile(32, 32, 8, 1), Tile(64, 16, 4, 1)),
    ("query", 16, 4): (Tile(32, 32, 4, 1),),
    ("query", 32, 4): (Tile(32, 32, 4, 1),),
    ("query", 64, 4): (Tile(16, 32, 4, 1),),
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
}


def padded_size(head_dim: int) -> int:
    """The head size that a kernel is compiled for: the next power of two, from 16 on."""
    return next(size for size in HEAD_SIZES if size >= head_dim)


def tiles(kernel: Kernel, head_dim: int, element_size: int) -> tuple[Tile, ...]:
    """The rows of the table for a kernel, by the larger of head size and value size, and the bytes of an element (2 or 4)."""
    return TABLE[kernel, padded_size(head_dim), element_size]
