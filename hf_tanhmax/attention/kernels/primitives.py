r"""Steps that the kernels share: loading tiles, scores, exponents, the gradient of the scores.

The alphabet inside kernels: `i_` a first index, `o_` offsets from it, `p_` a pointer, `m_` a mask, `b_` a block of values.

What travels together is a NamedTuple. Construct one with constants in the call that takes it: assigned to a variable first, Triton makes
tensors of its constants.

Scores are held in units of log 2, :math:`x = a \log_2 e`, and negative exponents as :math:`y = \log_2 p - x`, so that the two exponentials
of a score are :math:`2^x` and :math:`2^y`. A hidden score has both exponents at minus infinity: it adds exactly 0 to every sum. `POLARITY`
is 1 for TanhMax (y = -x), 0 for softmax (no second exponential at all) and 2 for a polarity per head. If `ADDITIVE`, the pointer to a
bias is one to an additive mask m instead, which is no part of the score a but is added to both exponents.

`EXACT` is float32 that is multiplied without TF32. Its scores stay in natural units, as rounding log2(e) would cost digits of large scores,
and its backward pass gets the row's shift and sum apart instead of L.
"""

from typing import NamedTuple

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


class Rows(NamedTuple):
    """Some rows of a matrix, or some keys: the first index, offsets from it (of any shape), and how many rows there are in all."""

    start: tl.tensor
    offsets: tl.tensor
    length: tl.tensor


class Matrix(NamedTuple):
    """A matrix whose last dimension is dense, and its columns' offsets; `described`: its pointer is (descriptor, batch entry, head)."""

    pointer: tl.tensor
    stride: tl.tensor
    columns: tl.tensor
    dim: tl.constexpr
    block_dim: tl.constexpr
    described: tl.constexpr = False


class Bias(NamedTuple):
    """A bias, or (`additive`) an additive mask, by its strides; the pointer is None if there is neither."""

    pointer: tl.tensor
    stride_m: tl.tensor
    stride_n: tl.tensor
    additive: tl.constexpr


class Scoring(NamedTuple):
    """From products of query and key to weights: scale, softcap, log of the polarity, bias, the constants CAPPED, POLARITY and EXACT."""

    scale: tl.tensor
    cap: tl.tensor
    log_p: tl.tensor
    bias: Bias
    capped: tl.constexpr
    polarity: tl.constexpr
    exact: tl.constexpr


class Dropout(NamedTuple):
    """The seed, the index of batch entry and head, the probability to drop a weight, and whether there is any dropout."""

    seed: tl.tensor
    i_bh: tl.tensor
    probability: tl.tensor
    active: tl.constexpr


class Statistics(NamedTuple):
    """Of rows: the shift and one over the sum, as `row_statistics` has them, and D, the sum of W dP."""

    shift: tl.tensor
    inverse: tl.tensor
    delta: tl.tensor


@triton.jit
def load_tile(matrix, rows, MASKED: tl.constexpr):
    """Rows of a matrix, [R, block_dim]; 0 beyond its bounds, which are those of a descriptor, or looked at if MASKED."""
    if matrix.described:
        descriptor, i_b, i_h = matrix.pointer
        b_tile = descriptor.load([i_b, i_h, rows.start, 0]).reshape([rows.offsets.shape[0], matrix.block_dim])
    else:
        p_tile = matrix.pointer + rows.start.to(tl.int64) * matrix.stride + rows.offsets[:, None] * matrix.stride + matrix.columns[None, :]
        if MASKED:
            m_tile = (rows.start + rows.offsets < rows.length)[:, None] & (matrix.columns < matrix.dim)[None, :]
            b_tile = tl.load(p_tile, mask=m_tile, other=0.0)
        elif matrix.block_dim != matrix.dim:
            b_tile = tl.load(p_tile, mask=(matrix.columns < matrix.dim)[None, :], other=0.0)
        else:
            b_tile = tl.load(p_tile)
    return b_tile


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
def load_added(rows, columns, bias):
    """A tile of a bias or of an additive mask, in float32; 0 beyond its bounds."""
    p_tile = bias.pointer + rows.start.to(tl.int64) * bias.stride_m + columns.start.to(tl.int64) * bias.stride_n
    p_tile = p_tile + rows.offsets * bias.stride_m + columns.offsets * bias.stride_n
    m_tile = (rows.start + rows.offsets < rows.length) & (columns.start + columns.offsets < columns.length)
    return tl.load(p_tile, mask=m_tile, other=0.0).to(tl.float32)


@triton.jit
def scores(b_qk, rows, columns, scoring, BOUNDED: tl.constexpr = False):
    """Scores, and the tanh of the softcap (only that, if there is one). The units are in the scale, or in the softcap if there is one.

    BOUNDED scores are known to be finite.
    """
    b_tanh = b_qk
    b_x = b_qk * scoring.scale
    if scoring.capped:
        b_tanh = tanh(b_x)
        b_x = b_tanh * scoring.cap
    if scoring.bias.pointer is not None and not scoring.bias.additive:
        b_bias = load_added(rows, columns, scoring.bias)
        b_x += b_bias * (1.0 if scoring.exact else LOG2E)
    if not BOUNDED:
        b_x = tl.clamp(b_x, -LIMIT, LIMIT, propagate_nan=NAN_STAYS)
    return b_x, b_tanh


@triton.jit
def exponents(b_x, m_seen, scoring, MASKED: tl.constexpr):
    """The exponents x and y of the two exponentials, at minus infinity where the key is hidden."""
    b_y = -b_x
    if scoring.polarity == 2:
        b_y = scoring.log_p - b_x
    if MASKED:
        b_x = tl.where(m_seen, b_x, float("-inf"))
        b_y = tl.where(m_seen, b_y, float("-inf"))
    return b_x, b_y


@triton.jit
def faded(b_a, b_x, b_y, rows, columns, scoring):
    """The score that the sign comes from, and the exponents x and y with an additive mask, or as they are without.

    What the mask hides, has a score of 0 and exponents of minus infinity.
    """
    if scoring.bias.additive:
        b_m = load_added(rows, columns, scoring.bias)
        m_hidden = (b_m <= HIDDEN) | (b_x == float("-inf"))
        b_m = b_m * (1.0 if scoring.exact else LOG2E)
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
def difference(b_x, b_p, b_n, scoring):
    """The signed weight: the difference of the exponentials, or (exact, polarity near 1) a product that keeps its digits around 0."""
    b_w = b_p - b_n
    if scoring.exact and scoring.polarity == 1:
        b_w = tanh(b_x) * (b_p + b_n)
    elif scoring.exact:
        b_w = tl.where(scoring.log_p > -LN2, tanh(b_x - 0.5 * scoring.log_p) * (b_p + b_n), b_w)
    return b_w


@triton.jit
def largest(b_x, b_y, scoring, MASKED: tl.constexpr):
    """The largest exponent of each row, [BLOCK_M]."""
    if scoring.polarity == 0:
        b_max = tl.max(b_x, 1)
    elif scoring.polarity == 1 and not MASKED and not scoring.bias.additive:
        b_max = tl.max(tl.abs(b_x), 1)
    else:
        b_max = tl.max(tl.maximum(b_x, b_y), 1)
    return b_max


@triton.jit
def survives(rows, columns, dropout):
    """True where dropout keeps a weight: a function of seed, batch entry, head, row and column alone (Philox, Salmon et al. 2011)."""
    o_row = (rows.start + rows.offsets + columns.offsets * 0).to(tl.uint32)
    o_column = (columns.start + columns.offsets + rows.offsets * 0).to(tl.uint32)
    b_bits, _, _, _ = tl.philox(dropout.seed, o_row, o_column, dropout.i_bh.to(tl.uint32) + o_row * 0, o_row * 0)
    return tl.uint_to_uniform_float(b_bits) >= dropout.probability


@triton.jit
def score_gradient(b_a, b_x, b_y, b_dp, statistics, scoring, OF_MASK: tl.constexpr):
    """Weights W, negative exponentials N (both divided by the denominator), and dA = C dP - W D, or (OF_MASK) dM = W dP - C D.

    The shift is L in units of log 2. If exact it is what the forward pass subtracted, and `inverse` one over the sum: a rounded L would
    cost float32 the digits that |L| has before the point, on both exponentials differently.
    """
    b_p = power(b_x - statistics.shift, scoring.exact)
    if scoring.exact:
        b_p = b_p * statistics.inverse
    if scoring.polarity == 0:
        b_n = b_p * 0.0
        b_w = b_p
        b_ds = b_p * (b_dp - statistics.delta)
    else:
        b_n = power(b_y - statistics.shift, scoring.exact)
        if scoring.exact:
            b_n = b_n * statistics.inverse
        b_w = difference(b_a, b_p, b_n, scoring)
        if OF_MASK:
            b_ds = b_w * b_dp - (b_p + b_n) * statistics.delta
        else:
            b_ds = (b_p + b_n) * b_dp - b_w * statistics.delta
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
