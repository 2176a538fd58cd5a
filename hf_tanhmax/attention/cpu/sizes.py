"""How much memory a call of the C++ operator takes: what `Sizes` in `half.h` says, and the scratch memory of its tiles."""

from dataclasses import dataclass

import torch

NATIVE_TILE = 1 << 19
NATIVE_ROWS = 128
PANEL, LINE = 64, 16  # of `half.h`: columns of a panel, and what rows and widths are filled up to


@dataclass(frozen=True)
class NativeSizes:
    """Sizes of a call and its dtype; whether bfloat16 is multiplied as such, there are few queries, a softcap, an additive mask.

    Counts are of float32 numbers.
    """

    queries: int
    keys: int
    width: int
    value_width: int
    balanced: bool
    dtype: torch.dtype
    half: bool
    few: bool
    capped: bool = False
    faded: bool = False

    @property
    def widened(self) -> bool:
        """Whether numbers of 16 bits are multiplied in float32."""
        return self.dtype != torch.float32 and not self.half and not self.few

    @property
    def rows(self) -> int:
        """Queries of a tile: as many as make `NATIVE_TILE` scores, but 16 to `NATIVE_ROWS`; half of both for bfloat16."""
        return max(1, min(self.queries, NATIVE_ROWS >> self.half, max(16, (NATIVE_TILE >> self.half) // max(1, self.keys))))

    @property
    def tile(self) -> int:
        """Of a tile of scores."""
        return filled(self.rows, LINE) * (self.filled_keys + LINE) if self.half else self.rows * self.keys

    @property
    def filled_keys(self) -> int:
        """Keys, up to a whole panel."""
        return filled(self.keys, PANEL)

    def by_key(self, width: int) -> tuple[int, int]:
        """The last two dimensions of a gradient of keys or values."""
        return (filled(width, LINE), self.filled_keys) if self.half else (self.keys, width)

    def share(self, *, backward: bool) -> int:
        """Of a thread: sums of rows, tiles, and what the products need."""
        if self.few:
            return (self.queries + 2 + self.faded) * self.keys
        tiles = (
            (3 + self.capped if backward else 1) * self.tile
            + (2 if backward else 1) * self.rows
            + (2 * self.balanced + self.faded) * (self.filled_keys if self.half else self.keys)
        )
        if self.widened:
            return tiles + 2 * self.rows * max(self.width, self.value_width)
        if not self.half:
            return tiles + (self.rows * self.value_width if backward else 0)
        rows = filled(self.rows, LINE)
        pairs = rows // 2 * self.filled_keys if backward else 0
        return tiles + 2 * rows * filled(max(self.width, self.value_width), LINE) + pairs

    def partial(self, heads: int, threads: int) -> int:
        """What parts of the keys leave: each of every head, for each query a row of values and two numbers."""
        return self.few * max(heads, heads + threads) * self.queries * (self.value_width + 2)

    def packed_share(self, *, backward: bool) -> int:
        """Of a key head: its keys and values, widened or in panels; these in the backward pass with the keys twice."""
        if self.widened:
            return self.keys * (self.width + self.value_width)
        if self.few or not self.half:
            return 0
        upright = filled(self.width if backward else self.value_width, PANEL)
        turned = filled(self.width, LINE) + (filled(self.value_width, LINE) if backward else 0)
        return (upright + turned) * self.filled_keys // 2


def packs_apart(key_heads: int, threads: int) -> bool:
    """Whether a thread packs the key heads that it takes, in memory of its own: it does where there are enough for all threads."""
    return threads == 1 or key_heads >= 4 * threads


def filled(count: int, whole: int) -> int:
    """The next multiple of `whole`."""
    return -(-count // whole) * whole
