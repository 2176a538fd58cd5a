r"""Weights of the maps that are not TanhMax, from scores; `hf_tanhmax.tanhmax` defines the others.

For the scores :math:`a_j` of one query over its kept keys, with :math:`P` their softmax:

* `softmax`: :math:`P(a)_j`;
* `sign_softmax` (Cog Attention, Lv et al. 2024): :math:`\mathrm{sign}(a_j)\,P(|a|)_j`. Odd in the scores; :math:`\sum_j |w_j| = 1`
  unless a score is exactly 0, whose weight is 0 and whose share stays in the normaliser. Its derivative leaves the jump at 0 out;
* `differential` (DIFF V2, Ye et al. 2026): :math:`P(a)_j - g\,P(b)_j` for two scores per key and a gate :math:`g \in (0, 1)` per query.
  A constant added to the scores of either half changes nothing; :math:`\sum_j w_j = 1 - g`.

A key that is not kept has weight 0 and adds nothing to the sums, whatever its score is; a row without a key is 0, with gradients 0.
"""

import math

import torch
from torch import Tensor


def softmax(scores: Tensor, keep: Tensor) -> Tensor:
    """Softmax over the last dimension, among the kept keys.

    Args:
        scores: any shape, floating point.
        keep: boolean, broadcasts to `scores`.
    """
    keep = keep.broadcast_to(scores.shape)
    empty = ~keep.any(-1, keepdim=True)
    hidden = scores.masked_fill(~keep, -math.inf).masked_fill(empty, 0.0)
    return torch.softmax(hidden, -1).masked_fill(empty, 0.0)


def sign_softmax(scores: Tensor, keep: Tensor) -> Tensor:
    """Softmax of absolute scores with the signs of the scores; arguments as of `softmax`."""
    seen = scores.masked_fill(~keep.broadcast_to(scores.shape), 0.0)
    return torch.sign(seen) * softmax(seen.abs(), keep)


def differential(first: Tensor, second: Tensor, gate: Tensor, keep: Tensor) -> Tensor:
    """Softmax of one half less `gate` times softmax of the other.

    Args:
        first: scores `[..., queries, keys]`.
        second: of the same shape.
        gate: `[..., queries, 1]`, between 0 and 1.
        keep: boolean, broadcasts to the scores.
    """
    return softmax(first, keep) - gate * softmax(second, keep)
