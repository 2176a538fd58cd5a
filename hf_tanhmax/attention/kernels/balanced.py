r"""Balanced weights in the kernels, :math:`W = (P - p N) / (1 + p)` with P the softmax of the scores and N that of their negatives.

With the shares :math:`c_+ = 1 / (1 + p)` and :math:`c_- = p / (1 + p)`, and with :math:`L_+ = \log_2 \sum_k 2^{x_k} - \log_2 c_+` and
:math:`L_-` likewise of the negative exponents :math:`y = -x` (an additive mask is added to both), a weight is
:math:`2^{x - L_+} - 2^{y - L_-}`. These two numbers per row are all that the backward pass needs to weigh.

**Forward**, in one pass. Each half is a softmax with a shift and a sum of its own: m and s for the positive half, n and t for the negative
one. Carried along over the keys are :math:`M = \sum_k 2^{y_k - n} V_k` and

.. math:: A = \sum_k (2^{x_k - m} - g\,2^{y_k - n}) V_k, \qquad g = p\,s / t, \qquad O = A / ((1 + p)\,s)

A block of keys changes m, n and g, and then :math:`A \leftarrow 2^{m - m'} A + (2^{m - m'} g - 2^{n - n'} g') M`. So a score costs one
product of query and key, two exponentials and two products with the values. A pass that finds L before one that weighs would take two, four
and one: at head size 64, 0.34 clock cycles per score by the instructions (`tests/helpers/predicted.py` counts them) for 0.26. Carrying
the two halves apart would take 0.24, but would round each of them to the dtype of the values, and so lose what is left of their
difference where scores are small and p is near 1; here the difference is rounded once.

**Backward**: with :math:`\delta_+ = \mathrm{rowsum}(P \circ dP)`, :math:`\delta_- = \mathrm{rowsum}(N \circ dP)`, and both halves of the
weights, :math:`P' = c_+ P` and :math:`N' = c_- N`, the gradients of the scores, of an additive mask and of the polarity are

.. math:: dA = P' \circ (dP - \delta_+) + N' \circ (dP - \delta_-), \quad dM = P' \circ (dP - \delta_+) - N' \circ (dP - \delta_-), \quad
          \frac{dL}{dp} = -\sum_i \frac{\delta_+ + \delta_-}{(1 + p)^2}

:math:`\delta_-` is the product of dO with the output of the negative half, which the forward pass leaves for it, and
:math:`\delta_+ = (1 + p)\, dO \cdot O + p\, \delta_-`; float32 sums both exactly instead.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from .masks import block_start, blocks_of, visible
from .primitives import (
    LN2,
    NAN_STAYS,
    Rows,
    exponents,
    faded,
    load_tile,
    power,
    scores,
    survives,
)

LEAST = tl.constexpr(1e-30)  # a polarity that no sum can tell from 0; of 0 itself no gradient would be left
HIGHEST_RATIO = tl.constexpr(32768.0)  # which float16 holds


class Halves(NamedTuple):
    """Of the keys so far: A and M, the sum and the shift of both halves, and g."""

    acc: tl.tensor
    opposite: tl.tensor
    sum_p: tl.tensor
    sum_n: tl.tensor
    shift_p: tl.tensor
    shift_n: tl.tensor
    ratio: tl.tensor


@triton.jit
def load_polarity(POLARITIES, o_h, m_head):
    """The polarities of some heads, 1 without a pointer to them; `m_head` may be None."""
    if POLARITIES is None:
        b_polarity = tl.full([], 1.0, tl.float32)
    elif m_head is None:
        b_polarity = tl.load(POLARITIES + o_h)
    else:
        b_polarity = tl.load(POLARITIES + o_h, mask=m_head, other=1.0)
    return tl.maximum(b_polarity, LEAST, propagate_nan=NAN_STAYS)


@triton.jit
def walk_halves(
    b_q, queries, span, key, value, keys, mask, scoring, dropout, polarity, BLOCK_VALUE: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """All blocks of keys that the rows can see: first those without a mask, then those with one."""
    BLOCK: tl.constexpr = keys.offsets.shape[0]
    b_acc = tl.zeros([b_q.shape[0], BLOCK_VALUE], tl.float32)
    b_opposite = tl.zeros([b_q.shape[0], BLOCK_VALUE], tl.float32)
    b_sum_p, b_sum_n = tl.zeros([b_q.shape[0]], tl.float32), tl.zeros([b_q.shape[0]], tl.float32)
    b_max_p, b_max_n = tl.full([b_q.shape[0]], -1e38, tl.float32), tl.full([b_q.shape[0]], -1e38, tl.float32)
    b_ratio = tl.zeros([b_q.shape[0]], tl.float32)
    for EDGES in tl.static_range(2):
        count, left = blocks_of(span, BLOCK, EDGES == 1)
        for i in range(count):
            i_n = block_start(i, left, span, BLOCK, EDGES == 1)
            block = Rows(i_n, keys.offsets, keys.length)
            rows, columns = Rows(queries.start, queries.offsets[:, None], queries.length), Rows(i_n, keys.offsets[None, :], keys.length)
            b_k = load_tile(key, block, EDGES == 1)  # [BLOCK_N, BLOCK_DIM]
            b_qk = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
            b_x, _ = scores(b_qk, rows, columns, scoring)
            m_seen = None
            if EDGES == 1:
                m_seen = visible(rows, columns, mask)
            b_x, b_y = exponents(b_x, m_seen, scoring, EDGES == 1)
            _, b_x, b_y = faded(b_x, b_x, b_y, rows, columns, scoring)
            m_survives = None
            if dropout.active:
                m_survives = survives(rows, columns, dropout)
            b_v = load_tile(value, block, EDGES == 1)  # [BLOCK_N, BLOCK_VALUE]
            b_acc, b_opposite, b_sum_p, b_sum_n, b_max_p, b_max_n, b_ratio = take_halves(
                b_x, b_y, b_v, m_survives, Halves(b_acc, b_opposite, b_sum_p, b_sum_n, b_max_p, b_max_n, b_ratio), polarity,
                scoring.exact, PRECISION,
            )  # fmt: skip
    return b_acc, b_opposite, b_sum_p, b_sum_n, b_max_p, b_max_n, b_ratio


@triton.jit
def take_halves(b_x, b_y, b_v, m_survives, halves, polarity, EXACT: tl.constexpr, PRECISION: tl.constexpr):
    """Take one block of keys, by its exponents, into what is known of the keys so far."""
    b_new_p, b_new_n = tl.maximum(halves.shift_p, tl.max(b_x, 1)), tl.maximum(halves.shift_n, tl.max(b_y, 1))
    b_shrink_p, b_shrink_n = power(halves.shift_p - b_new_p, EXACT), power(halves.shift_n - b_new_n, EXACT)
    b_p, b_n = power(b_x - b_new_p[:, None], EXACT), power(b_y - b_new_n[:, None], EXACT)  # [BLOCK_M, BLOCK_N]
    b_sum_p, b_sum_n = halves.sum_p * b_shrink_p + tl.sum(b_p, 1), halves.sum_n * b_shrink_n + tl.sum(b_n, 1)

    b_ratio = tl.minimum(exact_ratio(polarity, b_sum_p, b_sum_n), HIGHEST_RATIO)
    b_moved = b_shrink_p * halves.ratio - b_shrink_n * b_ratio
    b_acc = halves.acc * b_shrink_p[:, None] + halves.opposite * b_moved[:, None]
    b_w = b_p - b_n * b_ratio[:, None]
    if m_survives is not None:
        b_w, b_n = tl.where(m_survives, b_w, 0.0), tl.where(m_survives, b_n, 0.0)
    b_acc = tl.dot(b_w.to(b_v.dtype), b_v, b_acc, input_precision=PRECISION)
    b_opposite = tl.dot(b_n.to(b_v.dtype), b_v, halves.opposite * b_shrink_n[:, None], input_precision=PRECISION)
    return b_acc, b_opposite, b_sum_p, b_sum_n, b_new_p, b_new_n, b_ratio


@triton.jit
def exact_ratio(polarity, b_sum_p, b_sum_n):
    """How much a negative exponential weighs, where a positive one weighs 1; where there is a key, no sum is below 1."""
    return polarity * b_sum_p / tl.maximum(b_sum_n, 1.0)


@triton.jit
def join_halves(halves, polarity, dropout_p):
    """The output of the keys so far, and that of the negative half."""
    b_rest = halves.ratio - exact_ratio(polarity, halves.sum_p, halves.sum_n)
    b_out = halves.acc + halves.opposite * b_rest[:, None]
    b_out = b_out * (inverse(halves.sum_p) / ((1.0 + polarity) * (1.0 - dropout_p)))[:, None]
    return b_out, halves.opposite * (inverse(halves.sum_n) / (1.0 - dropout_p))[:, None]


@triton.jit
def inverse(b_sum):
    """One over a sum, and 0 where nothing was added up."""
    return 1.0 / tl.where(b_sum == 0.0, float("inf"), b_sum)


@triton.jit
def log_share(b_sum, b_shift, share, EXACT: tl.constexpr):
    """L of one half of the weights, in natural units; infinite for rows without a key."""
    b_ratio = tl.where(b_sum == 0.0, 1.0, b_sum) / share
    b_lse = b_shift + tl.log(b_ratio) if EXACT else (b_shift + tl.log2(b_ratio)) * LN2
    return tl.where(b_sum == 0.0, float("inf"), b_lse)


@triton.jit
def halves_gradient(b_x, b_y, b_dp, statistics, opposite, scoring, OF_MASK: tl.constexpr):
    """Weights W, their negative half N', and dA, or (OF_MASK) dM."""
    b_p = power(b_x - statistics.shift, scoring.exact)
    b_n = power(b_y - opposite.shift, scoring.exact)
    if scoring.exact:
        b_p, b_n = b_p * statistics.inverse, b_n * opposite.inverse
    b_ds_p, b_ds_n = b_p * (b_dp - statistics.delta), b_n * (b_dp - opposite.delta)
    b_ds = b_ds_p - b_ds_n if OF_MASK else b_ds_p + b_ds_n
    return b_p - b_n, b_n, b_ds
