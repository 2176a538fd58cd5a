r"""Which keys a row sees, and which blocks of keys it need not look at.

Positions decide by comparisons: causality, windows, packed sequences. A boolean mask is read once per pass, by `mask_kernel`, which leaves

* its bits, 32 keys to a word: a tile of 128 rows and 64 keys is 1 KiB. Read byte by byte, a mask costs two registers for the address of
  each score, of which a thread holds 32 and more;
* a map of its tiles, `MASK_TILE` rows by `MASK_TILE` keys: whether it keeps nothing of a tile, or something, or all. A block of rows (or
  of keys) finds in it from where to where anything is kept, and the first run of tiles that are kept whole, which need no mask.

Both serve the forward pass, along rows, and the backward passes, along rows and along keys.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MASK_TILE = tl.constexpr(64)  # rows and keys of a tile of the map; multiples of WORD
WORD = tl.constexpr(32)  # keys of a word
SOME, ALL = tl.constexpr(1), tl.constexpr(2)  # what is kept of a tile; 0 is nothing
TILES_AT_ONCE = tl.constexpr(128)


class Band(NamedTuple):
    """Keys that a row may see by position, `offset` more for a row: none beyond it (causal), all nearer than `window` (windowed)."""

    offset: tl.tensor
    window: tl.tensor
    causal: tl.constexpr
    windowed: tl.constexpr


class Tiles(NamedTuple):
    """The map of a mask's tiles, by its strides along rows and keys; the pointer is None if there is no mask."""

    pointer: tl.tensor
    stride_m: tl.tensor
    stride_n: tl.tensor


class Mask(NamedTuple):
    """Which keys take part: a band, `packed` sequences that start and end at given keys, and a boolean mask by its strides, or None.

    The mask is one of bits, 32 keys to a word of `keep_n`, or (decoding) of bytes.
    """

    band: Band
    start: tl.tensor
    end: tl.tensor
    packed: tl.constexpr
    keep: tl.tensor
    keep_m: tl.tensor
    keep_n: tl.tensor


@triton.jit
def sequence_bounds(starts, ends, rows, AXIS: tl.constexpr):
    """The first key of the packed sequence of each row and the last plus 1, with a new dimension at AXIS; 0 if nothing is packed."""
    b_start, b_end = 0, 0
    if starts is not None:
        m_row = rows.start + rows.offsets < rows.length
        b_start = tl.load(starts + rows.start + rows.offsets, mask=m_row, other=0).expand_dims(AXIS)
        b_end = tl.load(ends + rows.start + rows.offsets, mask=m_row, other=0).expand_dims(AXIS)
    return b_start, b_end


@triton.jit
def key_span(queries, keys, band, starts, ends, tiles):
    """Which keys a block of rows needs: `low, full_low, full_high, high`, multiples of the keys of a block but for the last.

    Keys outside [low, high) are hidden from all rows, those in [full_low, full_high) from none.
    """
    first = queries.start
    last = tl.minimum(first + queries.offsets.shape[0], queries.length) - 1
    low, high = 0, keys.length
    full_low, full_high = 0, keys.length
    if band.causal:
        high = tl.minimum(high, last + band.offset + 1)
        full_high = tl.minimum(full_high, first + band.offset + 1)
    if band.windowed:
        low = tl.maximum(low, first + band.offset - band.window + 1)
        high = tl.minimum(high, last + band.offset + band.window)
        full_low = tl.maximum(full_low, last + band.offset - band.window + 1)
        full_high = tl.minimum(full_high, first + band.offset + band.window)
    low, full_low, full_high, high = narrowed((low, full_low, full_high, high), first, last, starts, ends)
    if tiles.pointer is not None:
        along = Tiles(tiles.pointer, tiles.stride_m, tiles.stride_n)
        low, full_low, full_high, high = kept_span((low, full_low, full_high, high), first, last, keys.length, along)
    return aligned((low, full_low, full_high, high), keys.offsets.shape[0])


@triton.jit
def query_span(queries, keys, band, starts, ends, tiles):
    """Which rows see a block of keys, as `key_span` gives which keys a block of rows sees; multiples of the rows of a block."""
    first = keys.start
    last = tl.minimum(first + keys.offsets.shape[0], keys.length) - 1
    low, high = 0, queries.length
    full_low, full_high = 0, queries.length
    if band.causal:
        low = tl.maximum(low, first - band.offset)
        full_low = tl.maximum(full_low, last - band.offset)
    if band.windowed:
        low = tl.maximum(low, first - band.offset - band.window + 1)
        high = tl.minimum(high, last - band.offset + band.window)
        full_low = tl.maximum(full_low, last - band.offset - band.window + 1)
        full_high = tl.minimum(full_high, first - band.offset + band.window)
    low, full_low, full_high, high = narrowed((low, full_low, full_high, high), first, last, starts, ends)
    if tiles.pointer is not None:
        along = Tiles(tiles.pointer, tiles.stride_n, tiles.stride_m)
        low, full_low, full_high, high = kept_span((low, full_low, full_high, high), first, last, queries.length, along)
    return aligned((low, full_low, full_high, high), queries.offsets.shape[0])


@triton.jit
def narrowed(span, first, last, starts, ends):
    """A span within packed sequences."""
    low, full_low, full_high, high = span
    if starts is not None:
        low = tl.maximum(low, tl.load(starts + first))
        high = tl.minimum(high, tl.load(ends + last))
        full_low = tl.maximum(full_low, tl.load(starts + last))
        full_high = tl.minimum(full_high, tl.load(ends + first))
    return low, full_low, full_high, high


@triton.jit
def kept_span(span, first, last, length, tiles):
    """A span within what the mask keeps for the rows `first` to `last`, of the `length` columns; tiles by rows and columns of the span.

    Of the tiles that are kept whole it takes the first run within the full range so far.
    """
    low, full_low, full_high, high = span
    count = tl.cdiv(length, MASK_TILE)
    first_kept, last_kept, first_whole, end_whole = count, 0, count, count
    for i in range(0, count, TILES_AT_ONCE):
        o_tile = i + tl.arange(0, TILES_AT_ONCE)
        b_least = tl.full([TILES_AT_ONCE], ALL, tl.int32)
        b_most = tl.zeros([TILES_AT_ONCE], tl.int32)
        p_tile = tiles.pointer + (first // MASK_TILE).to(tl.int64) * tiles.stride_m + o_tile * tiles.stride_n
        for _ in range(first // MASK_TILE, last // MASK_TILE + 1):
            b_tile = tl.load(p_tile, mask=o_tile < count, other=0).to(tl.int32)
            b_least, b_most = tl.minimum(b_least, b_tile), tl.maximum(b_most, b_tile)
            p_tile += tiles.stride_m
        first_kept = tl.minimum(first_kept, tl.min(tl.where(b_most > 0, o_tile, count), 0))
        last_kept = tl.maximum(last_kept, tl.max(tl.where(b_most > 0, o_tile + 1, 0), 0))
        m_whole = (b_least == ALL) & ((o_tile + 1) * MASK_TILE > full_low) & (o_tile * MASK_TILE < full_high)
        first_whole = tl.minimum(first_whole, tl.min(tl.where(m_whole, o_tile, count), 0))
        end_whole = tl.minimum(end_whole, tl.min(tl.where(~m_whole & (o_tile > first_whole), o_tile, count), 0))
    return (
        tl.maximum(low, first_kept * MASK_TILE), tl.maximum(full_low, first_whole * MASK_TILE),
        tl.minimum(full_high, end_whole * MASK_TILE), tl.minimum(high, last_kept * MASK_TILE),
    )  # fmt: skip


@triton.jit
def aligned(span, BLOCK: tl.constexpr):
    """A span whose bounds are multiples of BLOCK (but `high`) and in order."""
    low, full_low, full_high, high = span
    low = low // BLOCK * BLOCK
    full_low = tl.maximum(tl.cdiv(full_low, BLOCK) * BLOCK, low)
    full_high = tl.maximum(full_high // BLOCK * BLOCK, full_low)
    return low, full_low, full_high, high


@triton.jit
def blocks_of(span, BLOCK: tl.constexpr, EDGES: tl.constexpr):
    """How many blocks lie in the full range; or how many at its edges need a mask, and how many of these on its left."""
    low, full_low, full_high, high = span
    if EDGES:
        left = tl.cdiv(tl.maximum(tl.minimum(full_low, high) - low, 0), BLOCK)
        count = left + tl.cdiv(tl.maximum(high - full_high, 0), BLOCK)
    else:
        left = 0
        count = (full_high - full_low) // BLOCK
    return count, left


@triton.jit
def block_start(i, left, span, BLOCK: tl.constexpr, EDGES: tl.constexpr):
    """Where the i-th block of `blocks_of` begins."""
    low, full_low, full_high, _high = span
    if EDGES:
        start = tl.where(i < left, low + i * BLOCK, full_high + (i - left) * BLOCK)
    else:
        start = full_low + i * BLOCK
    return start


@triton.jit
def visible(rows, columns, mask):
    """True where the key takes part; offsets of rows, `mask.start` and `mask.end` broadcast against those of columns, either way around."""
    row, column = rows.start + rows.offsets, columns.start + columns.offsets
    m_seen = (row < rows.length) & (column < columns.length)
    row += mask.band.offset
    if mask.band.causal:
        m_seen &= column <= row
    if mask.band.windowed:
        m_seen &= (row - column < mask.band.window) & (column - row < mask.band.window)
    if mask.packed:
        m_seen &= (column >= mask.start) & (column < mask.end)
    if mask.keep is not None:
        if mask.keep.dtype.scalar.element_ty == tl.uint8:
            p_tile = mask.keep + rows.start.to(tl.int64) * mask.keep_m + columns.start.to(tl.int64) * mask.keep_n
            m_seen &= tl.load(p_tile + rows.offsets * mask.keep_m + columns.offsets * mask.keep_n, mask=m_seen, other=0) != 0
        else:
            m_seen &= kept_bits(rows, columns, mask).reshape(m_seen.shape) != 0
    return m_seen


@triton.jit
def kept_bits(rows, columns, mask):
    """The bits of a tile of a mask, [rows, words, bits of a word] or [words, bits of a word, rows], whichever way around the tile is."""
    AXIS: tl.constexpr = 1 if columns.offsets.shape[0] == 1 else 0  # of the columns
    BITS: tl.constexpr = WORD if columns.offsets.shape[AXIS] > WORD else columns.offsets.shape[AXIS]
    o_word = tl.arange(0, columns.offsets.shape[AXIS] // BITS).expand_dims(1 - AXIS)
    m_word = (rows.start + rows.offsets < rows.length) & (columns.start + o_word * WORD < columns.length)
    p_word = mask.keep + rows.start.to(tl.int64) * mask.keep_m + (columns.start // WORD).to(tl.int64) * mask.keep_n
    b_word = tl.load(p_word + rows.offsets * mask.keep_m + o_word * mask.keep_n, mask=m_word, other=0)
    o_bit = columns.start % WORD + tl.arange(0, BITS).expand_dims(1 - AXIS).expand_dims(0 if AXIS == 1 else 2)
    return (b_word.expand_dims(1 + AXIS) >> o_bit.reshape([1, 1, BITS] if AXIS == 1 else [1, BITS, 1])) & 1


@triton.jit(do_not_specialize=["keep_b", "keep_h", "keep_m", "keep_n", "heads", "rows", "columns"])
def mask_kernel(KEEP, BITS, TILES, keep_b, keep_h, keep_m, keep_n, heads, rows, columns):
    """BITS [batch, heads, rows, words] and TILES [batch, heads, tiles of rows, tiles of columns] of a mask; one program per tile.

    What lies beyond the bounds, has no bits, and keeps no tile from being whole.
    """
    tiles_n = tl.cdiv(columns, MASK_TILE)
    tiles_m = tl.cdiv(rows, MASK_TILE)
    i_bh = tl.program_id(0) // (tiles_m * tiles_n)
    i_b, i_h = (i_bh // heads).to(tl.int64), (i_bh % heads).to(tl.int64)
    i_m, i_n = tl.program_id(0) // tiles_n % tiles_m * MASK_TILE, tl.program_id(0) % tiles_n * MASK_TILE
    o_m, o_n = tl.arange(0, MASK_TILE), tl.arange(0, MASK_TILE)
    m_in = (i_m + o_m < rows)[:, None] & (i_n + o_n < columns)[None, :]
    p_tile = KEEP + i_b * keep_b + i_h * keep_h + i_m.to(tl.int64) * keep_m + i_n.to(tl.int64) * keep_n
    b_kept = (tl.load(p_tile + o_m[:, None] * keep_m + o_n[None, :] * keep_n, mask=m_in, other=0) != 0).to(tl.int32)
    most, least = tl.max(tl.max(b_kept, 1), 0), tl.min(tl.min(tl.where(m_in, b_kept, 1), 1), 0)
    tl.store(TILES + tl.program_id(0), (most * SOME + least * (ALL - SOME)).to(TILES.dtype.element_ty))
    words = tl.cdiv(columns, WORD)
    b_bits = b_kept.reshape([MASK_TILE, MASK_TILE // WORD, WORD]) << tl.arange(0, WORD)[None, None, :]
    o_word = i_n // WORD + tl.arange(0, MASK_TILE // WORD)
    p_word = BITS + (i_bh.to(tl.int64) * rows + i_m) * words + o_m[:, None] * words + o_word[None, :]
    tl.store(p_word, tl.sum(b_bits, 2), mask=(i_m + o_m < rows)[:, None] & (o_word < words)[None, :])


class PackedMask(NamedTuple):
    """Launch arguments of a boolean mask: `BITS` and `TILES`, which are None without one, and their strides, 0 where they broadcast."""

    tensors: dict[str, Tensor | None]
    strides: dict[str, int]


def pack_mask(keep: Tensor) -> PackedMask:
    """Launch the kernel that packs a mask, which broadcasts to `[batch, heads, queries, keys]`."""
    mask = keep.view(torch.uint8)
    if mask.shape[3] == 1:  # one column stands for all: it fills a word, which is read for all
        mask = mask.expand(-1, -1, -1, WORD.value)
    rows, columns = mask.shape[2:]
    bits = mask.new_empty((*mask.shape[:3], math.ceil(columns / WORD.value)), dtype=torch.int32)
    sizes = (math.ceil(rows / MASK_TILE.value), math.ceil(columns / MASK_TILE.value))
    tiles_of_mask = mask.new_empty((*mask.shape[:2], *sizes), dtype=torch.int8)
    if tiles_of_mask.numel():
        mask_kernel[tiles_of_mask.numel(),](mask, bits, tiles_of_mask, *mask.stride(), mask.shape[1], rows, columns)
    strides = {
        f"{name}_{dim}": 0 if tensor.shape[axis] == 1 else tensor.stride(axis)
        for name, tensor in (("keep", bits), ("tile", tiles_of_mask))
        for axis, dim in enumerate("bhmn")
    }
    return PackedMask({"BITS": bits, "TILES": tiles_of_mask}, strides)


NO_MASK = PackedMask({"BITS": None, "TILES": None}, {f"{name}_{dim}": 0 for name in ("keep", "tile") for dim in "bhmn"})
