"""The steps that the kernels share, each against what it says: spans against the mask itself, tanh, and the dropout's draw."""

import ast
import itertools
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

tl = pytest.importorskip("triton.language", reason="needs triton")
import triton
from gpu_exponentials import gpu_exponentials

from hf_tanhmax.attention.kernels import masks, primitives
from hf_tanhmax.attention.kernels.masks import Band, Tiles
from hf_tanhmax.attention.kernels.primitives import Dropout, Rows
from hf_tanhmax.attention.mask import AttentionMask

GPU = "cuda" if torch.cuda.is_available() else "cpu"
BLOCK_M, BLOCK_N = 4, 8


@triton.jit
def powers(X, OUT, EXACT: tl.constexpr, BLOCK: tl.constexpr):
    o_x = tl.arange(0, BLOCK)
    tl.store(OUT + o_x, primitives.power(tl.load(X + o_x), EXACT))


def exponentials(x, exact):
    """Of a vector, as the kernels have them; in the interpreter with a GPU's error."""
    out = torch.empty_like(x)
    with np.errstate(all="ignore"), gpu_exponentials() if GPU == "cpu" else nullcontext():
        powers[(1,)](x, out, exact, BLOCK=x.numel())
    return out.cpu()


@pytest.mark.parametrize(("low", "high"), [(-85.0, -40.0), (-40.0, 0.0), (0.0, 85.0)])
def test_exponentials_of_exact_float32_are_right_to_the_last_digits(low, high):
    """Not off by 2^-24 of the exponent, 85 times that, as a product with log2(e) that is rounded makes them."""
    x = torch.linspace(low, high, 1024, device=GPU)
    wide = x.double().cpu().exp()
    assert ((exponentials(x, True) - wide) / wide).abs().max() < 2.0**-22.5 + 2.0**-23


def test_exponentials_at_the_ends():
    ends = torch.tensor([0.0, -float("inf"), -2e38, -1e3, float("nan"), -100.0, -0.0, -105.0], device=GPU)
    for exact in (True, False):
        one, *zeros, nan, _, other, _ = exponentials(ends, exact)
        assert one == other == 1
        assert zeros == [0, 0, 0]
        assert nan.isnan()


@triton.jit
def spans(OUT, STARTS, ENDS, queries, keys, offset, window, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    i_m = tl.program_id(0) * BM
    rows, columns = Rows(i_m, tl.arange(0, BM), queries), Rows(0, tl.arange(0, BN), keys)
    band, tiles = Band(offset, window, CAUSAL, WINDOW), Tiles(None, 0, 0)
    low, full_low, full_high, high = masks.key_span(rows, columns, band, STARTS, ENDS, tiles)
    tl.store(OUT + tl.program_id(0) * 4, low)
    tl.store(OUT + tl.program_id(0) * 4 + 1, full_low)
    tl.store(OUT + tl.program_id(0) * 4 + 2, full_high)
    tl.store(OUT + tl.program_id(0) * 4 + 3, high)


@triton.jit
def transposed_spans(
    OUT, STARTS, ENDS, queries, keys, offset, window, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr
):  # fmt: skip
    i_n = tl.program_id(0) * BN
    rows, columns = Rows(0, tl.arange(0, BM), queries), Rows(i_n, tl.arange(0, BN), keys)
    band, tiles = Band(offset, window, CAUSAL, WINDOW), Tiles(None, 0, 0)
    low, full_low, full_high, high = masks.query_span(rows, columns, band, STARTS, ENDS, tiles)
    tl.store(OUT + tl.program_id(0) * 4, low)
    tl.store(OUT + tl.program_id(0) * 4 + 1, full_low)
    tl.store(OUT + tl.program_id(0) * 4 + 2, full_high)
    tl.store(OUT + tl.program_id(0) * 4 + 3, high)


def check_spans(kernel, mask, rows, columns, *arguments):
    """Of `mask` [n, m], cut into blocks of `rows` by `columns`: nothing visible outside, nothing hidden inside, and no block twice."""
    count = -(-mask.shape[0] // rows)
    out = torch.full((count, 4), -1, dtype=torch.int32, device=GPU)
    kernel[(count,)](out, *arguments)
    for block, (low, full_low, full_high, high) in enumerate(out.tolist()):
        part = mask[block * rows : (block + 1) * rows]
        assert low % columns == full_low % columns == full_high % columns == 0
        assert 0 <= low <= full_low <= full_high <= max(mask.shape[1], full_low)
        assert not part[:, :low].any()
        assert not part[:, max(high, 0) :].any()
        assert part[:, full_low:full_high].all()
        seen = part.any(0).nonzero().flatten()
        if seen.numel():  # and no block is walked for nothing
            assert seen[0] - low < columns
            assert high <= seen[-1] + 1
        # A block that all rows see is not taken for an edge.
        whole = [start for start in range(0, mask.shape[1] - columns + 1, columns) if part[:, start : start + columns].all()]
        assert whole == list(range(full_low, full_high, columns))


@pytest.mark.parametrize("window", [None, 1, 3, 9, 40])
@pytest.mark.parametrize(("causal", "offset"), [(False, 0), (True, 0), (True, 5), (True, -6), (False, 3)])
@pytest.mark.parametrize(("queries", "keys"), [(13, 29), (29, 13), (1, 17), (16, 16)])
def test_spans_of_causality_and_windows(queries, keys, causal, offset, window):
    mask = AttentionMask(queries, keys, causal, offset, window).full(torch.device("cpu"))
    mask = torch.ones(queries, keys, dtype=torch.bool) if mask is None else mask.expand(queries, keys)
    options = (None, None, queries, keys, offset, window or 0, BLOCK_M, BLOCK_N, causal, window is not None)
    check_spans(spans, mask, BLOCK_M, BLOCK_N, *options)
    check_spans(transposed_spans, mask.T, BLOCK_N, BLOCK_M, *options)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bounds", [(0, 23), (0, 1, 2, 3, 23), (0, 8, 16, 23), (0, 11, 12, 23)])
def test_spans_of_packed_sequences(bounds, causal):
    length = bounds[-1]
    segments = torch.searchsorted(torch.tensor(bounds), torch.arange(length), right=True)
    starts, ends = (torch.tensor(bounds, dtype=torch.int32)[segments - step].to(GPU) for step in (1, 0))
    mask = AttentionMask(length, length, causal, segments=segments).full(torch.device("cpu"))
    options = (starts, ends, length, length, 0, 0, BLOCK_M, BLOCK_N, causal, False)
    check_spans(spans, mask, BLOCK_M, BLOCK_N, *options)
    check_spans(transposed_spans, mask.T, BLOCK_N, BLOCK_M, *options)


@triton.jit
def tanh_kernel(X, OUT, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(OUT + offsets, primitives.tanh(tl.load(X + offsets)))


def test_tanh_is_right_to_a_few_digits_of_float32():
    values = torch.cat([torch.logspace(-6, 1.5, 510), torch.tensor([0.0, 1e30])])
    values = torch.cat([values, -values]).to(GPU)
    found = torch.empty_like(values)
    tanh_kernel[(1,)](values, found, 1024)
    expected = values.double().tanh()
    assert ((found.double() - expected).abs() <= 3e-7 * expected.abs()).all()
    specials = torch.full((1024,), float("nan"), device=GPU)
    specials[0], specials[1] = float("inf"), float("-inf")
    tanh_kernel[(1,)](specials, found, 1024)
    assert found[:2].tolist() == [1.0, -1.0]
    assert found[2:].isnan().all()


@triton.jit
def draw_kernel(OUT, seed, i_bh, i_m, i_n, dropout_p, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FLIPPED: tl.constexpr):
    o_m, o_n = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    i_bh += tl.program_id(0)
    i_m += tl.program_id(0)
    i_n += tl.program_id(0)
    if FLIPPED:
        rows, columns = Rows(i_m, o_m[None, :], ROWS), Rows(i_n, o_n[:, None], COLUMNS)
        drawn = tl.trans(primitives.survives(rows, columns, Dropout(seed, i_bh, dropout_p, True)))
    else:
        rows, columns = Rows(i_m, o_m[:, None], ROWS), Rows(i_n, o_n[None, :], COLUMNS)
        drawn = primitives.survives(rows, columns, Dropout(seed, i_bh, dropout_p, True))
    tl.store(OUT + o_m[:, None] * COLUMNS + o_n[None, :], drawn.to(tl.int8))


def draw(seed, i_bh=0, i_m=0, i_n=0, dropout_p=0.25, rows=64, columns=64, flipped=False):
    out = torch.empty(rows, columns, dtype=torch.int8, device=GPU)
    draw_kernel[(1,)](out, seed, i_bh, i_m, i_n, dropout_p, rows, columns, flipped)
    return out.bool().cpu()


def test_the_draw_depends_on_position_and_seed_alone():
    whole = draw(7)
    assert torch.equal(draw(7, flipped=True), whole)
    for i_m, i_n in itertools.product((0, 16, 48), (0, 32)):
        assert torch.equal(draw(7, i_m=i_m, i_n=i_n, rows=16, columns=32), whole[i_m : i_m + 16, i_n : i_n + 32])


def test_draws_are_independent_and_have_the_wanted_share():
    whole = draw(7)
    assert abs(whole.float().mean() - 0.75) < 0.03
    for other in (draw(8), draw(7 + 2**33), draw(7, i_bh=1), draw(7, i_m=64), draw(7, i_n=64), whole.T):
        agree = (whole == other).float().mean()
        assert abs(agree - (0.75**2 + 0.25**2)) < 0.05


def test_device_functions_take_at_most_twelve_parameters():
    """What travels together is a NamedTuple; only kernels, which a launcher calls by name, have flat lists."""
    found = {
        function.name: len(function.args.args)
        for path in Path(primitives.__file__).parent.glob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef) and "triton.jit" in map(ast.unparse, function.decorator_list)
    }
    assert {"walk", "tile_gradient", "visible"} <= set(found)
    assert max(found.values()) <= 12, found
