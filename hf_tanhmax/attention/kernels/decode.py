r"""The decoding kernels: a few queries against many keys, which are split into chunks over the whole GPU and read once.

* `decode_kernel`: the query heads of a group, and all their queries, are the rows of one tile, so that a key head is read once for all of
  them. The keys that they can see are split into chunks, one per program, and each program leaves its own result :math:`(O_s, L_s)`.
* `combine_kernel`: :math:`\sum_k \cosh` adds up over the chunks, so they merge as those of softmax do:

.. math:: L = \log \sum_s e^{L_s}, \qquad O = \sum_s e^{L_s - L} O_s

  With a balanced shift the two halves of the weights have sums of their own. A chunk then leaves both logarithms, the output of its keys
  and :math:`N_s`, that of the negative half, which has a share of :math:`c_-` (`balanced`):

.. math:: O = \sum_s r_s O_s + (r_s - u_s)\, c_- N_s, \qquad r_s = e^{L_{+s} - L_+}, \quad u_s = e^{L_{-s} - L_-}

* `range_kernel`: from where to where a boolean mask keeps any key, so that the padding on the left and the unused end of a static cache
  are not read.

Which keys are seen is found out on the GPU, and grids are made of sizes alone: a CUDA graph may be replayed as the cache fills. With a
TABLE, the keys lie in blocks of PAGE keys anywhere in K and V, and are read where they lie.
"""

import triton
import triton.language as tl

from .balanced import Halves, join_halves, load_polarity, log_share, take_halves
from .forward import STRIDES, Sums
from .masks import Band, Mask, visible
from .primitives import (
    LN2,
    Bias,
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
)

DECODING = [stride for stride in STRIDES if not stride.startswith("tile")]
DECODING += ["range_b", "table_b", "batch", "queries", "keys", "heads", "groups", "splits", "chunks", "offset", "window", "shortest"]
DECODING += ["ragged"]


@triton.jit(do_not_specialize=DECODING)
def decode_kernel(
    Q, K, V, LOG_P, BIAS, KEEP, RANGES, TABLE, BOUNDS, OUT, LSE, OPPOSITE,
    q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, bias_b, bias_h, bias_m, bias_n, keep_b, keep_h, keep_m, keep_n, range_b, table_b,
    batch, queries, keys, heads, groups, splits, chunks, offset, window, shortest, ragged, scale, cap,
    DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, POLARITY: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr, ADDITIVE: tl.constexpr, EXACT: tl.constexpr, PAGE: tl.constexpr, PARTIAL: tl.constexpr,
    BALANCED: tl.constexpr,
):  # fmt: skip
    """OUT [splits, batch, queries, heads, VALUE_DIM] and LSE [splits, batch, queries, heads]; q, k, v by their strides over ALIGN.

    A row without a key gets L = +inf; if PARTIAL it gets -inf, its share of the whole, and no output. If BALANCED, there are two L of each
    row, [2, splits, ..], and OPPOSITE, if PARTIAL, is for the outputs of the negative half. With a TABLE the first stride of k
    and v is that from block to block, and BOUNDS [batch + 1] say where the keys of each entry begin; `ragged` is 1 if the rows of the
    table do so too, and 0 if they lie `table_b` apart.
    """
    rows = groups * queries
    blocks = tl.cdiv(rows, BLOCK_M)
    i_s = tl.program_id(0) % splits
    i_r = tl.program_id(0) // splits % blocks * BLOCK_M
    i_bkv = tl.program_id(0) // splits // blocks
    kv_heads = heads // groups
    i_b, i_kv = (i_bkv // kv_heads).to(tl.int64), (i_bkv % kv_heads).to(tl.int64)
    o_r, o_n, o_d, o_v = i_r + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_VALUE)
    m_row = o_r < rows
    o_m = tl.where(m_row, o_r % queries, queries)
    o_h = i_kv * groups + o_r // queries

    p_table = TABLE
    if TABLE is not None:
        first = tl.load(BOUNDS + i_b).to(tl.int64)
        keys = (tl.load(BOUNDS + i_b + 1) - first).to(tl.int32)
        offset = keys - queries
        p_table = TABLE + i_b * table_b + first * ragged
        p_k, p_v = K + i_kv * k_h * ALIGN, V + i_kv * v_h * ALIGN
    else:
        p_k, p_v = K + (i_b * k_b + i_kv * k_h) * ALIGN, V + (i_b * v_b + i_kv * v_h) * ALIGN
    p_bias, p_keep, p_range = BIAS, KEEP, RANGES
    if BIAS is not None:
        p_bias = BIAS + i_b * bias_b + o_h[:, None] * bias_h
    if KEEP is not None:
        p_keep = KEEP + i_b * keep_b + o_h[:, None] * keep_h
    if RANGES is not None:
        p_range = RANGES + i_b * range_b
    log_p = 0.0
    if POLARITY == 2:
        log_p = tl.load(LOG_P + o_h, mask=m_row, other=0.0)[:, None]
    p_q = Q + (i_b * q_b + o_h * q_h + o_m * q_m)[:, None] * ALIGN + o_d[None, :]
    b_q = tl.load(p_q, mask=m_row[:, None] & (o_d < DIM)[None, :], other=0.0)
    b_max = tl.full([BLOCK_M], -1e38 if POLARITY != 1 or ADDITIVE else 0.0, tl.float32)
    b_sum = tl.zeros([BLOCK_M], tl.float32)
    b_acc = tl.zeros([BLOCK_M, BLOCK_VALUE], tl.float32)
    if BALANCED:
        polarity = load_polarity(LOG_P, o_h, m_row)
        b_opposite = tl.zeros([BLOCK_M, BLOCK_VALUE], tl.float32)
        b_max = tl.full([BLOCK_M], -1e38, tl.float32)
        b_sum_n, b_max_n, b_ratio = b_sum, b_max, b_sum

    low, high = seen_keys(queries, keys, Band(offset, window, CAUSAL, WINDOW), p_range, chunks)
    chunk = tl.maximum(tl.cdiv(tl.maximum(high - low, 0), splits), shortest)
    chunk = tl.cdiv(chunk, BLOCK_N) * BLOCK_N
    start = low + i_s * chunk
    end = tl.minimum(start + chunk, high)
    i_m = i_s * 0
    for i in range(tl.cdiv(tl.maximum(end - start, 0), BLOCK_N)):
        i_n = start + i * BLOCK_N
        if TABLE is not None:
            o_key = i_n + o_n
            b_block = tl.load(p_table + o_key // PAGE, mask=o_key < end, other=0).to(tl.int64)
            b_k = load_page(p_k, b_block * k_b * ALIGN + o_key % PAGE * k_n * ALIGN, o_d, o_key < end, DIM)  # [BLOCK_N, BLOCK_DIM]
            b_v = load_page(p_v, b_block * v_b * ALIGN + o_key % PAGE * v_n * ALIGN, o_v, o_key < end, VALUE_DIM)  # [BLOCK_N, BLOCK_VALUE]
        else:
            b_k = load_tile(Matrix(p_k, k_n * ALIGN, o_d, DIM, BLOCK_DIM), Rows(i_n, o_n, end), MASKED=True)
            b_v = load_tile(Matrix(p_v, v_n * ALIGN, o_v, VALUE_DIM, BLOCK_VALUE), Rows(i_n, o_n, end), MASKED=True)
        b_qk = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
        if BALANCED:
            b_x, b_y = chunk_exponents(
                b_qk, Rows(i_m, o_m[:, None], queries), Rows(i_n, o_n[None, :], end),
                Mask(Band(offset, window, CAUSAL, WINDOW), 0, 0, False, p_keep, keep_m, keep_n),
                Scoring(scale, cap, log_p, Bias(p_bias, bias_m, bias_n, ADDITIVE), CAPPED, POLARITY, EXACT),
            )  # fmt: skip
            b_acc, b_opposite, b_sum, b_sum_n, b_max, b_max_n, b_ratio = take_halves(
                b_x, b_y, b_v, None, Halves(b_acc, b_opposite, b_sum, b_sum_n, b_max, b_max_n, b_ratio), polarity, EXACT, PRECISION
            )  # fmt: skip
        else:
            b_acc, b_sum, b_max = attend_chunk(
                b_qk, b_v, Sums(b_acc, b_sum, b_max), Rows(i_m, o_m[:, None], queries), Rows(i_n, o_n[None, :], end),
                Mask(Band(offset, window, CAUSAL, WINDOW), 0, 0, False, p_keep, keep_m, keep_n),
                Scoring(scale, cap, log_p, Bias(p_bias, bias_m, bias_n, ADDITIVE), CAPPED, POLARITY, EXACT), PRECISION,
            )  # fmt: skip

    m_empty = b_sum == 0.0
    if BALANCED:
        b_out, b_opposite = join_halves(Halves(b_acc, b_opposite, b_sum, b_sum_n, b_max, b_max_n, b_ratio), polarity, 0.0)
        b_lse = log_share(b_sum, b_max, 1.0 / (1.0 + polarity), EXACT)
        b_lse_n = log_share(b_sum_n, b_max_n, polarity / (1.0 + polarity), EXACT)
    else:
        b_sum = tl.where(m_empty, 1.0, b_sum)
        b_out = b_acc * (1.0 / b_sum)[:, None]
        b_lse = b_max + tl.log(b_sum) if EXACT else (b_max + tl.log2(b_sum)) * LN2
    b_lse = tl.where(m_empty, float("-inf") if PARTIAL else float("inf"), b_lse)
    i_out = ((i_s.to(tl.int64) * batch + i_b) * queries + o_m) * heads + o_h
    tl.store(LSE + i_out, b_lse, mask=m_row)
    if BALANCED:
        b_lse_n = tl.where(m_empty, float("-inf") if PARTIAL else float("inf"), b_lse_n)
        tl.store(LSE + splits.to(tl.int64) * batch * queries * heads + i_out, b_lse_n, mask=m_row)
    if PARTIAL:
        m_row = m_row & (m_empty == 0)
    p_out = OUT + i_out[:, None] * VALUE_DIM + o_v[None, :]
    tl.store(p_out, b_out.to(OUT.dtype.element_ty), mask=m_row[:, None] & (o_v < VALUE_DIM)[None, :])
    if OPPOSITE is not None:
        p_out = OPPOSITE + i_out[:, None] * VALUE_DIM + o_v[None, :]
        tl.store(p_out, b_opposite, mask=m_row[:, None] & (o_v < VALUE_DIM)[None, :])


@triton.jit
def attend_chunk(b_qk, b_v, sums, rows, columns, mask, scoring, PRECISION: tl.constexpr):
    """Take one block of keys, by its products with the queries, into the running sums."""
    b_acc, b_sum, b_max = sums
    b_x, _ = scores(b_qk, rows, columns, scoring)
    b_a = b_x
    b_x, b_y = exponents(b_x, visible(rows, columns, mask), scoring, MASKED=True)
    b_a, b_x, b_y = faded(b_a, b_x, b_y, rows, columns, scoring)
    b_new = tl.maximum(b_max, largest(b_x, b_y, scoring, MASKED=True))
    b_shrink = power(b_max - b_new, scoring.exact)
    b_w = power(b_x - b_new[:, None], scoring.exact)
    b_all = b_w
    if scoring.polarity != 0:
        b_n = power(b_y - b_new[:, None], scoring.exact)
        b_all = b_w + b_n
        b_w = difference(b_a, b_w, b_n, scoring)
    b_sum = b_sum * b_shrink + tl.sum(b_all, 1)
    b_acc = tl.dot(b_w.to(b_v.dtype), b_v, b_acc * b_shrink[:, None], input_precision=PRECISION)
    return b_acc, b_sum, b_new


@triton.jit
def chunk_exponents(b_qk, rows, columns, mask, scoring):
    """The exponents of one block of keys, by its products with the queries."""
    b_x, _ = scores(b_qk, rows, columns, scoring)
    b_x, b_y = exponents(b_x, visible(rows, columns, mask), scoring, MASKED=True)
    _, b_x, b_y = faded(b_x, b_x, b_y, rows, columns, scoring)
    return b_x, b_y


@triton.jit
def seen_keys(queries, keys, band, p_range, chunks):
    """From where to where any of the queries can see keys."""
    low, high = 0, keys
    if band.causal:
        high = tl.minimum(high, queries + band.offset)
    if band.windowed:
        low = tl.maximum(low, band.offset - band.window + 1)
        high = tl.minimum(high, queries + band.offset + band.window - 1)
    if p_range is not None:
        o_c = tl.arange(0, 64)
        b_low = tl.zeros([64], tl.int32) + keys
        b_high = tl.zeros([64], tl.int32)
        for i in range(tl.cdiv(chunks, 64)):
            m_chunk = i * 64 + o_c < chunks
            p_chunk = p_range + (i * 64 + o_c) * 2
            b_low = tl.minimum(b_low, tl.where(m_chunk, tl.load(p_chunk, mask=m_chunk, other=0), keys))
            b_high = tl.maximum(b_high, tl.load(p_chunk + 1, mask=m_chunk, other=0))
        low = tl.maximum(low, tl.min(b_low, 0))
        high = tl.minimum(high, tl.max(b_high, 0))
    return low, high


@triton.jit
def load_page(p_base, o_row, o_dim, m_row, DIM: tl.constexpr):
    """Rows of a matrix that lie `o_row` elements from its base, [R, BLOCK_DIM]; 0 beyond its bounds."""
    return tl.load(p_base + o_row[:, None] + o_dim[None, :], mask=m_row[:, None] & (o_dim < DIM)[None, :], other=0.0)


@triton.jit(do_not_specialize=["rows", "splits"])
def combine_kernel(PARTS, LSES, O, LSE, rows, splits, VALUE_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, BLOCK_S: tl.constexpr):
    """O [rows, VALUE_DIM] and LSE [rows] from PARTS [splits, rows, VALUE_DIM] and LSES [splits, rows]; one program per row."""
    i_row = tl.program_id(0).to(tl.int64)
    o_s, o_v = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_VALUE)
    b_max = tl.full([BLOCK_S], float("-inf"), tl.float32)
    for i in range(tl.cdiv(splits, BLOCK_S)):
        p_lse = LSES + (i * BLOCK_S + o_s).to(tl.int64) * rows + i_row
        b_max = tl.maximum(b_max, tl.load(p_lse, mask=i * BLOCK_S + o_s < splits, other=float("-inf")))
    top = tl.max(b_max, 0)
    shift = tl.where(top == float("-inf"), 0.0, top)
    b_sum = tl.zeros([BLOCK_S], tl.float32)
    b_acc = tl.zeros([BLOCK_S, BLOCK_VALUE], tl.float32)
    for i in range(tl.cdiv(splits, BLOCK_S)):
        i_part = (i * BLOCK_S + o_s).to(tl.int64) * rows + i_row
        b_lse = tl.load(LSES + i_part, mask=i * BLOCK_S + o_s < splits, other=float("-inf"))
        m_part = (b_lse != float("-inf"))[:, None] & (o_v < VALUE_DIM)[None, :]
        b_share = tl.exp(b_lse - shift)
        b_sum += b_share
        b_acc += b_share[:, None] * tl.load(PARTS + i_part[:, None] * VALUE_DIM + o_v[None, :], mask=m_part, other=0.0)
    total = tl.sum(b_sum, 0)
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    tl.store(LSE + i_row, tl.where(empty, float("inf"), shift + tl.log(total)))
    b_out = tl.sum(b_acc, 0) * (1.0 / total)
    tl.store(O + i_row * VALUE_DIM + o_v, b_out.to(O.dtype.element_ty), mask=o_v < VALUE_DIM)


@triton.jit(do_not_specialize=["rows", "splits", "heads"])
def combine_halves_kernel(
    PARTS, OPPOSITE, LSES, LOG_P, O, LSE, rows, splits, heads, VALUE_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, BLOCK_S: tl.constexpr
):  # fmt: skip
    """The same with a balanced shift: OPPOSITE is like PARTS, LSES are [2, splits, rows], LSE [2, rows]; rows are [.., heads]."""
    i_row = tl.program_id(0).to(tl.int64)
    o_s, o_v = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_VALUE)
    polarity = load_polarity(LOG_P, i_row % heads, None)
    negative = polarity / (1.0 + polarity)
    p_lse_n = LSES + splits.to(tl.int64) * rows
    lse_p, lse_n = total_lse(LSES + i_row, rows, splits, BLOCK_S), total_lse(p_lse_n + i_row, rows, splits, BLOCK_S)
    shift_p, shift_n = tl.where(lse_p == float("inf"), 0.0, lse_p), tl.where(lse_n == float("inf"), 0.0, lse_n)
    b_acc = tl.zeros([BLOCK_S, BLOCK_VALUE], tl.float32)
    for i in range(tl.cdiv(splits, BLOCK_S)):
        i_part = (i * BLOCK_S + o_s).to(tl.int64) * rows + i_row
        m_split = i * BLOCK_S + o_s < splits
        b_lse = tl.load(LSES + i_part, mask=m_split, other=float("-inf"))
        b_share = tl.exp(b_lse - shift_p)
        b_moved = b_share - tl.exp(tl.load(p_lse_n + i_part, mask=m_split, other=float("-inf")) - shift_n)
        m_part = (b_lse != float("-inf"))[:, None] & (o_v < VALUE_DIM)[None, :]
        p_part = i_part[:, None] * VALUE_DIM + o_v[None, :]
        b_acc += b_share[:, None] * tl.load(PARTS + p_part, mask=m_part, other=0.0)
        b_acc += (b_moved * negative)[:, None] * tl.load(OPPOSITE + p_part, mask=m_part, other=0.0)
    tl.store(LSE + i_row, lse_p)
    tl.store(LSE + rows + i_row, lse_n)
    tl.store(O + i_row * VALUE_DIM + o_v, tl.sum(b_acc, 0).to(O.dtype.element_ty), mask=o_v < VALUE_DIM)


@triton.jit
def total_lse(p_lse, rows, splits, BLOCK_S: tl.constexpr):
    """The logarithm of the sum of all chunks of a row, whose own lie `rows` apart; +inf if none has a key."""
    o_s = tl.arange(0, BLOCK_S)
    b_max = tl.full([BLOCK_S], float("-inf"), tl.float32)
    for i in range(tl.cdiv(splits, BLOCK_S)):
        b_lse = tl.load(p_lse + (i * BLOCK_S + o_s).to(tl.int64) * rows, mask=i * BLOCK_S + o_s < splits, other=float("-inf"))
        b_max = tl.maximum(b_max, b_lse)
    top = tl.max(b_max, 0)
    shift = tl.where(top == float("-inf"), 0.0, top)
    b_sum = tl.zeros([BLOCK_S], tl.float32)
    for i in range(tl.cdiv(splits, BLOCK_S)):
        b_lse = tl.load(p_lse + (i * BLOCK_S + o_s).to(tl.int64) * rows, mask=i * BLOCK_S + o_s < splits, other=float("-inf"))
        b_sum += tl.exp(b_lse - shift)
    total = tl.sum(b_sum, 0)
    return tl.where(total == 0.0, float("inf"), shift + tl.log(tl.where(total == 0.0, 1.0, total)))


@triton.jit(do_not_specialize=["keep_b", "keep_h", "keep_m", "keep_n", "heads", "queries", "keys", "chunks"])
def range_kernel(KEEP, RANGES, keep_b, keep_h, keep_m, keep_n, heads, queries, keys, chunks, BLOCK_N: tl.constexpr):
    """For each chunk of BLOCK_N keys the first key that any row of the mask keeps, and the last plus 1: [batch, chunks, 2]."""
    i_b = (tl.program_id(0) // chunks).to(tl.int64)
    o_n = tl.program_id(0) % chunks * BLOCK_N + tl.arange(0, BLOCK_N)
    b_any = tl.zeros([BLOCK_N], tl.int32)
    for i in range(heads * queries):
        p_row = KEEP + i_b * keep_b + (i // queries).to(tl.int64) * keep_h + (i % queries).to(tl.int64) * keep_m
        b_any |= tl.load(p_row + o_n.to(tl.int64) * keep_n, mask=o_n < keys, other=0).to(tl.int32)
    p_range = RANGES + tl.program_id(0).to(tl.int64) * 2
    tl.store(p_range, tl.min(tl.where(b_any != 0, o_n, keys), 0))
    tl.store(p_range + 1, tl.max(tl.where(b_any != 0, o_n + 1, 0), 0))
