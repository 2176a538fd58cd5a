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

The sums are shifted by :math:`\max_k \max(a_k, -a_k + \log p)`, so no exponential overflows. The difference is formed as
:math:`\tanh(a + c)\,(e^{a} + p\,e^{-a})` where p is near 1, which keeps the digits that a subtraction loses around 0.
"""

import math

import torch
from torch import Tensor


def tanhmax(scores: Tensor, keep: Tensor | None = None, *, dim: int = -1, polarity: float | Tensor = 1.0) -> Tensor:
    r"""Signed coefficients :math:`\sinh(a_i) / \sum_j \cosh(a_j)` over one dimension (Huang et al. 2024, eq. 3).

    Args:
        scores: any shape, any floating dtype; half precision is computed in float32 and rounded once, at the end.
        keep: boolean, broadcasts to `scores`; True takes part. None keeps all.
        dim: the dimension that holds the keys.
        polarity: a number in [0, 1], or a tensor that broadcasts to `scores` (non-negative; differentiable, where the one-sided
            derivative is taken at 0).

    Returns:
        Weights of the shape and dtype of `scores`, differentiable any number of times.

    Raises:
        TypeError: scores are not floating point, or `keep` is not boolean.
        ValueError: a polarity number outside [0, 1], or shapes that do not broadcast.
    """
    if not scores.is_floating_point():
        raise TypeError(f"scores must be floating point, but are {scores.dtype}; convert them, for example with .float()")
    if keep is not None:
        check_keep(keep, scores.shape, "the scores")
    exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
    polarity = check_polarity(polarity)
    if not isinstance(polarity, Tensor):
        polarity = exact.new_tensor(polarity)
    return _map(exact, keep, dim, polarity.to(exact.dtype)).to(scores.dtype)


def _map(scores: Tensor, keep: Tensor | None, dim: int, polarity: Tensor) -> Tensor:
    if scores.size(dim) == 0:
        return scores.clone()
    if keep is not None:
        scores = scores.masked_fill(~keep, 0.0)
    limit = torch.finfo(scores.dtype).max / 4
    scores = scores.clamp(-limit, limit)
    log_p = log_polarity(polarity)

    highest, lowest = scores.detach(), -scores.detach() + log_p.detach()
    shift = torch.maximum(highest, lowest)
    if keep is not None:
        shift = shift.masked_fill(~keep, -limit)
    shift = shift.amax(dim, keepdim=True)

    positive, negative = scores - shift, -scores - shift
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


def log_polarity(polarity: Tensor) -> Tensor:
    """The logarithm of a polarity, -inf at 0 with gradient 0 there (where the map is softmax and stays softmax)."""
    positive = polarity > 0
    return torch.where(positive, torch.log(torch.where(positive, polarity, 1.0)), -math.inf)


def check_polarity(polarity: float | Tensor) -> float | Tensor:
    """The polarity, if it is a number in [0, 1] or a floating-point tensor (whose values are not read).

    Raises:
        TypeError: neither a number nor a floating-point tensor.
        ValueError: a number outside [0, 1].
    """
    if isinstance(polarity, Tensor):
        if not polarity.is_floating_point():
            raise TypeError(f"a polarity tensor must be floating point, but is {polarity.dtype}")
        return polarity
    if isinstance(polarity, bool) or not isinstance(polarity, int | float):
        raise TypeError(f"polarity must be a number in [0, 1] or a tensor, but is {polarity!r}")
    if not 0.0 <= polarity <= 1.0:
        raise ValueError(f"polarity must be in [0, 1] (0 is softmax, 1 is TanhMax), but is {polarity}")
    return float(polarity)


def check_keep(keep: Tensor, shape: torch.Size | tuple[int, ...], what: str) -> None:
    """Refuse a mask that is not boolean or does not broadcast to `shape`.

    Raises:
        TypeError: `keep` is not boolean.
        ValueError: `keep` does not broadcast.
    """
    if keep.dtype != torch.bool:
        raise TypeError(
            f"keep must be boolean (True takes part), but is {keep.dtype}; a 0/1 mask needs .bool(), and an additive mask "
            "must be split: keep = mask > torch.finfo(mask.dtype).min / 2, the finite rest is a bias"
        )
    padded = (1,) * (len(shape) - keep.dim()) + tuple(keep.shape)
    if keep.dim() > len(shape) or any(have not in (1, want) for have, want in zip(padded, shape, strict=True)):
        raise ValueError(f"keep of shape {tuple(keep.shape)} does not broadcast to {what} of shape {tuple(shape)}")
