r"""TanhMax attention in plain PyTorch, with its weights: the definition that every other implementation is measured against.

.. math:: O = \mathrm{dropout}(W) V, \qquad W = \mathrm{tanhmax}(s(\alpha\, Q K^\top) + B, M), \qquad s(x) = c \tanh(x / c)

with scale :math:`\alpha`, softcap :math:`c` (absent: :math:`s(x) = x`), bias :math:`B` and additive mask :math:`M`. Memory grows with
queries times keys.
"""

import torch
from torch import Tensor

from ..functional import Shift, tanhmax
from .mask import AttentionMask


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask,
    *,
    bias: Tensor | None = None,
    additive_mask: Tensor | None = None,
    scale: float,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    polarity: float | Tensor = 1.0,
    shift: Shift = None,
    return_weights: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Attention output and weights, differentiable any number of times.

    Args:
        query: `[batch, heads, queries, head_dim]`.
        key: `[batch, kv_heads, keys, head_dim]`; `kv_heads` divides `heads`, and consecutive query heads share a key head.
        value: `[batch, kv_heads, keys, value_dim]`.
        mask: which keys a query sees.
        bias: broadcasts to `[batch, heads, queries, keys]`, added after the softcap.
        additive_mask: broadcasts likewise; multiplies the share of a key by its exponential.
        scale: multiplies the products of query and key.
        softcap: bound of the scores, before bias and mask.
        dropout_p: share of the weights set to 0, the others scaled by 1 / (1 - dropout_p).
        polarity: a number, or `[heads]`.
        shift: of the map.
        return_weights: whether weights are wanted. If so, the gradient that goes through them is rounded to their dtype, as they are.

    Returns:
        Output `[batch, heads, queries, value_dim]` and weights `[batch, heads, queries, keys]` as they met the values (after
        dropout), in the dtype of the query, or None. Scores and weights are computed in float32, or float64 for float64.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    groups = query.shape[1] // key.shape[1]
    scores = torch.matmul(query.to(exact), _repeat(key, groups).to(exact).transpose(-1, -2)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias.to(exact)
    if isinstance(polarity, Tensor):
        polarity = polarity.view(1, -1, 1, 1)
    weights = tanhmax(scores, mask.full(query.device), polarity=polarity, additive_mask=additive_mask, shift=shift)
    if dropout_p > 0:
        weights = torch.nn.functional.dropout(weights, dropout_p)
    returned = None
    if return_weights:
        returned, weights = _rounded(weights, query.dtype)
    output = torch.matmul(weights, _repeat(value, groups).to(exact))
    return output.to(query.dtype), returned


def _rounded(weights: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights to be returned, in their dtype, and those to be used: the exact values, whose gradient goes through the returned ones."""
    returned = weights.to(dtype)
    if returned.dtype == weights.dtype or not weights.requires_grad:
        return returned, weights
    widened = returned.to(weights.dtype)
    return returned, widened + (weights - widened).detach()  # no digit is lost: the two are too close to each other


def _repeat(tensor: Tensor, groups: int) -> Tensor:
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)
