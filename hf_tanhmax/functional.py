r"""The TanhMax map: signed attention coefficients from scores.

For the scores :math:`a_j` of one query over its kept keys, and a polarity :math:`p \in [0, 1]`,

.. math:: w_j = \frac{e^{a_j} - p\,e^{-a_j}}{\sum_k e^{a_k} + p\,e^{-a_k}}

* :math:`p = 1` is TanhMax, :math:`\sinh(a_j) / \sum_k \cosh(a_k)` (Huang, Yang and Wang 2024, doi 10.6339/24-JDS1134): odd in the
  scores, :math:`|w_j| < 1`, :math:`\sum_j |w_j| \le 1`.
* :math:`p = 0` is softmax, exactly.
* :math:`p = e^{-2c}` is TanhMax of :math:`a + c`: polarity is a score bias.

Edge cases, all with finite gradients:

* a key that is not kept has weight 0 and adds nothing to the denominator; what its score is does not matter, not even NaN;
* a row without a kept key has weights 0 and gradients 0;
* an infinite score saturates: its weight is its share of :math:`\pm 1`; a kept NaN propagates.

What softmax models add to their scores to hide keys or to let them fade, an additive mask :math:`m`, is no part of the score, whose sign
is the weight's. Softmax multiplies the share of a key by :math:`e^{m_j}`, and so does the map, in numerator and denominator alike:

.. math:: w_j = \frac{e^{m_j} (e^{a_j} - p\,e^{-a_j})}{\sum_k e^{m_k} (e^{a_k} + p\,e^{-a_k})}

* it changes no sign; a constant added to the m of a row changes nothing; p = 0 is softmax of :math:`a + m`, exactly;
* :math:`m = 0` changes nothing, :math:`m = -\infty` hides, and anything between fades; from -9000 down a key counts as not kept (softmax
  gives it exactly 0 beside any other), so that rows which hold nothing else are 0;
* :math:`dL/da = C\,dP - W D` and :math:`dL/dm = W\,dP - C D` with :math:`C` the weights with a plus for the minus, :math:`dP` the gradient
  of the weights and :math:`D = \sum_j W_j\,dP_j`.

Softmax does not care about a constant added to a row of scores, but the map does. With a **balanced shift** every row is shifted by the
constant :math:`c = \tfrac12 \log \sum_k e^{m_k - a_k} - \tfrac12 \log \sum_k e^{m_k + a_k} - \tfrac12 \log p`, so that the
negative part has the same share in every row. The map of :math:`a + c` at polarity 1 is then, over the kept keys,

.. math:: w_j = \frac{P_j - p\,N_j}{1 + p}, \qquad P = \mathrm{softmax}(a + m), \quad N = \mathrm{softmax}(-a + m)

* a constant added to the scores of a row, or to its m, changes nothing but rounding; p = 0 is softmax, exactly; p = 1 is odd in the scores;
* :math:`\sum_j w_j = (1 - p) / (1 + p)` and :math:`\sum_j |w_j| \le 1`, so one kept key alone has the weight (1 - p) / (1 + p): 0 at p = 1;
* the other edge cases are those above: keys that are not kept, rows without a kept key, infinite and NaN scores.

The sums are shifted by :math:`\max_k m_k + \max(a_k, -a_k + \log p)`, so no exponential overflows. The difference is formed as
:math:`\tanh(a + c)\,(e^{a} + p\,e^{-a})` where p is near 1, which keeps the digits that a subtraction loses around 0.
"""

import math
from typing import Literal

import torch
from torch import Tensor

Shift = Literal["balanced"] | None

# An additive mask hides with -10000, -1e9, the least finite number or -inf, by convention: so does what is this or less (-10000 rounded to
# bfloat16 included), and a row of such values alone has no key, where softmax would give the keys that it hides equal shares.
HIDDEN_BELOW = -9000.0


def tanhmax(
    scores: Tensor,
    keep: Tensor | None = None,
    *,
    dim: int = -1,
    polarity: float | Tensor = 1.0,
    additive_mask: Tensor | None = None,
    shift: Shift = None,
) -> Tensor:
    r"""Signed coefficients :math:`\sinh(a_i) / \sum_j \cosh(a_j)` over one dimension (Huang et al. 2024, eq. 3).

    Args:
        scores: any shape, any floating dtype; half precision is computed in float32 and rounded once, at the end.
        keep: boolean, broadcasts to `scores`; True takes part. None keeps all.
        dim: the dimension that holds the keys.
        polarity: a number in [0, 1], or a tensor that broadcasts to `scores` (differentiable, where the one-sided
            derivative is taken at 0; above 1 it is that of a score bias c below 0, and below 0 it makes NaN).
        additive_mask: floating point, broadcasts to `scores`; multiplies a key's share by its exponential, as under softmax.
            Differentiable.
        shift: None, or `"balanced"`: the weights are :math:`(P - p N) / (1 + p)`, with P the softmax of the scores and N that of their
            negatives.

    Returns:
        Weights of the shape and dtype of `scores`, differentiable any number of times.

    Raises:
        TypeError: scores or `additive_mask` are not floating point, or `keep` is not boolean.
        ValueError: a polarity number outside [0, 1], another shift, or shapes that do not broadcast.
    """
    check_shift(shift)
    if not scores.is_floating_point():
        raise TypeError(f"scores must be floating point, but are {scores.dtype}; convert them, for example with .float()")
    if keep is not None:
        check_keep(keep, scores.shape, "the scores")
    if additive_mask is not None:
        check_added("additive_mask", additive_mask, scores.shape, "the scores")
        seen = ~hides(additive_mask)
        keep = seen if keep is None else keep & seen
    exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
    polarity = check_polarity(polarity)
    if not isinstance(polarity, Tensor):
        polarity = exact.new_tensor(polarity)
    if scores.size(dim) == 0:
        return scores.clone() if additive_mask is None else scores + additive_mask.to(scores.dtype)  # which keeps its gradient, of nothing
    if keep is not None:
        exact = exact.masked_fill(~keep, 0.0)
    limit = torch.finfo(exact.dtype).max / 4
    polarity = nan_below_zero(polarity.to(exact.dtype))
    weights = (_map if shift is None else _balanced)(exact.clamp(-limit, limit), keep, dim, polarity, additive_mask)
    return weights.to(scores.dtype)


def _map(scores: Tensor, keep: Tensor | None, dim: int, polarity: Tensor, additive_mask: Tensor | None) -> Tensor:
    log_p = log_polarity(polarity)

    highest, lowest = scores.detach(), -scores.detach() + log_p.detach()
    shift = torch.maximum(highest, lowest)
    level = None
    if additive_mask is not None and keep is not None:
        level = torch.where(keep, additive_mask.to(scores.dtype), 0.0)
        shift = shift + level.detach()
    if keep is not None:
        shift = shift.masked_fill(~keep, -torch.finfo(scores.dtype).max / 4)
    shift = shift.amax(dim, keepdim=True)

    level = -shift if level is None else level - shift
    positive, negative = level + scores, level - scores
    if keep is not None:
        positive, negative = positive.masked_fill(~keep, -math.inf), negative.masked_fill(~keep, -math.inf)
    positive = torch.exp(positive)
    # The second form is the first one where polarity is 0, with its derivative; 80 keeps that derivative finite in float32.
    negative = torch.where(polarity > 0, torch.exp(negative + log_p), polarity * torch.exp(negative.clamp(max=80.0)))
    total = (positive + negative).sum(dim, keepdim=True)
    total = total.masked_fill(total == 0, 1.0)
    # Near 1, tanh keeps the digits that the difference loses around 0; below, the difference has the better derivative.
    signed = torch.tanh(scores - 0.5 * log_p) * (positive + negative)
    return torch.where(polarity > 0.5, signed, positive - negative) / total


def _balanced(scores: Tensor, keep: Tensor | None, dim: int, polarity: Tensor, additive_mask: Tensor | None) -> Tensor:
    if keep is None:
        return (torch.softmax(scores, dim) - polarity * torch.softmax(-scores, dim)) / (1.0 + polarity)
    empty = ~keep.broadcast_to(scores.shape).any(dim, keepdim=True)
    hidden = ~keep & ~empty
    level = scores.new_zeros(())
    if additive_mask is not None:
        added = additive_mask.to(scores.dtype).broadcast_to(scores.shape)
        highest = added.detach().masked_fill(~keep, -math.inf).amax(dim, keepdim=True)
        level = (added - highest).masked_fill(~keep, 0.0)  # what a row has in common would cost the scores their digits
    shares = [torch.softmax((level + half).masked_fill(hidden, -math.inf), dim) for half in (scores, -scores)]
    return ((shares[0] - polarity * shares[1]) / (1.0 + polarity)).masked_fill(empty, 0.0)


def log_polarity(polarity: Tensor) -> Tensor:
    """The logarithm of a polarity, -inf at 0 with gradient 0 there (where the map is softmax and stays softmax); NaN stays NaN."""
    none = polarity <= 0
    return torch.where(none, -math.inf, torch.log(torch.where(none, 1.0, polarity)))


def nan_below_zero(polarity: Tensor) -> Tensor:
    """A polarity whose values below 0, which mean nothing, are NaN."""
    return polarity.masked_fill(polarity < 0, math.nan)


def check_polarity(polarity: float | Tensor) -> float | Tensor:
    """The polarity, if it is a number in [0, 1] or a floating-point tensor (whose values are not read).

    Raises:
        TypeError: neither a number nor a floating-point tensor.
        ValueError: a number outside [0, 1].
    """
    if type(polarity) is float and 0.0 <= polarity <= 1.0:
        return polarity
    if isinstance(polarity, Tensor):
        if not polarity.is_floating_point():
            raise TypeError(f"a polarity tensor must be floating point, but is {polarity.dtype}")
        return polarity
    if isinstance(polarity, bool) or not isinstance(polarity, int | float):
        raise TypeError(f"polarity must be a number in [0, 1] or a tensor, but is {polarity!r}")
    if not 0.0 <= polarity <= 1.0:
        raise ValueError(f"polarity must be in [0, 1] (0 is softmax, 1 is TanhMax), but is {polarity}")
    return float(polarity)


def check_shift(shift: Shift) -> Shift:
    """The shift of the scores, if there is such a one.

    Raises:
        ValueError: neither None nor `"balanced"`.
    """
    if shift is not None and not (isinstance(shift, str) and shift == "balanced"):
        raise ValueError(f'shift must be None or "balanced", but is {shift!r}')
    return shift


def check_keep(keep: Tensor, shape: torch.Size | tuple[int, ...], what: str) -> None:
    """Refuse a mask that is not boolean or does not broadcast to `shape`.

    Raises:
        TypeError: `keep` is not boolean.
        ValueError: `keep` does not broadcast.
    """
    if keep.dtype != torch.bool:
        raise TypeError(
            f"keep must be boolean (True takes part), but is {keep.dtype}; a 0/1 mask needs .bool(), and an additive mask goes to "
            "`additive_mask`"
        )
    _check_broadcasts("keep", keep, shape, what)


def check_added(name: str, added: Tensor, shape: torch.Size | tuple[int, ...], what: str) -> None:
    """Refuse what is to be added (`bias`, `additive_mask`) if it is not floating point or does not broadcast to `shape`.

    Raises:
        TypeError: it is not floating point.
        ValueError: it does not broadcast.
    """
    if not added.is_floating_point():
        raise TypeError(f"{name} must be floating point, but is {added.dtype}; a boolean mask goes to `keep`")
    _check_broadcasts(name, added, shape, what)


def _check_broadcasts(name: str, tensor: Tensor, shape: torch.Size | tuple[int, ...], what: str) -> None:
    fits = tensor.dim() <= len(shape)
    for have, want in zip(tensor.shape[::-1], shape[::-1], strict=False):  # from the last; a generator would take twice as long
        fits = fits and (have == 1 or have == want)
    if not fits:
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} does not broadcast to {what} of shape {tuple(shape)}")


def hides(additive_mask: Tensor) -> Tensor:
    """True where an additive mask hides a key outright; NaN hides nothing, and propagates."""
    return additive_mask <= HIDDEN_BELOW
