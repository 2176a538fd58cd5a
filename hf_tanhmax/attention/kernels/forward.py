r"""The forward kernel.

One program computes BLOCK_M rows of one head. It walks the keys that its rows can see, block by block, with a running shift
:math:`m = \max_k \max(x_k, y_k)`:

.. math:: \ell = \sum_k 2^{x_k - m} + 2^{y_k - m}, \qquad O = \frac{1}{\ell} \sum_k (2^{x_k - m} - 2^{y_k - m}) V_k, \qquad
          L = (m + \log_2 \ell) \ln 2

Blocks that all rows see are walked first, without a mask; then the others from the first to the last visible key, with one. The difference
of the exponentials is formed in float32 and rounded once, to the dtype of the values. Rows without a key get O = 0 and L = +inf.

With NORMS the shift is a fixed one where the bound in `shift` allows it, and m stays what it is.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from .balanced import Halves, inverse, join_halves, load_polarity, log_share, walk_halves
from .masks import Band, Mask, Tiles, block_start, blocks_of, key_span, sequence_bounds, visible
from .primitives import (
    LN2,
    Bias,
    Dropout,
    Matrix,
    Rows,
    Scoring,
    difference,
    exponents,
    faded,
    largest,
    load_tile,
    power,
    scores,
    survives,
)
from .shift import all_finite, mixed_pair, static_shift

# Run-time integers: a new length, stride or number of heads compiles nothing anew.
STRIDES = [f"{tensor}_{dim}" for tensor, dims in {"q": "bhm", "k": "bhn", "v": "bhn", "tile": "bhmn"}.items() for dim in dims]
STRIDES += [f"{tensor}_{dim}" for tensor in ("bias", "keep") for dim in "bhmn"]
RUNTIME = [*STRIDES, "queries", "keys", "heads", "groups", "rows", "offset", "window"]


class Sums(NamedTuple):
    """What is summed up over the keys: weighted values, exponentials; and the shift of the exponents."""

    values: tl.tensor
    exponentials: tl.tensor
    shift: tl.tensor


@triton.jit(do_not_specialize=RUNTIME)
def forward_kernel(
    Q, K, V, LOG_P, BIAS, BITS, TILES, STARTS, ENDS, SEED, O, LSE, STATS, NORMS, OPPOSITE,
    q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, bias_b, bias_h, bias_m, bias_n, keep_b, keep_h, keep_m, keep_n,
    tile_b, tile_h, tile_m, tile_n, queries, keys, heads, groups, rows, offset, window, scale, cap, dropout_p,
    DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, POLARITY: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    CAPPED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ADDITIVE: tl.constexpr, POLYNOMIAL: tl.constexpr,
    DESCRIBED: tl.constexpr, BALANCED: tl.constexpr,
):  # fmt: skip
    """Output [batch, queries, heads, VALUE_DIM] and L [batch, heads, queries]; q, k, v by their strides over ALIGN.

    STATS [2, rows], if wanted, are the shift and one over the sum of each of the `rows` = batch * heads * queries rows. NORMS are those of
    `shift.norm_kernel`, where the shift is to be a fixed one; POLYNOMIAL is then for the exponentials of one score in four. If DESCRIBED, K
    and V are tensor descriptors of [batch, heads, keys, DIM or VALUE_DIM], with blocks of [1, 1, BLOCK_N, BLOCK_DIM or BLOCK_VALUE].
    """
    blocks = tl.cdiv(queries, BLOCK_M)
    i_m = (blocks - 1 - tl.program_id(0) % blocks) * BLOCK_M  # under a causal mask the last rows have the most to do, so they start
    i_bh = tl.program_id(0) // blocks
    i_b, i_h = (i_bh // heads).to(tl.int64), i_bh % heads
    i_kv = i_h // groups
    o_m, o_n, o_d, o_v = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_VALUE)

    if DESCRIBED:
        p_k, p_v = (K, i_b.to(tl.int32), i_kv), (V, i_b.to(tl.int32), i_kv)
    else:
        p_k = K + (i_b * k_b + i_kv.to(tl.int64) * k_h) * ALIGN
        p_v = V + (i_b * v_b + i_kv.to(tl.int64) * v_h) * ALIGN
    p_bias, p_keep, p_tiles = BIAS, BITS, TILES
    if BIAS is not None:
        p_bias = BIAS + i_b * bias_b + i_h.to(tl.int64) * bias_h
    if BITS is not None:
        p_keep = BITS + i_b * keep_b + i_h.to(tl.int64) * keep_h
        p_tiles = TILES + i_b * tile_b + i_h.to(tl.int64) * tile_h
    block = Rows(i_m, o_m, queries)
    b_start, b_end = sequence_bounds(STARTS, ENDS, block, 1)
    log_p, seed = 0.0, 0
    if POLARITY == 2:
        log_p = tl.load(LOG_P + i_h)
    if DROPOUT:
        seed = tl.load(SEED)

    p_q = Q + (i_b * q_b + i_h.to(tl.int64) * q_h) * ALIGN
    b_q = load_tile(Matrix(p_q, q_m * ALIGN, o_d, DIM, BLOCK_DIM), block, MASKED=True)
    span = key_span(block, Rows(0, o_n, keys), Band(offset, window, CAUSAL, WINDOW), STARTS, ENDS, Tiles(p_tiles, tile_m, tile_n))
    if BALANCED:
        polarity = load_polarity(LOG_P, i_h, None)
        b_acc, b_opposite, b_sum, b_sum_n, b_max, b_max_n, b_ratio = walk_halves(
            b_q, block, span,
            Matrix(p_k, k_n * ALIGN, o_d, DIM, BLOCK_DIM, DESCRIBED), Matrix(p_v, v_n * ALIGN, o_v, VALUE_DIM, BLOCK_VALUE, DESCRIBED),
            Rows(0, o_n, keys), Mask(Band(offset, window, CAUSAL, WINDOW), b_start, b_end, STARTS is not None, p_keep, keep_m, keep_n),
            Scoring(scale, cap, log_p, Bias(p_bias, bias_m, bias_n, ADDITIVE), CAPPED, POLARITY, STATS is not None),
            Dropout(seed, i_bh, dropout_p, DROPOUT), polarity, BLOCK_VALUE, PRECISION,
        )  # fmt: skip
        b_out, b_opposite = join_halves(Halves(b_acc, b_opposite, b_sum, b_sum_n, b_max, b_max_n, b_ratio), polarity, dropout_p)
        positive, negative = 1.0 / (1.0 + polarity), polarity / (1.0 + polarity)
        b_lse, b_lse_n = log_share(b_sum, b_max, positive, STATS is not None), log_share(b_sum_n, b_max_n, negative, STATS is not None)
        b_inverse, b_inverse_n = positive * inverse(b_sum), negative * inverse(b_sum_n)
    else:
        b_max = tl.full([BLOCK_M], -1e38 if POLARITY != 1 or ADDITIVE else 0.0, tl.float32)
        b_sum = tl.zeros([BLOCK_M], tl.float32)
        b_acc = tl.zeros([BLOCK_M, BLOCK_VALUE], tl.float32)
        done = False
        if NORMS is not None:
            b_shift, done = static_shift(
                b_q, NORMS, i_b.to(tl.int32) * (heads // groups) + i_kv, keys,
                Scoring(scale, cap, log_p, Bias(p_bias, bias_m, bias_n, ADDITIVE), CAPPED, POLARITY, STATS is not None), POLYNOMIAL,
            )  # fmt: skip
            if done:
                b_acc, b_sum, b_max = walk(
                    b_q, Sums(b_acc, b_sum, b_shift), block, span,
                    Matrix(p_k, k_n * ALIGN, o_d, DIM, BLOCK_DIM, DESCRIBED),
                    Matrix(p_v, v_n * ALIGN, o_v, VALUE_DIM, BLOCK_VALUE, DESCRIBED), Rows(0, o_n, keys),
                    Mask(Band(offset, window, CAUSAL, WINDOW), b_start, b_end, STARTS is not None, p_keep, keep_m, keep_n),
                    Scoring(scale, cap, log_p, Bias(p_bias, bias_m, bias_n, ADDITIVE), CAPPED, POLARITY, STATS is not None),
                    Dropout(seed, i_bh, dropout_p, DROPOUT), "polynomial" if POLYNOMIAL else "static", PRECISION,
                )  # fmt: skip
                done = all_finite(b_acc)
        if not done:
            b_max = tl.full([BLOCK_M], -1e38 if POLARITY != 1 or ADDITIVE else 0.0, tl.float32)
            b_acc, b_sum, b_max = walk(
                b_q, Sums(tl.zeros_like(b_acc), tl.zeros_like(b_sum), b_max), block, span,
                Matrix(p_k, k_n * ALIGN, o_d, DIM, BLOCK_DIM, DESCRIBED), Matrix(p_v, v_n * ALIGN, o_v, VALUE_DIM, BLOCK_VALUE, DESCRIBED),
                Rows(0, o_n, keys), Mask(Band(offset, window, CAUSAL, WINDOW), b_start, b_end, STARTS is not None, p_keep, keep_m, keep_n),
                Scoring(scale, cap, log_p, Bias(p_bias, bias_m, bias_n, ADDITIVE), CAPPED, POLARITY, STATS is not None),
                Dropout(seed, i_bh, dropout_p, DROPOUT), "running", PRECISION,
            )  # fmt: skip

        m_empty = b_sum == 0.0
        b_sum = tl.where(m_empty, 1.0, b_sum)
        b_out = b_acc * (1.0 / (b_sum * (1.0 - dropout_p)))[:, None]
        b_lse = b_max + tl.log(b_sum) if STATS is not None else (b_max + tl.log2(b_sum)) * LN2
        b_lse = tl.where(m_empty, float("inf"), b_lse)
        b_inverse = tl.where(m_empty, 0.0, 1.0 / b_sum)

    m_row = i_m + o_m < queries
    p_out = O + ((i_b * queries + i_m) * heads + i_h) * VALUE_DIM + o_m[:, None] * (heads * VALUE_DIM) + o_v[None, :]
    tl.store(p_out, b_out.to(O.dtype.element_ty), mask=m_row[:, None] & (o_v < VALUE_DIM)[None, :])
    p_row = i_bh.to(tl.int64) * queries + i_m + o_m
    tl.store(LSE + p_row, b_lse, mask=m_row)
    if STATS is not None:
        tl.store(STATS + p_row, b_max, mask=m_row)
        tl.store(STATS + rows + p_row, b_inverse, mask=m_row)
    if BALANCED:
        p_row += rows // 2
        tl.store(LSE + p_row, b_lse_n, mask=m_row)
        if STATS is not None:
            tl.store(STATS + p_row, b_max_n, mask=m_row)
            tl.store(STATS + rows + p_row, b_inverse_n, mask=m_row)
        if OPPOSITE is not None:
            p_out = OPPOSITE + ((i_b * queries + i_m) * heads + i_h) * VALUE_DIM + o_m[:, None] * (heads * VALUE_DIM) + o_v[None, :]
            tl.store(p_out, b_opposite.to(OPPOSITE.dtype.element_ty), mask=m_row[:, None] & (o_v < VALUE_DIM)[None, :])


@triton.jit
def walk(
    b_q, sums, queries, span, key, value, keys, mask, scoring, dropout, SHIFT: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Take all blocks of keys that the rows can see into the running sums: first those without a mask, then those with one."""
    b_acc, b_sum, b_max = sums
    BLOCK: tl.constexpr = keys.offsets.shape[0]
    for EDGES in tl.static_range(2):
        count, left = blocks_of(span, BLOCK, EDGES == 1)
        for i in range(count):
            i_n = block_start(i, left, span, BLOCK, EDGES == 1)
            b_acc, b_sum, b_max = attend(
                b_q, Sums(b_acc, b_sum, b_max), queries, key, value, Rows(i_n, keys.offsets, keys.length), mask, scoring, dropout,
                EDGES == 1, SHIFT, PRECISION,
            )  # fmt: skip
    return b_acc, b_sum, b_max


@triton.jit
def attend(
    b_q, sums, queries, key, value, keys, mask, scoring, dropout, MASKED: tl.constexpr, SHIFT: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Take one block of keys into the running sums.

    SHIFT is "running" for the largest exponent so far, "static" for one that does not move, or "polynomial" for a static one with which one
    score in four is exponentiated by the polynomial of `shift`.
    """
    b_acc, b_sum, b_max = sums
    STATIC: tl.constexpr = SHIFT != "running"
    rows, columns = Rows(queries.start, queries.offsets[:, None], queries.length), Rows(keys.start, keys.offsets[None, :], keys.length)
    b_k = load_tile(key, keys, MASKED)  # [BLOCK_N, BLOCK_DIM]
    b_qk = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
    b_x, _ = scores(b_qk, rows, columns, scoring, STATIC)
    b_a = b_x
    m_seen = None
    if MASKED:
        m_seen = visible(rows, columns, mask)
    b_x, b_y = exponents(b_x, m_seen, scoring, MASKED)
    b_a, b_x, b_y = faded(b_a, b_x, b_y, rows, columns, scoring)

    b_new = b_max
    if not STATIC:
        b_new = tl.maximum(b_max, largest(b_x, b_y, scoring, MASKED))
        b_shrink = power(b_max - b_new, scoring.exact)
    if SHIFT == "polynomial" and not MASKED:
        b_w, b_n = mixed_pair(b_x, b_new[:, None] + tl.zeros_like(b_x), columns.offsets)
    else:
        b_w = power(b_x - b_new[:, None], scoring.exact)
        if scoring.polarity != 0:
            b_n = power(b_y - b_new[:, None], scoring.exact)
    b_all = b_w
    if scoring.polarity != 0:
        b_all = b_w + b_n
        b_w = difference(b_a, b_w, b_n, scoring)
    b_sum = tl.sum(b_all, 1) + (b_sum if STATIC else b_sum * b_shrink)
    if dropout.active:
        b_w = tl.where(survives(rows, columns, dropout), b_w, 0.0)
    b_v = load_tile(value, keys, MASKED)  # [BLOCK_N, BLOCK_VALUE]
    b_acc = tl.dot(b_w.to(b_v.dtype), b_v, b_acc if STATIC else b_acc * b_shrink[:, None], input_precision=PRECISION)
    return b_acc, b_sum, b_new
