r"""The backward kernels. They add nothing atomically unless the launcher is asked to, so every run gives the same bits.

With :math:`P = 2^{x - L}`, :math:`N = 2^{y - L}`, :math:`W = P - N`, :math:`C = P + N`, :math:`dP = dO\,V^\top` and
:math:`D = \mathrm{rowsum}(dO \circ O)`:

.. math:: dV = W^\top dO, \quad dA = C \circ dP - W \circ D, \quad dQ = \alpha\, dA\, K, \quad dK = \alpha\, dA^\top Q, \quad
          \frac{dL}{d\log p} = -\sum_j N_j (dP_j + D)

* `delta_kernel`: D, row by row, from the rounded output (float32 sums it exactly instead, in `query_kernel`);
* `key_value_kernel`: one program owns a block of keys of one key head and walks the rows of all query heads of its group, or of a share of
  them, so that few key heads keep a GPU busy: the parts of dK and dV are added up afterwards, in a fixed order. If asked to, it adds its
  part of dQ to that of the others, in no certain order, and saves `query_kernel`, two matrix products and half the exponentials;
* `query_kernel`: one program owns a block of rows and walks their keys; the gradient of log p comes along, a number per row;
* `bias_kernel`: one program owns a tile of the bias, or of the additive mask (:math:`dM = W \circ dP - C \circ D`), and walks the batch
  entries and heads that share it.
"""

import triton
import triton.language as tl

from .balanced import halves_gradient, load_polarity
from .forward import RUNTIME
from .masks import Band, Mask, Tiles, block_start, blocks_of, key_span, query_span, sequence_bounds, visible
from .primitives import (
    Bias,
    Dropout,
    Matrix,
    Rows,
    Scoring,
    Statistics,
    exponents,
    faded,
    load_tile,
    row_statistics,
    score_gradient,
    scores,
    survives,
)


@triton.jit(do_not_specialize=["batch", "heads", "queries"])
def delta_kernel(O, GRAD, DELTA, batch, heads, queries, VALUE_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, BLOCK_M: tl.constexpr):
    """D [batch, heads, queries] from output and its gradient, both dense [batch, queries, heads, VALUE_DIM]."""
    o_row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)  # rows of [batch * queries * heads]
    o_v = tl.arange(0, BLOCK_VALUE)
    m_row = o_row < batch.to(tl.int64) * heads * queries
    p_tile = o_row[:, None] * VALUE_DIM + o_v[None, :]
    m_tile = m_row[:, None] & (o_v < VALUE_DIM)[None, :]
    b_out = tl.load(O + p_tile, mask=m_tile, other=0.0).to(tl.float32)
    b_grad = tl.load(GRAD + p_tile, mask=m_tile, other=0.0).to(tl.float32)
    i_h, i_bm = o_row % heads, o_row // heads
    p_delta = DELTA + ((i_bm // queries) * heads + i_h) * queries + i_bm % queries
    tl.store(p_delta, tl.sum(b_out * b_grad, 1), mask=m_row)


@triton.jit(do_not_specialize=[*RUNTIME, "splits"])
def key_value_kernel(
    Q, K, V, LOG_P, BIAS, BITS, TILES, STARTS, ENDS, SEED, GRAD, LSE, STATS, DELTA, DK, DV, SUM_Q,
    q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, bias_b, bias_h, bias_m, bias_n, keep_b, keep_h, keep_m, keep_n,
    tile_b, tile_h, tile_m, tile_n, queries, keys, heads, groups, rows, offset, window, splits, scale, cap, factor, dropout_p,
    DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, POLARITY: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    CAPPED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ADDITIVE: tl.constexpr,
    BALANCED: tl.constexpr,
):  # fmt: skip
    """dK [batch, splits, keys, key heads, DIM] and dV [.., VALUE_DIM], dense; each split has a share of the heads of each group.

    SUM_Q, if dQ is to be added up, is a tensor descriptor of [batch, heads, queries, DIM] in float32, with blocks of [1, 1, BLOCK_M,
    BLOCK_DIM].
    """
    blocks = tl.cdiv(keys, BLOCK_N)
    i_n = tl.program_id(0) % blocks * BLOCK_N
    i_s = tl.program_id(0) // blocks % splits
    i_bkv = tl.program_id(0) // blocks // splits
    kv_heads = heads // groups
    i_b, i_kv = (i_bkv // kv_heads).to(tl.int64), i_bkv % kv_heads
    o_m, o_n, o_d, o_v = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_VALUE)

    p_k = K + (i_b * k_b + i_kv.to(tl.int64) * k_h) * ALIGN
    b_k = load_tile(Matrix(p_k, k_n * ALIGN, o_d, DIM, BLOCK_DIM), Rows(i_n, o_n, keys), MASKED=True)
    p_v = V + (i_b * v_b + i_kv.to(tl.int64) * v_h) * ALIGN
    b_v = load_tile(Matrix(p_v, v_n * ALIGN, o_v, VALUE_DIM, BLOCK_VALUE), Rows(i_n, o_n, keys), MASKED=True)
    b_dk = tl.zeros([BLOCK_N, BLOCK_DIM], tl.float32)
    b_dv = tl.zeros([BLOCK_N, BLOCK_VALUE], tl.float32)
    seed = 0
    if DROPOUT:
        seed = tl.load(SEED)
    share = tl.cdiv(groups, splits)
    for i_g in range(i_s * share, tl.minimum(i_s * share + share, groups)):
        i_h = i_kv * groups + i_g
        i_bh = (i_b * heads + i_h).to(tl.int32)
        p_q = Q + (i_b * q_b + i_h.to(tl.int64) * q_h) * ALIGN
        p_grad = GRAD + (i_b * queries * heads + i_h) * VALUE_DIM
        p_row = (i_b * heads + i_h) * queries
        p_bias, p_keep, p_tiles = BIAS, BITS, TILES
        if BIAS is not None:
            p_bias = BIAS + i_b * bias_b + i_h.to(tl.int64) * bias_h
        if BITS is not None:
            p_keep = BITS + i_b * keep_b + i_h.to(tl.int64) * keep_h
            p_tiles = TILES + i_b * tile_b + i_h.to(tl.int64) * tile_h
        log_p = 0.0
        if POLARITY == 2:
            log_p = tl.load(LOG_P + i_h)
        low, full_low, full_high, high = query_span(
            Rows(0, o_m, queries), Rows(i_n, o_n, keys), Band(offset, window, CAUSAL, WINDOW), STARTS, ENDS, Tiles(p_tiles, tile_m, tile_n)
        )  # fmt: skip
        if SUM_Q is not None:  # what keys beyond the last get is not stored, but would meet their zeros in dQ: 2^(0 - L) may be infinite
            full_high = tl.where(i_n + BLOCK_N > keys, full_low, full_high)
        for EDGES in tl.static_range(2):
            count, left = blocks_of((low, full_low, full_high, high), BLOCK_M, EDGES == 1)
            for i in range(count):
                i_m = block_start(i, left, (low, full_low, full_high, high), BLOCK_M, EDGES == 1)
                block = Rows(i_m, o_m, queries)
                b_q = load_tile(Matrix(p_q, q_m * ALIGN, o_d, DIM, BLOCK_DIM), block, EDGES == 1)
                b_grad = load_tile(Matrix(p_grad, heads * VALUE_DIM, o_v, VALUE_DIM, BLOCK_VALUE), block, EDGES == 1)
                if STATS is not None:  # summed in the order of the other kernels, whose exponents these must meet to the last digit
                    b_qk = tl.trans(tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION))
                    b_dp = tl.trans(tl.dot(b_grad, tl.trans(b_v), input_precision=PRECISION))
                else:
                    b_qk = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
                    b_dp = tl.dot(b_v, tl.trans(b_grad), input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
                b_start, b_end = sequence_bounds(STARTS, ENDS, block, 0)
                m_row = i_m + o_m < queries
                b_shift, b_inverse = row_statistics(LSE, STATS, p_row + i_m + o_m, rows, m_row)
                b_delta = tl.load(DELTA + p_row + i_m + o_m, mask=m_row, other=0.0)
                b_shift_n, b_inverse_n, b_delta_n = b_shift, b_inverse, b_delta
                if BALANCED:
                    b_shift_n, b_inverse_n = row_statistics(LSE, STATS, p_row + rows // 2 + i_m + o_m, rows, m_row)
                    b_delta_n = tl.load(DELTA + p_row + rows // 2 + i_m + o_m, mask=m_row, other=0.0)
                b_w, _, b_ds = tile_gradient(
                    b_qk, b_dp, Statistics(b_shift[None, :], b_inverse[None, :], b_delta[None, :]),
                    Statistics(b_shift_n[None, :], b_inverse_n[None, :], b_delta_n[None, :]),
                    Scoring(scale, cap, log_p, Bias(p_bias, bias_m, bias_n, ADDITIVE), CAPPED, POLARITY, STATS is not None),
                    Rows(i_m, o_m[None, :], queries), Rows(i_n, o_n[:, None], keys),
                    Mask(Band(offset, window, CAUSAL, WINDOW), b_start, b_end, STARTS is not None, p_keep, keep_m, keep_n),
                    Dropout(seed, i_bh, dropout_p, DROPOUT), MASKED=EDGES == 1, INNER=True, BALANCED=BALANCED,
                )  # fmt: skip
                b_dv = tl.dot(b_w.to(b_grad.dtype), b_grad, b_dv, input_precision=PRECISION)
                b_dk = tl.dot(b_ds.to(b_q.dtype), b_q, b_dk, input_precision=PRECISION)
                if SUM_Q is not None:
                    b_dq = tl.dot(tl.trans(b_ds.to(b_k.dtype)), b_k, input_precision=PRECISION) * factor
                    SUM_Q.atomic_add([i_b.to(tl.int32), i_h, i_m, 0], b_dq.reshape([1, 1, BLOCK_M, BLOCK_DIM]))

    p_dk = DK + (((i_b * splits + i_s) * keys + i_n) * kv_heads + i_kv) * DIM + o_n[:, None] * (kv_heads * DIM) + o_d[None, :]
    p_dv = DV + (((i_b * splits + i_s) * keys + i_n) * kv_heads + i_kv) * VALUE_DIM + o_n[:, None] * (kv_heads * VALUE_DIM) + o_v[None, :]
    m_key = (i_n + o_n < keys)[:, None]
    tl.store(p_dk, (b_dk * factor).to(DK.dtype.element_ty), mask=m_key & (o_d < DIM)[None, :])
    tl.store(p_dv, (b_dv * (1.0 / (1.0 - dropout_p))).to(DV.dtype.element_ty), mask=m_key & (o_v < VALUE_DIM)[None, :])


@triton.jit(do_not_specialize=RUNTIME)
def query_kernel(
    Q, K, V, LOG_P, BIAS, BITS, TILES, STARTS, ENDS, SEED, GRAD, LSE, STATS, DELTA, DQ, D_LOG_P,
    q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, bias_b, bias_h, bias_m, bias_n, keep_b, keep_h, keep_m, keep_n,
    tile_b, tile_h, tile_m, tile_n, queries, keys, heads, groups, rows, offset, window, scale, cap, factor, dropout_p,
    DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, POLARITY: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    CAPPED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ADDITIVE: tl.constexpr, PASSES: tl.constexpr,
    BALANCED: tl.constexpr,
):  # fmt: skip
    """dQ [batch, queries, heads, DIM], dense, and the gradient of log p row by row, [batch, heads, queries], if D_LOG_P is given.

    With two PASSES the first one finds D as the sum of W dP, and writes it to DELTA: where W is nearly 1 for one key, D must meet that
    key's dP to the last digit, which a D from the rounded output does not.
    """
    blocks = tl.cdiv(queries, BLOCK_M)
    i_m = (blocks - 1 - tl.program_id(0) % blocks) * BLOCK_M
    i_bh = tl.program_id(0) // blocks
    i_b, i_h = (i_bh // heads).to(tl.int64), i_bh % heads
    i_kv = i_h // groups
    o_m, o_n, o_d, o_v = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_VALUE)
    m_row = i_m + o_m < queries

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
    p_grad = GRAD + (i_b * queries * heads + i_h) * VALUE_DIM
    b_grad = load_tile(Matrix(p_grad, heads * VALUE_DIM, o_v, VALUE_DIM, BLOCK_VALUE), block, MASKED=True)
    p_row = i_bh.to(tl.int64) * queries + i_m + o_m
    b_shift, b_inverse = row_statistics(LSE, STATS, p_row, rows, m_row)
    b_sum = tl.zeros([BLOCK_M], tl.float32)
    b_delta = b_sum
    if PASSES == 1:
        b_delta = tl.load(DELTA + p_row, mask=m_row, other=0.0)
    b_shift_n, b_inverse_n, b_delta_n = b_shift, b_inverse, b_delta
    if BALANCED:
        b_shift_n, b_inverse_n = row_statistics(LSE, STATS, p_row + rows // 2, rows, m_row)
        b_sum_n = tl.zeros([BLOCK_M], tl.float32)
        if PASSES == 1:
            b_delta_n = tl.load(DELTA + p_row + rows // 2, mask=m_row, other=0.0)
    b_dq = tl.zeros([BLOCK_M, BLOCK_DIM], tl.float32)
    b_dlog = tl.zeros([BLOCK_M], tl.float32)

    span = key_span(block, Rows(0, o_n, keys), Band(offset, window, CAUSAL, WINDOW), STARTS, ENDS, Tiles(p_tiles, tile_m, tile_n))
    for PASS in tl.static_range(PASSES):
        for EDGES in tl.static_range(2):
            count, left = blocks_of(span, BLOCK_N, EDGES == 1)
            for i in range(count):
                i_n = block_start(i, left, span, BLOCK_N, EDGES == 1)
                b_k = load_tile(Matrix(p_k, k_n * ALIGN, o_d, DIM, BLOCK_DIM), Rows(i_n, o_n, keys), EDGES == 1)
                b_v = load_tile(Matrix(p_v, v_n * ALIGN, o_v, VALUE_DIM, BLOCK_VALUE), Rows(i_n, o_n, keys), EDGES == 1)
                b_qk = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
                b_dp = tl.dot(b_grad, tl.trans(b_v), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
                b_w, b_n, b_ds = tile_gradient(
                    b_qk, b_dp, Statistics(b_shift[:, None], b_inverse[:, None], b_delta[:, None]),
                    Statistics(b_shift_n[:, None], b_inverse_n[:, None], b_delta_n[:, None]),
                    Scoring(scale, cap, log_p, Bias(p_bias, bias_m, bias_n, ADDITIVE), CAPPED, POLARITY, STATS is not None),
                    Rows(i_m, o_m[:, None], queries), Rows(i_n, o_n[None, :], keys),
                    Mask(Band(offset, window, CAUSAL, WINDOW), b_start, b_end, STARTS is not None, p_keep, keep_m, keep_n),
                    Dropout(seed, i_bh, dropout_p, DROPOUT), MASKED=EDGES == 1, INNER=True, BALANCED=BALANCED,
                )  # fmt: skip
                if PASS < PASSES - 1:
                    if BALANCED:
                        b_sum += tl.sum((b_w + b_n) * b_dp, 1)
                        b_sum_n += tl.sum(b_n * b_dp, 1)
                    else:
                        b_sum += tl.sum(b_w * b_dp, 1)
                else:
                    b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
                    if D_LOG_P is not None:
                        b_dlog += tl.sum(b_n, 1)
        if PASS < PASSES - 1:
            b_delta = b_sum * (1.0 / (1.0 - dropout_p))
            if BALANCED:
                polarity = load_polarity(LOG_P, i_h, None)
                b_delta = b_delta * (1.0 + polarity)
                b_delta_n = b_sum_n * ((1.0 + polarity) / polarity / (1.0 - dropout_p))
                tl.store(DELTA + p_row + rows // 2, b_delta_n, mask=m_row)
            tl.store(DELTA + p_row, b_delta, mask=m_row)

    p_dq = DQ + ((i_b * queries + i_m) * heads + i_h) * DIM + o_m[:, None] * (heads * DIM) + o_d[None, :]
    tl.store(p_dq, (b_dq * factor).to(DQ.dtype.element_ty), mask=m_row[:, None] & (o_d < DIM)[None, :])
    if D_LOG_P is not None:
        tl.store(D_LOG_P + p_row, b_dlog, mask=m_row)


@triton.jit(do_not_specialize=[*RUNTIME, "batch", "bias_batch", "bias_heads", "out_b", "out_h", "out_m", "out_n"])
def bias_kernel(
    Q, K, V, LOG_P, BIAS, BITS, TILES, STARTS, ENDS, SEED, GRAD, LSE, STATS, DELTA, D_BIAS,
    q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, bias_b, bias_h, bias_m, bias_n, keep_b, keep_h, keep_m, keep_n,
    tile_b, tile_h, tile_m, tile_n, queries, keys, heads, groups, rows, offset, window, scale, cap, dropout_p,
    batch, bias_batch, bias_heads, out_b, out_h, out_m, out_n,
    DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, POLARITY: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    CAPPED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ADDITIVE: tl.constexpr,
    SHARED_M: tl.constexpr, SHARED_N: tl.constexpr, BALANCED: tl.constexpr,
):  # fmt: skip
    """The gradient of the bias in float32, by strides `out_`; where rows (or keys) share a bias, a partial sum per block of them."""
    blocks_n = tl.cdiv(keys, BLOCK_N)
    blocks = tl.cdiv(queries, BLOCK_M) * blocks_n
    i_m = tl.program_id(0) % blocks // blocks_n * BLOCK_M
    i_n = tl.program_id(0) % blocks_n * BLOCK_N
    i_out_b, i_out_h = tl.program_id(0) // blocks // bias_heads, tl.program_id(0) // blocks % bias_heads
    o_m, o_n, o_d, o_v = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_VALUE)
    m_row = i_m + o_m < queries
    block = Rows(i_m, o_m, queries)
    b_start, b_end = sequence_bounds(STARTS, ENDS, block, 1)
    seed = 0
    if DROPOUT:
        seed = tl.load(SEED)

    b_sum = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    shared_heads = heads // bias_heads  # 1, or all of them
    for i in range(batch // bias_batch * shared_heads):
        i_b, i_h = (i_out_b + i // shared_heads).to(tl.int64), i_out_h + i % shared_heads
        i_bh = (i_b * heads + i_h).to(tl.int32)
        i_kv = (i_h // groups).to(tl.int64)
        p_keep, p_tiles = BITS, TILES
        if BITS is not None:
            p_keep = BITS + i_b * keep_b + i_h.to(tl.int64) * keep_h
            p_tiles = TILES + i_b * tile_b + i_h.to(tl.int64) * tile_h
        low, _full_low, _full_high, high = key_span(
            block, Rows(0, o_n, keys), Band(offset, window, CAUSAL, WINDOW), STARTS, ENDS, Tiles(p_tiles, tile_m, tile_n)
        )  # fmt: skip
        if (i_n >= low) & (i_n < high):
            log_p = 0.0
            if POLARITY == 2:
                log_p = tl.load(LOG_P + i_h)
            p_q = Q + (i_b * q_b + i_h.to(tl.int64) * q_h) * ALIGN
            p_grad = GRAD + (i_b * queries * heads + i_h) * VALUE_DIM
            b_q = load_tile(Matrix(p_q, q_m * ALIGN, o_d, DIM, BLOCK_DIM), block, MASKED=True)
            b_grad = load_tile(Matrix(p_grad, heads * VALUE_DIM, o_v, VALUE_DIM, BLOCK_VALUE), block, MASKED=True)
            p_k = K + (i_b * k_b + i_kv * k_h) * ALIGN
            b_k = load_tile(Matrix(p_k, k_n * ALIGN, o_d, DIM, BLOCK_DIM), Rows(i_n, o_n, keys), MASKED=True)
            p_v = V + (i_b * v_b + i_kv * v_h) * ALIGN
            b_v = load_tile(Matrix(p_v, v_n * ALIGN, o_v, VALUE_DIM, BLOCK_VALUE), Rows(i_n, o_n, keys), MASKED=True)
            p_row = i_bh.to(tl.int64) * queries + i_m + o_m
            b_shift, b_inverse = row_statistics(LSE, STATS, p_row, rows, m_row)
            b_delta = tl.load(DELTA + p_row, mask=m_row, other=0.0)
            b_shift_n, b_inverse_n, b_delta_n = b_shift, b_inverse, b_delta
            if BALANCED:
                b_shift_n, b_inverse_n = row_statistics(LSE, STATS, p_row + rows // 2, rows, m_row)
                b_delta_n = tl.load(DELTA + p_row + rows // 2, mask=m_row, other=0.0)
            b_qk = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
            b_dp = tl.dot(b_grad, tl.trans(b_v), input_precision=PRECISION)
            _b_w, _b_n, b_ds = tile_gradient(
                b_qk, b_dp, Statistics(b_shift[:, None], b_inverse[:, None], b_delta[:, None]),
                Statistics(b_shift_n[:, None], b_inverse_n[:, None], b_delta_n[:, None]),
                Scoring(
                    scale, cap, log_p, Bias(BIAS + i_b * bias_b + i_h.to(tl.int64) * bias_h, bias_m, bias_n, ADDITIVE),
                    CAPPED, POLARITY, STATS is not None,
                ),
                Rows(i_m, o_m[:, None], queries), Rows(i_n, o_n[None, :], keys),
                Mask(Band(offset, window, CAUSAL, WINDOW), b_start, b_end, STARTS is not None, p_keep, keep_m, keep_n),
                Dropout(seed, i_bh, dropout_p, DROPOUT), MASKED=True, INNER=False, BALANCED=BALANCED,
            )  # fmt: skip
            b_sum += b_ds

    p_out = D_BIAS + i_out_b.to(tl.int64) * out_b + i_out_h.to(tl.int64) * out_h
    i_row = (i_m // BLOCK_M).to(tl.int64) if SHARED_M else i_m.to(tl.int64)
    i_column = (i_n // BLOCK_N).to(tl.int64) if SHARED_N else i_n.to(tl.int64)
    p_out += i_row * out_m + i_column * out_n
    m_column = i_n + o_n < keys
    if SHARED_M and SHARED_N:
        tl.store(p_out, tl.sum(tl.sum(b_sum, 1), 0))
    elif SHARED_M:
        tl.store(p_out + o_n * out_n, tl.sum(b_sum, 0), mask=m_column)
    elif SHARED_N:
        tl.store(p_out + o_m * out_m, tl.sum(b_sum, 1), mask=m_row)
    else:
        tl.store(p_out + o_m[:, None] * out_m + o_n[None, :] * out_n, b_sum, mask=m_row[:, None] & m_column[None, :])


@triton.jit
def tile_gradient(
    b_qk, b_dp, statistics, opposite, scoring, rows, columns, mask, dropout, MASKED: tl.constexpr, INNER: tl.constexpr,
    BALANCED: tl.constexpr,
):  # fmt: skip
    """Of one tile, rows by keys or keys by rows: the weights as they met the values, the gradient of log p, and that of the scores.

    If BALANCED, the statistics are those of both halves, and in place of the gradient of log p comes the negative half of these weights.

    The gradient is that of the products of query and key (through the softcap) if INNER, else that of the scores behind the bias, or
    (with an additive mask) that of the mask, in which W and C have changed places.
    """
    b_x, b_tanh = scores(b_qk, rows, columns, scoring)
    b_a = b_x
    m_seen = None
    if MASKED:
        m_seen = visible(rows, columns, mask)
    b_x, b_y = exponents(b_x, m_seen, scoring, MASKED)
    b_a, b_x, b_y = faded(b_a, b_x, b_y, rows, columns, scoring)
    if dropout.active:
        m_survives = survives(rows, columns, dropout)
        b_dp = tl.where(m_survives, b_dp * (1.0 / (1.0 - dropout.probability)), 0.0)
    OF_MASK: tl.constexpr = scoring.bias.additive and not INNER
    if BALANCED:
        b_w, b_n, b_ds = halves_gradient(b_x, b_y, b_dp, statistics, opposite, scoring, OF_MASK)
        if dropout.active:
            b_n = tl.where(m_survives, b_n, 0.0)
    else:
        b_w, b_n, b_ds = score_gradient(b_a, b_x, b_y, b_dp, statistics, scoring, OF_MASK)
        b_n = -b_n * (b_dp + statistics.delta)
    if dropout.active:
        b_w = tl.where(m_survives, b_w, 0.0)
    if scoring.capped and INNER:
        b_ds = b_ds * (1.0 - b_tanh * b_tanh)
    return b_w, b_n, b_ds
