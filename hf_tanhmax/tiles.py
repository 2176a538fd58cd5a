r"""The passes over a tile of scores with torch's own operators: from scores to signed weights, and from their gradient back.

Without its denominator a weight is :math:`W' = P - N` with :math:`P = e^a` and :math:`N = p\,e^{-a}`; the denominator is the sum of
:math:`P + N`.
"""

import torch
from torch import Tensor


class TorchTiles:
    """For float32 and float64, on any CPU."""

    def weigh(self, scores: Tensor, other: Tensor, polarity: Tensor, seen: Tensor | None, hidden: int, *, keep: bool) -> Tensor:
        """Turn scores into weights in place, without their denominator, which is returned: `[entries, heads, rows, 1]`.

        Args:
            scores: contiguous `[entries, heads, rows, columns]`, times log2(e), of absolute value below 126.
            other: like `scores`; holds N afterwards if it is to be kept, else anything.
            polarity: `[heads]`.
            seen: boolean, broadcasts to the columns from `hidden` on; None if all are visible.
            hidden: the first column that `seen` speaks of.
            keep: whether N is wanted.
        """
        torch.div(polarity[:, None, None], scores.exp2_(), out=other)
        if seen is not None:
            factor = seen.to(scores.dtype)  # all is finite here, so a product masks as well as a fill, and several times as fast
            scores[..., hidden:].mul_(factor)
            other[..., hidden:].mul_(factor)
        total = scores.sum(-1, keepdim=True).add_(other.sum(-1, keepdim=True))
        scores.sub_(other)
        return total

    def score_gradient(self, grads: Tensor, weights: Tensor, negatives: Tensor, inverse: Tensor, *, sums: bool) -> Tensor | None:
        r"""Turn :math:`dP = dO\,V^\top` over the denominator into :math:`C \circ dP - W \circ D` in place, C and W over the denominator.

        Args:
            grads, weights, negatives: contiguous `[entries, heads, rows, columns]`; weights and negatives as `weigh` leaves them.
            inverse: one over the denominator, contiguous, an element for each row.
            sums: whether those of N (dP + D) over the denominator are wanted, for the gradient of the polarity.

        Returns:
            The sums, `[entries, heads, rows, 1]`, or None.
        """
        delta = torch.mul(grads, weights).sum(-1, keepdim=True).mul_(inverse.view(*grads.shape[:3], 1))
        found = torch.mul(grads + delta, negatives).sum(-1, keepdim=True) if sums else None
        change = torch.mul(grads, negatives)
        grads.sub_(delta).mul_(weights).add_(change, alpha=2.0)
        return found
