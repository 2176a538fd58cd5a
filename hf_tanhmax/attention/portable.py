r"""TanhMax attention out of torch's public `scaled_dot_product_attention` alone, for runtimes that have a fused kernel of their own for it.

An exported graph holds the node that the exporter writes for softmax attention, and a few cheap ones around it:

* **TanhMax**: one call with the keys :math:`[K; -K]` and the values :math:`[V; -V]`. Its softmax is over both halves, so its output is
  :math:`\sum_j (e^{a_j} - p\,e^{-a_j}) v_j / \sum_k (e^{a_k} + p\,e^{-a_k})` if :math:`\log p` is added to the scores of the second half,
  by an additive mask. At :math:`p = 1` nothing is added, so that the mask stays boolean, and without one there is none.
* **balanced**: a call for :math:`q` and one for :math:`-q`, of the same keys and values, joined as :math:`(O_+ - p\,O_-) / (1 + p)`.
* :math:`p = 0` is one plain call.

Rows without a key are opened to all keys before the call, as a softmax over nothing is nowhere defined alike, and set to 0 after it.
Nothing depends on what a tensor holds or on how long it is, so one graph serves every batch and length. Half precision is computed in
float32, since the two halves of a weight cancel near a score of 0. Where gradients are wanted, torch's operators compute, which can be
differentiated any number of times, and in memory that grows with queries times keys.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..functional import Shift, log_polarity
from .composed.identities import ScoreMods, doubled_keys, stock_attention
from .mask import AttentionMask


def portable_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask,
    *,
    bias: Tensor | None = None,
    additive_mask: Tensor | None = None,
    scale: float,
    polarity: float | Tensor,
    shift: Shift = None,
) -> Tensor:
    """Attention output `[batch, heads, queries, value_dim]`; arguments as in `reference_attention`, a polarity tensor is `[heads]`.

    Everything has a gradient. Dropout and softcap are not to be had; the caller refuses them.
    """
    if scale <= 0:  # a hidden score is -inf before it is scaled, in some kernels
        query, scale = (-query, -scale) if scale else (query * 0.0, 1.0)
    dtype, exact = query.dtype, torch.promote_types(query.dtype, torch.float32)
    query, key, value = (tensor.to(exact) for tensor in (query, key, value))
    mods = ScoreMods(mask, bias, additive_mask)
    given = (query, key, value, bias, additive_mask, polarity)
    wanted = torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in given)
    with sdpa_kernel(SDPBackend.MATH) if wanted and not torch.compiler.is_compiling() else nullcontext():
        if shift is None and not _is(polarity, 0.0):
            log_p = None if _is(polarity, 1.0) else log_polarity(torch.as_tensor(polarity, dtype=exact, device=query.device))
            return doubled_keys(query, key, value, mods, scale=scale, log_polarity=log_p).to(dtype)
        return _two_calls_joined(query, key, value, mods, scale, polarity).to(dtype)


def _two_calls_joined(query: Tensor, key: Tensor, value: Tensor, mods: ScoreMods, scale: float, polarity: float | Tensor) -> Tensor:
    """(P - p N) V / (1 + p); of a polarity that is 0, P V."""
    keep = mods.seen(query.device)
    empty = None if keep is None else ~keep.any(-1, keepdim=True)
    masks: Sequence[Tensor | None] = mods.stock_masks(query, keep, empty) or (None, None)
    output = stock_attention(query, key, value, masks[0], scale=scale)
    if not _is(polarity, 0.0):
        share = polarity.to(output.dtype).view(1, -1, 1, 1) if isinstance(polarity, Tensor) else polarity
        output = (output - share * stock_attention(-query, key, value, masks[1], scale=scale)) / (1.0 + share)
    return output if empty is None else output.masked_fill(empty, 0.0)


def _is(polarity: float | Tensor, number: float) -> bool:
    """Whether a polarity is that number, as a constant of the graph."""
    return not isinstance(polarity, Tensor) and polarity == number
