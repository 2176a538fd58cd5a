"""An attention call on the CPU, cut into blocks of queries; what such blocks are made of, for torch's operators."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...functional import hides
from ..call import OperatorInputs

PLAIN_LIMIT, SMALL_LIMIT = 60.0, 1.0
PLAIN_LIMIT_FADED = 30.0
TILE = 1 << 19
ROWS = 128


LOW_32_BITS = 0xFFFFFFFF


@dataclass(frozen=True)
class Block:
    """One rectangle of scores: some batch entries, some key heads with their query heads, some queries, a range of keys."""

    batch: slice
    kv_heads: slice
    heads: slice
    rows: tuple[int, int]
    columns: tuple[int, int]
    first_hidden: int


class BlockedProblem:
    """One attention call, cut into blocks. Forward and backward walk the same blocks in the same order."""

    def __init__(self, inputs: OperatorInputs) -> None:
        self.exact = torch.promote_types(inputs.query.dtype, torch.float32)
        self.given = {"query": inputs.query, "key": inputs.key, "value": inputs.value}
        self.mask, self.bias, self.additive_mask = inputs.mask, inputs.bias, inputs.additive_mask
        self.scale, self.softcap, self.dropout_p = inputs.scale, inputs.softcap, inputs.dropout_p
        self.batch, self.heads, self.queries, self.width = inputs.query.shape
        self.kv_heads, self.keys, self.value_width = inputs.value.shape[1:]
        self.groups = self.heads // self.kv_heads
        self.balanced = inputs.balanced
        self.signed, self.polarity = inputs.signed, inputs.polarity
        self.seed = 0 if inputs.seed is None else int(inputs.seed)
        self.dropped = min(round(inputs.dropout_p * 2**32), 2**32 - 1)  # of 2^32 weights

    def blocks(self) -> Iterator[Block]:
        """Rectangles of about `TILE` scores: whole batch entries where they are small, else some heads of one entry."""
        rows = max(1, min(self.queries, max(16, ROWS // self.groups)))
        area = max(1, rows * self.groups * self.keys)
        many_heads = max(1, min(self.kv_heads, TILE // area))
        many_entries = max(1, TILE // (area * self.kv_heads)) if many_heads == self.kv_heads else 1
        for entry in range(0, self.batch, many_entries):
            for head in range(0, self.kv_heads, many_heads):
                kv = slice(head, min(head + many_heads, self.kv_heads))
                for start in range(0, self.queries, rows):
                    stop = min(start + rows, self.queries)
                    low, high = self.mask.key_range(start, stop)
                    if low == high:
                        continue
                    yield Block(
                        batch=slice(entry, min(entry + many_entries, self.batch)),
                        kv_heads=kv,
                        heads=slice(kv.start * self.groups, kv.stop * self.groups),
                        rows=(start, stop),
                        columns=(low, high),
                        first_hidden=low if self.additive_mask is not None else self.mask.hidden_from(start, low),
                    )

    @cached_property
    def query(self) -> Tensor:
        """In the dtype that is computed in, as are key and value."""
        return self.given["query"].to(self.exact)

    @cached_property
    def key(self) -> Tensor:
        """`[batch, kv_heads, keys, head_dim]`."""
        return self.given["key"].to(self.exact)

    @cached_property
    def value(self) -> Tensor:
        """`[batch, kv_heads, keys, value_dim]`."""
        return self.given["value"].to(self.exact)

    @cached_property
    def log_polarity(self) -> Tensor:
        """`[heads]`."""
        if self.polarity is None:
            return self.given["query"].new_full((self.heads,), 0.0 if self.signed else -math.inf, dtype=self.exact)
        polarity = self.polarity.to(self.exact)
        return torch.log(polarity) if self.balanced else polarity

    @cached_property
    def products(self) -> Tensor:
        """A bound of the products of queries and keys, for each batch entry and key head: `[batch, kv_heads]`."""
        query, key = self.given["query"], self.given["key"]
        longest_key = torch.linalg.vector_norm(key, dim=-1, dtype=self.exact).amax(-1)
        longest_query = (
            torch.linalg.vector_norm(query, dim=-1, dtype=self.exact).amax(-1).unflatten(1, (self.kv_heads, self.groups)).amax(-1)
        )
        return longest_key * longest_query * abs(self.scale)

    @cached_property
    def bias_bound(self) -> float:
        """Of the absolute value of the bias."""
        if self.bias is None:
            return 0.0
        low, high = torch.aminmax(self.bias)
        return float(torch.maximum(-low, high))

    @cached_property
    def bounds(self) -> Tensor:
        """A bound of |a| for each batch entry and key head: `[batch, kv_heads]`."""
        bound = self.products if self.softcap is None else self.products.clamp(max=abs(self.softcap))
        return bound + self.log_polarity.amax().clamp(min=0.0) + self.bias_bound  # a learned polarity may be above 1

    @cached_property
    def hides_outright(self) -> bool:
        """Whether the additive mask hides any key as a boolean mask does."""
        return self.additive_mask is not None and bool(hides(self.additive_mask).any())

    def plain(self, block: Block) -> bool:
        """Whether no shift is needed in this block."""
        return self.below(block, PLAIN_LIMIT if self.additive_mask is None else PLAIN_LIMIT_FADED)

    def below(self, block: Block, limit: float) -> bool:
        """Whether all scores of a block are below a limit."""
        return bool((self.bounds[block.batch, block.kv_heads] < limit).all())

    def rows_of(self, tensor: Tensor, block: Block) -> Tensor:
        """`[batch, heads, queries, n]` -> the block's `[entries * kv_heads, groups * rows, n]`."""
        part = tensor[block.batch, block.heads, slice(*block.rows)]
        return part.reshape(-1, self.groups * part.shape[2], part.shape[3])

    def columns_of(self, tensor: Tensor, block: Block) -> Tensor:
        """`[batch, kv_heads, keys, n]` -> the block's `[entries * kv_heads, columns, n]`."""
        part = tensor[block.batch, block.kv_heads, slice(*block.columns)]
        return part.flatten(0, 1)

    def by_head(self, tile: Tensor, block: Block) -> Tensor:
        """`[entries * kv_heads, groups * rows, columns]` seen as `[entries, heads, rows, columns]`."""
        entries = block.batch.stop - block.batch.start
        return tile.view(entries, -1, block.rows[1] - block.rows[0], tile.shape[-1])

    def per_head(self, values: Tensor, block: Block) -> Tensor:
        """`[heads]` -> what broadcasts to the block's tiles: `[entries * kv_heads, groups * rows or 1, 1]`."""
        part = values[block.heads]
        entries, rows = block.batch.stop - block.batch.start, block.rows[1] - block.rows[0]
        if self.groups == 1:
            return part.view(-1, 1).repeat(entries, 1).unsqueeze(-1)
        return part.view(-1, self.groups, 1).repeat(entries, 1, rows).reshape(-1, self.groups * rows, 1)

    def scores(self, block: Block, out: Tensor, unit: float) -> Tensor | None:
        """Write `unit` times the block's scores to `out`; with a softcap, return the capped ones over the cap (for the derivative)."""
        query, key = self.rows_of(self.query, block), self.columns_of(self.key, block)
        factor = self.scale * unit if self.softcap is None else self.scale / self.softcap
        torch.baddbmm(out, query, key.transpose(1, 2), beta=0, alpha=factor, out=out)
        capped = None
        if self.softcap is not None:
            capped = torch.tanh(out)
            torch.mul(capped, self.softcap * unit, out=out)
        if self.bias is not None:
            self.by_head(out, block).add_(self.part_of(self.bias, block).to(self.exact), alpha=unit)
        return capped

    def part_of(self, tensor: Tensor, block: Block) -> Tensor:
        """The block's part of a 4-dimensional tensor that broadcasts to `[batch, heads, queries, keys]`, as a view."""
        for dim, wanted in enumerate((block.batch, block.heads, slice(*block.rows), slice(*block.columns))):
            if tensor.shape[dim] != 1:
                tensor = tensor[(slice(None),) * dim + (wanted,)]
        return tensor

    def seen(self, block: Block) -> Tensor | None:
        """True where a key is visible, for the columns from `first_hidden` on: broadcasts to `[entries, heads, rows, columns]`."""
        if block.first_hidden >= block.columns[1]:
            return None
        columns = (block.first_hidden, block.columns[1])
        seen = self.mask.tile(block.rows, columns, self.query.device, block.batch, block.heads)
        if self.additive_mask is None or not self.hides_outright:
            return seen
        shown = ~hides(self.part_of(self.additive_mask, block))
        return shown if seen is None else seen & shown

    def levels(self, block: Block, seen: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The additive mask less its largest visible number of each row, -inf where a key is hidden, and that number; None without a mask.

        Both broadcast to `[entries, heads, rows, columns]`.
        """
        if self.additive_mask is None:
            return None
        part = self.part_of(self.additive_mask, block).to(self.exact)
        if seen is not None:
            part = torch.where(seen, part, -math.inf)
        highest = part.amax(-1, keepdim=True)
        highest = highest.masked_fill(highest == -math.inf, 0.0)
        return part - highest, highest

    def maskable(self, tile: Tensor, block: Block) -> Tensor:
        """The columns of a tile from `first_hidden` on, as `[entries, heads, rows, columns]`."""
        return self.by_head(tile, block)[..., block.first_hidden - block.columns[0] :]

    def dropout(self, block: Block) -> Tensor | None:
        """The block's dropout factors, 0 or 1 / (1 - dropout_p): `[entries * kv_heads, groups * rows, columns]`.

        Which weights are dropped, the seed and the numbers of row and key say alone, so that it does not matter who computes them, in what
        blocks: a hash of seed and row gives two words, and one of these and the key the word that must reach `dropped`.
        """
        if self.dropped == 0:
            return None
        entries, heads, rows, columns = (
            torch.arange(*bounds, device="cpu")
            for bounds in ((block.batch.start, block.batch.stop), (block.heads.start, block.heads.stop), block.rows, block.columns)
        )
        row = _mixed(
            ((entries[:, None, None] * self.heads + heads[:, None]) * self.queries + rows + 1) * _wrapped(0x9E3779B97F4A7C15) + self.seed
        )
        bits = ((row & LOW_32_BITS)[..., None] + columns * 0x9E3779B9).bitwise_and_(LOW_32_BITS)
        bits = bits.bitwise_xor_(bits >> 16).mul_(0x7FEB352D).bitwise_and_(LOW_32_BITS).bitwise_xor_((row >> 32 & LOW_32_BITS)[..., None])
        bits = bits.bitwise_xor_(bits >> 15).mul_(0x846CA68B).bitwise_and_(LOW_32_BITS)
        kept = bits.bitwise_xor_(bits >> 16) >= self.dropped
        factors = kept.to(self.exact).div_(1.0 - self.dropped / 2**32)
        return factors.view(-1, self.groups * len(rows), len(columns))

    def scratch(self, count: int) -> list[Tensor]:
        """`count` flat buffers, each as large as the largest tile."""
        largest = 0
        for block in self.blocks():
            largest = max(largest, self.tile_size(block))
        return [torch.empty(largest, dtype=self.exact) for _ in range(count)]

    def tile_size(self, block: Block) -> int:
        """The number of scores in a block."""
        sides = (block.batch, block.heads, slice(*block.rows), slice(*block.columns))
        return math.prod(side.stop - side.start for side in sides)

    def tile_in(self, buffer: Tensor, block: Block) -> Tensor:
        """A tile of the block's shape at the start of a flat buffer."""
        rows, columns = self.groups * (block.rows[1] - block.rows[0]), block.columns[1] - block.columns[0]
        return buffer[: self.tile_size(block)].view(-1, rows, columns)


def _wrapped(number: int) -> int:
    """The integer of 64 bits and a sign that has the bits of one without."""
    return number - 2**64 if number >= 2**63 else number


def _mixed(bits: Tensor) -> Tensor:
    """A hash of 64 bits, as `mixed` in `added.h`; an arithmetic shift's copies of the sign are masked."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ bits >> shift & (1 << 64 - shift) - 1) * _wrapped(factor)
    return bits ^ bits >> 31 & (1 << 33) - 1
