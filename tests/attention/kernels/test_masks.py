"""A boolean mask as the kernels read it, against the mask itself: its bits, the map of its tiles, and the blocks that follow from it."""

import pytest
import torch

tl = pytest.importorskip("triton.language", reason="needs triton")
import triton

from hf_tanhmax.attention.kernels import masks
from hf_tanhmax.attention.kernels.interpreter import faithful
from hf_tanhmax.attention.kernels.masks import NO_MASK, Band, Mask, Tiles, pack_mask
from hf_tanhmax.attention.kernels.primitives import Rows

GPU = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, KEYS = 137, 205
SHAPES = [(2, 3, ROWS, KEYS), (1, 1, ROWS, 1), (2, 1, 1, KEYS), (1, 3, ROWS, KEYS), (2, 3, 1, 1)]


def mask_of(shape):
    """With tiles that are kept whole, kept in part, and hidden; one batch entry has fewer."""
    torch.manual_seed(0)
    keep = torch.rand(shape) > 0.3
    if shape[3] > 1:
        keep[..., 64:150], keep[..., 192:] = True, False
    keep[0, :, : shape[2] // 3, : shape[3] // 2] = False
    return keep


def strided(keep, way):
    """The same mask in memory by columns, or a slice of a larger one."""
    if way == "by columns":
        return keep.transpose(2, 3).contiguous().transpose(2, 3)
    larger = torch.zeros(*keep.shape[:2], 2 * keep.shape[2], keep.shape[3] + 3, dtype=torch.bool)
    larger[:, :, ::2, 2:-1] = keep
    return larger[:, :, ::2, 2:-1]


@pytest.mark.parametrize("way", ["by columns", "a slice"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_and_tiles_are_those_of_the_mask(shape, way):
    keep = mask_of(shape)
    packed = pack_mask(strided(keep, way).to(GPU))
    bits, tiles = (packed.tensors[name].cpu() for name in ("BITS", "TILES"))
    unpacked = (bits[..., None] >> torch.arange(32)) & 1
    assert torch.equal(unpacked.flatten(3)[..., : shape[3]].bool(), keep)
    whole = keep.expand(*shape[:3], 32) if shape[3] == 1 else keep
    for i, rows in enumerate(whole.split(64, 2)):
        for j, tile in enumerate(rows.split(64, 3)):
            expected = tile.flatten(2).any(2).int() + tile.flatten(2).all(2).int()
            assert torch.equal(tiles[:, :, i, j].int(), expected)
    assert all((packed.strides[f"keep_{dim}"] == 0) == (size == 1) for dim, size in zip("bhmn", bits.shape, strict=True))


def test_without_a_mask_nothing_is_launched():
    packed = NO_MASK
    assert set(packed.tensors.values()) == {None}
    assert set(packed.strides.values()) == {0}


@triton.jit
def read_kernel(
    BITS, TILES, OUT, SPANS, keep_m, keep_n, tile_m, tile_n, queries, keys, window,
    BM: tl.constexpr, BN: tl.constexpr, TRANSPOSED: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """What the kernels see of a mask, tile by tile, either way around, and the span of each block of rows (or of keys)."""
    o_m, o_n = tl.arange(0, BM), tl.arange(0, BN)
    band, tiles = Band(0, window, False, WINDOW), Tiles(TILES, tile_m, tile_n)
    if TRANSPOSED:
        i_n = tl.program_id(0) * BN
        span = masks.query_span(Rows(0, o_m, queries), Rows(i_n, o_n, keys), band, None, None, tiles)
        for i_m in range(0, queries, BM):
            start = tl.program_id(0) * 0 + i_m
            m_seen = masks.visible(
                Rows(start, o_m[None, :], queries), Rows(i_n, o_n[:, None], keys), Mask(band, 0, 0, False, BITS, keep_m, keep_n)
            )
            m_in = (start + o_m < queries)[None, :] & (i_n + o_n < keys)[:, None]
            tl.store(OUT + (start + o_m)[None, :] * keys + (i_n + o_n)[:, None], m_seen.to(tl.int8), mask=m_in)
    else:
        i_m = tl.program_id(0) * BM
        span = masks.key_span(Rows(i_m, o_m, queries), Rows(0, o_n, keys), band, None, None, tiles)
        for i_n in range(0, keys, BN):
            start = tl.program_id(0) * 0 + i_n
            m_seen = masks.visible(
                Rows(i_m, o_m[:, None], queries), Rows(start, o_n[None, :], keys), Mask(band, 0, 0, False, BITS, keep_m, keep_n)
            )
            m_in = (i_m + o_m < queries)[:, None] & (start + o_n < keys)[None, :]
            tl.store(OUT + (i_m + o_m)[:, None] * keys + (start + o_n)[None, :], m_seen.to(tl.int8), mask=m_in)
    for i in tl.static_range(4):
        tl.store(SPANS + tl.program_id(0) * 4 + i, span[i])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("block_m", "block_n", "window"), [(16, 16, None), (32, 64, 90), (128, 32, None)])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_what_the_kernels_see(shape, block_m, block_n, window, transposed):
    """The mask, whichever way around; nothing is kept outside of a span, and nothing is hidden within its full part."""
    keep = mask_of(shape)
    packed = pack_mask(keep.to(GPU))
    out = torch.full((ROWS, KEYS), 7, dtype=torch.int8, device=GPU)
    blocks, block, across = (-(-KEYS // block_n), block_n, block_m) if transposed else (-(-ROWS // block_m), block_m, block_n)
    spans = torch.full((blocks, 4), -1, dtype=torch.int32, device=GPU)
    strides = [packed.strides[name] for name in ("keep_m", "keep_n", "tile_m", "tile_n")]
    with faithful():
        read_kernel[(blocks,)](
            *packed.tensors.values(), out, spans, *strides, ROWS, KEYS, window or 0, block_m, block_n, transposed, window is not None
        )
    seen = keep[0, 0].expand(ROWS, KEYS)
    if window is not None:
        seen = seen & ((torch.arange(ROWS)[:, None] - torch.arange(KEYS)).abs() < window)
    assert torch.equal(out.cpu().bool(), seen)
    seen = seen.T if transposed else seen
    for i, (part, (low, full_low, full_high, high)) in enumerate(zip(seen.split(block), spans.tolist(), strict=True)):
        assert low % across == full_low % across == full_high % across == 0
        assert low <= full_low <= full_high
        assert not part[:, :low].any()
        assert not part[:, max(high, 0) :].any()
        assert part[:, full_low:full_high].all()
        around = seen[i * block // 64 * 64 : -(-(i + 1) * block // 64) * 64].any(0).nonzero().flatten()  # in these rows of the map
        if window is None and around.numel():  # and little is walked for nothing: less than a tile of the map and a block at either end
            assert around[0] - low < 64 + across
            assert high - around[-1] <= 64


def test_tiles_that_are_kept_whole_need_no_mask():
    """Of a padding mask all blocks but the last: a span that asked for the mask everywhere would be right, and slow."""
    keep = (torch.arange(640) < 600).view(1, 1, 1, -1)
    packed = pack_mask(keep.to(GPU))
    spans = torch.full((1, 4), -1, dtype=torch.int32, device=GPU)
    strides = [packed.strides[name] for name in ("keep_m", "keep_n", "tile_m", "tile_n")]
    out = torch.empty(32, 640, dtype=torch.int8, device=GPU)
    with faithful():
        read_kernel[(1,)](*packed.tensors.values(), out, spans, *strides, 32, 640, 0, 32, 64, False, False)
    assert spans.tolist() == [[0, 0, 576, 640]]


def test_longer_maps_than_are_looked_at_once():
    keep = torch.zeros(1, 1, 1, 64 * 300, dtype=torch.bool)
    keep[..., 64 * 100 : 64 * 280] = True
    keep[..., 64 * 270] = False
    packed = pack_mask(keep.to(GPU))
    spans = torch.full((1, 4), -1, dtype=torch.int32, device=GPU)
    out = torch.empty(16, keep.shape[3], dtype=torch.int8, device=GPU)
    strides = [packed.strides[name] for name in ("keep_m", "keep_n", "tile_m", "tile_n")]
    with faithful():
        read_kernel[(1,)](*packed.tensors.values(), out, spans, *strides, 16, keep.shape[3], 0, 16, 128, False, False)
    assert spans.tolist() == [[6400, 6400, 17280, 17920]]
    assert spans[0, 2] == 64 * 270
