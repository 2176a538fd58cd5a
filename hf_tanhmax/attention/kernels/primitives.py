r"""Steps that the kernels share: tiles in, which keys a row sees, scores, exponents, the gradient of the scores.

The alphabet inside kernels: `i_` a first index, `o_` offsets from it, `p_` a pointer, `m_` a mask, `b_` a block of values.

Scores are held in units of log 2, :math:`x = a \log_2 e`, and negative exponents as :math:`y = \log_2 p - x`, so that the two exponentials
of a score are :math:`2^x` and :math:`2^y`. A hidden score has both exponents at minus infinity: it adds exactly 0 to every sum. `POLARITY`
is 1 for TanhMax (y = -x), 0 for softmax (no second exponential at all) and 2 for a polarity per head. If `ADDITIVE`, the pointer to a
bias is one to an additive mask m instead, which is no part of the score a but is added to both exponents.

`EXACT` is float32 that is multiplied without TF32. Its scores stay in natural units, as rounding log2(e) would cost digits of large scores,
and its backward pass gets the row's shift and sum apart instead of L.
"""

import triton
import triton.language as tl

from ...functional import HIDDEN_BELOW

LOG2E = tl.constexpr(1.4426950408889634)
LOG2E_REST = tl.constexpr(1.9259629911e-08)  # what rounding log2(e) to float32 leaves
LN2 = tl.constexpr(0.6931471805599453)
# Infinite scores become this large: they share the row as the definition wants, and no difference of two overflows.
LIMIT = tl.constexpr(1e38)
LOWEST = tl.constexpr(-200.0)  # natural exponent, at which the exponential is 0 in float32
HIDDEN = tl.constexpr(HIDDEN_BELOW)
NAN_STAYS = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def load_tile(p_base, i_row, o_row, o_dim, stride, length, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, MASKED: tl.constexpr):
    """Rows `i_row + o_row` of a matrix whose last dimension is dense: [R, BLOCK_DIM]; 0 beyond its bounds."""
    p_tile = p_base + i_row.to(tl.int64) * stride + o_row[:, None] * stride + o_dim[None, :]
    if MASKED:
        b_tile = tl.load(p_tile, mask=(i_row + o_row < length)[:, None] & (o_dim < DIM)[None, :], other=0.0)
    elif BLOCK_DIM != DIM:
        b_tile = tl.load(p_tile, mask=(o_dim < DIM)[None, :], other=0.0)
    else:
        b_tile = tl.load(p_tile)
    return b_tile


@triton.jit
def load_rows(
    source, i_row, o_row, o_dim, stride, length, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, MASKED: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    """As `load_tile`, of a pointer, or (DESCRIBED) of a descriptor of [batch, heads, length, DIM], a batch entry and a head."""
    if DESCRIBED:
        descriptor, i_b, i_h = source
        b_tile = descriptor.load([i_b, i_h, i_row, 0]).reshape([o_row.shape[0], BLOCK_DIM])
    else:
        b_tile = load_tile(source, i_row, o_row, o_dim, stride, length, DIM, BLOCK_DIM, MASKED)
    return b_tile


@triton.jit
def key_span(
    i_m, queries, keys, offset, window, STARTS, ENDS, p_span,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Which keys a block of rows needs: `low, full_low, full_high, high`, multiples of BLOCK_N but for the last.

    Keys outside [low, high) are hidden from all rows, those in [full_low, full_high) from none.
    """
    last = tl.minimum(i_m + BLOCK_M, queries) - 1
    low, high = 0, keys
    full_low, full_high = 0, keys
    if CAUSAL:
        high = tl.minimum(high, last + offset + 1)
        full_high = tl.minimum(full_high, i_m + offset + 1)
    if WINDOW:
        low = tl.maximum(low, i_m + offset - window + 1)
        high = tl.minimum(high, last + offset + window)
        full_low = tl.maximum(full_low, last + offset - window + 1)
        full_high = tl.minimum(full_high, i_m + offset + window)
    return narrowed(low, full_low, full_high, high, i_m, last, STARTS, ENDS, p_span, BLOCK_N)


@triton.jit
def query_span(
    i_n, queries, keys, offset, window, STARTS, ENDS, p_span,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Which rows see a block of keys, as `key_span` gives which keys a block of rows sees; multiples of BLOCK_M."""
    last = tl.minimum(i_n + BLOCK_N, keys) - 1
    low, high = 0, queries
    full_low, full_high = 0, queries
    if CAUSAL:
        low = tl.maximum(low, i_n - offset)
        full_low = tl.maximum(full_low, last - offset)
    if WINDOW:
        low = tl.maximum(low, i_n - offset - window + 1)
        high = tl.minimum(high, last - offset + window)
        full_low = tl.maximum(full_low, last - offset - window + 1)
        full_high = tl.minimum(full_high, i_n - offset + window)
    return narrowed(low, full_low, full_high, high, i_n, last, STARTS, ENDS, p_span, BLOCK_M)


@triton.jit
def narrowed(low, full_low, full_high, high, first, last, STARTS, ENDS, p_span, BLOCK: tl.constexpr):
    """A span within packed sequences and the span of a mask, its bounds at multiples of BLOCK (but `high`) and in order."""
    if STARTS is not None:
        low = tl.maximum(low, tl.load(STARTS + first))
        high = tl.minimum(high, tl.load(ENDS + last))
        full_low = tl.maximum(full_low, tl.load(STARTS + last))
        full_high = tl.minimum(full_high, tl.load(ENDS + first))
    if p_span is not None:
        low = tl.maximum(low, tl.load(p_span))
        high = tl.minimum(high, tl.load(p_span + 1))
        full_low = tl.maximum(full_low, tl.load(p_span + 2))
        full_high = tl.minimum(full_high, tl.load(p_span + 3))
    low = low // BLOCK * BLOCK
    full_low = tl.maximum(tl.cdiv(full_low, BLOCK) * BLOCK, low)
    full_high = tl.maximum(full_high // BLOCK * BLOCK, full_low)
    return low, full_low, full_high, high


@triton.jit
def blocks_of(low, full_low, full_high, high, BLOCK: tl.constexpr, EDGES: tl.constexpr):
    """How many blocks lie in the full range; or how many at its edges need a mask, and how many of these on its left."""
    if EDGES:
        left = tl.cdiv(tl.maximum(tl.minimum(full_low, high) - low, 0), BLOCK)
        count = left + tl.cdiv(tl.maximum(high - full_high, 0), BLOCK)
    else:
        left = 0
        count = (full_high - full_low) // BLOCK
    return count, left


@triton.jit
def block_start(i, left, low, full_low, full_high, BLOCK: tl.constexpr, EDGES: tl.constexpr):
    """Where the i-th block of `blocks_of` begins."""
    if EDGES:
        start = tl.where(i < left, low + i * BLOCK, full_high + (i - left) * BLOCK)
    else:
        start = full_low + i * BLOCK
    return start


@triton.jit
def visible(
    i_m, i_n, o_m, o_n, queries, keys, offset, window, b_start, b_end, p_keep, keep_m, keep_n,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """True where the key takes part; `o_m`, `b_start` and `b_end` broadcast against `o_n`, either way around."""
    row, column = i_m + o_m, i_n + o_n
    m_seen = (row < queries) & (column < keys)
    row += offset
    if CAUSAL:
        m_seen &= column <= row
    if WINDOW:
        m_seen &= (row - column < window) & (column - row < window)
    if PACKED:
        m_seen &= (column >= b_start) & (column < b_end)
    if p_keep is not None:
        p_tile = p_keep + i_m.to(tl.int64) * keep_m + i_n.to(tl.int64) * keep_n + o_m * keep_m + o_n * keep_n
        m_seen &= tl.load(p_tile, mask=m_seen, other=0) != 0
    return m_seen


@triton.jit
def tanh(b_y):
    """By exponentials, and by the odd series below 0.3, where their quotient would lose digits."""
    b_abs = tl.abs(b_y)
    b_exp = tl.exp2(b_abs * (-2.0 * LOG2E))
    b_far = (1.0 - b_exp) / (1.0 + b_exp)
    b_sq = b_y * b_y
    b_near = b_abs * (1.0 + b_sq * (-1 / 3 + b_sq * (2 / 15 + b_sq * (-17 / 315 + b_sq * (62 / 2835)))))
    b_tanh = tl.where(b_abs < 0.3, b_near, b_far)
    return tl.where(b_y < 0.0, -b_tanh, b_tanh)


@triton.jit
def load_added(i_m, i_n, o_m, o_n, queries, keys, p_bias, bias_m, bias_n):
    """A tile of a bias or of an additive mask, in float32; 0 beyond its bounds."""
    p_tile = p_bias + i_m.to(tl.int64) * bias_m + i_n.to(tl.int64) * bias_n + o_m * bias_m + o_n * bias_n
    return tl.load(p_tile, mask=(i_m + o_m < queries) & (i_n + o_n < keys), other=0.0).to(tl.float32)


@triton.jit
def scores(
    b_qk, i_m, i_n, o_m, o_n, queries, keys, scale, cap, p_bias, bias_m, bias_n, CAPPED: tl.constexpr, EXACT: tl.constexpr,
    ADDITIVE: tl.constexpr, BOUNDED: tl.constexpr = False,
):  # fmt: skip
    """Scores, and the tanh of the softcap (only that, if there is one). The units are in `scale`, or in `cap` if there is a softcap.

    BOUNDED scores are known to be finite.
    """
    b_tanh = b_qk
    b_x = b_qk * scale
    if CAPPED:
        b_tanh = tanh(b_x)
        b_x = b_tanh * cap
    if p_bias is not None and not ADDITIVE:
        b_bias = load_added(i_m, i_n, o_m, o_n, queries, keys, p_bias, bias_m, bias_n)
        b_x += b_bias * (1.0 if EXACT else LOG2E)
    if not BOUNDED:
        b_x = tl.clamp(b_x, -LIMIT, LIMIT, propagate_nan=NAN_STAYS)
    return b_x, b_tanh


@triton.jit
def exponents(b_x, log_p, m_seen, POLARITY: tl.constexpr, MASKED: tl.constexpr):
    """The exponents x and y of the two exponentials, at minus infinity where the key is hidden."""
    b_y = -b_x
    if POLARITY == 2:
        b_y = log_p - b_x
    if MASKED:
        b_x = tl.where(m_seen, b_x, float("-inf"))
        b_y = tl.where(m_seen, b_y, float("-inf"))
    return b_x, b_y


@triton.jit
def faded(
    b_a, b_x, b_y, i_m, i_n, o_m, o_n, queries, keys, p_mask, mask_m, mask_n, ADDITIVE: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """The score that the sign comes from, and the exponents x and y with an additive mask, or as they are without.

    What the mask hides, has a score of 0 and exponents of minus infinity.
    """
    if ADDITIVE:
        b_m = load_added(i_m, i_n, o_m, o_n, queries, keys, p_mask, mask_m, mask_n)
        m_hidden = (b_m <= HIDDEN) | (b_x == float("-inf"))
        b_m = b_m * (1.0 if EXACT else LOG2E)
        b_a = tl.where(m_hidden, 0.0, b_a)
        b_x = tl.where(m_hidden, float("-inf"), b_x + b_m)
        b_y = tl.where(m_hidden, float("-inf"), b_y + b_m)
    else:
        b_a = b_x
    return b_a, b_x, b_y


@triton.jit
def power(b_x, EXACT: tl.constexpr):
    """The exponential in the units of the scores."""
    return exact_exp(b_x) if EXACT else tl.exp2(b_x)


@triton.jit
def exact_exp(b_x):
    """The exponential to the last digits of float32.

    `tl.exp` rounds the product of the exponent with log2(e), which costs digits where it is large. What that lost comes back here.
    """
    b_x = tl.maximum(b_x, LOWEST, propagate_nan=NAN_STAYS)  # an infinite product has no rest
    b_y = b_x * LOG2E
    b_rest = tl.fma(b_x, LOG2E, -b_y) + b_x * LOG2E_REST
    b_exp = tl.exp2(b_y)
    return tl.fma(b_exp, b_rest * LN2, b_exp)


@triton.jit
def difference(b_x, b_p, b_n, log_p, POLARITY: tl.constexpr, EXACT: tl.constexpr):
    """The signed weight: the difference of the exponentials, or (EXACT, polarity near 1) a product that keeps its digits around 0."""
    b_w = b_p - b_n
    if EXACT and POLARITY == 1:
        b_w = tanh(b_x) * (b_p + b_n)
    elif EXACT:
        b_w = tl.where(log_p > -LN2, tanh(b_x - 0.5 * log_p) * (b_p + b_n), b_w)
    return b_w


@triton.jit
def largest(b_x, b_y, POLARITY: tl.constexpr, MASKED: tl.constexpr, ADDITIVE: tl.constexpr):
    """The largest exponent of each row, [BLOCK_M]."""
    if POLARITY == 0:
        b_max = tl.max(b_x, 1)
    elif POLARITY == 1 and not MASKED and not ADDITIVE:
        b_max = tl.max(tl.abs(b_x), 1)
    else:
        b_max = tl.max(tl.maximum(b_x, b_y), 1)
    return b_max


@triton.jit
def survives(seed, i_bh, i_m, i_n, o_m, o_n, dropout_p):
    """True where dropout keeps a weight: a function of seed, batch entry, head, row and column alone (Philox, Salmon et al. 2011)."""
    o_row = (i_m + o_m + o_n * 0).to(tl.uint32)
    o_column = (i_n + o_n + o_m * 0).to(tl.uint32)
    b_bits, _, _, _ = tl.philox(seed, o_row, o_column, i_bh.to(tl.uint32) + o_row * 0, o_row * 0)
    return tl.uint_to_uniform_float(b_bits) >= dropout_p


@triton.jit
def score_gradient(
    b_a, b_x, b_y, b_shift, b_inverse, b_dp, b_delta, log_p, POLARITY: tl.constexpr, EXACT: tl.constexpr, OF_MASK: tl.constexpr,
):  # fmt: skip
    """Weights W, negative exponentials N (both divided by the denominator), and dA = C dP - W D, or (OF_MASK) dM = W dP - C D.

    The shift is L in units of log 2. If EXACT it is what the forward pass subtracted, and `b_inverse` one over the sum: a rounded L would
    cost float32 the digits that |L| has before the point, on both exponentials differently.
    """
    b_p = power(b_x - b_shift, EXACT)
    if EXACT:
        b_p = b_p * b_inverse
    if POLARITY == 0:
        b_n = b_p * 0.0
        b_w = b_p
        b_ds = b_p * (b_dp - b_delta)
    else:
        b_n = power(b_y - b_shift, EXACT)
        if EXACT:
            b_n = b_n * b_inverse
        b_w = difference(b_a, b_p, b_n, log_p, POLARITY, EXACT)
        if OF_MASK:
            b_ds = b_w * b_dp - (b_p + b_n) * b_delta
        else:
            b_ds = (b_p + b_n) * b_dp - b_w * b_delta
    return b_w, b_n, b_ds


@triton.jit
def row_statistics(LSE, STATS, i_row, rows, m_row):
    """What `score_gradient` needs of some rows: shift, and inverse sum (1 where L says it all); rows beyond the end weigh nothing."""
    if STATS is not None:
        b_shift = tl.load(STATS + i_row, mask=m_row, other=0.0)
        b_inverse = tl.load(STATS + rows + i_row, mask=m_row, other=0.0)
    else:
        b_shift = tl.load(LSE + i_row, mask=m_row, other=float("inf")) * LOG2E
        b_inverse = b_shift
    return b_shift, b_inverse
