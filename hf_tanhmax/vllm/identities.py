r"""TanhMax over the paged flash kernel of an engine, where our own kernels do not run: the identities of `attention.composed`.

The queries and their negatives are query heads of one group, `[tokens, 2 * heads, head_dim]`, so that one call reads the cache once. With
its outputs and log-sum-exps for :math:`q` and :math:`-q`, :math:`L_-` shifted by :math:`\log p`,

.. math:: O = \sigma(L_+ - L_-)\,O_+ - \sigma(L_- - L_+)\,O_-, \qquad \text{balanced:}\; O = \frac{O_+ - p\,O_-}{1 + p}

A softcap is odd, and commutes. The kernel rounds both outputs to 16 bits before they are joined.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .step import LayerCall


class FlashCall(NamedTuple):
    """A flash kernel with the signature of `flash_attn_varlen_func`, and what it is told of the requests."""

    function: Callable[..., tuple[Tensor, Tensor]]
    paged: dict[str, Any]


def attend_by_identities(query: Tensor, cache: Tensor, call: LayerCall, flash: FlashCall) -> Tensor:
    """Causal attention of the new tokens of many requests, `[tokens, heads, head_dim]`.

    Args:
        query: `[tokens, heads, head_dim]`.
        cache: `[blocks, kv_heads, keys of a block, 2 * head_dim]`, with the new keys in it.
        call: what the layer computes.
        flash: returns outputs `[tokens, 2 * heads, head_dim]` and log-sum-exps `[2 * heads, tokens]`.
    """
    tokens, heads, dim = query.shape
    kv_heads = cache.shape[1]
    keys, values = cache.transpose(1, 2).split(dim, -1)
    grouped = query.view(tokens, kv_heads, -1, dim)
    both = torch.cat([grouped, -grouped], 2).flatten(1, 2)
    output, lse = flash.function(
        q=both,
        k=keys,
        v=values,
        softmax_scale=call.scale,
        causal=True,
        window_size=[-1, -1] if call.window is None else [call.window - 1, 0],
        softcap=call.softcap or 0.0,
        return_softmax_lse=True,
        **flash.paged,
    )
    positive, negative = output.float().view(tokens, kv_heads, 2, -1, dim).unbind(2)
    polarity = torch.as_tensor(call.polarity, dtype=torch.float32, device=query.device).expand(heads).view(kv_heads, -1)
    if call.shift is not None:
        share = polarity[..., None]
        joined = (positive - share * negative) / (1.0 + share)
    else:
        up, down = lse.float().view(kv_heads, 2, -1, tokens).permute(1, 3, 0, 2)
        share = torch.sigmoid(up - down - torch.log(polarity))[..., None]
        joined = share * positive - (1.0 - share) * negative
    return joined.reshape(tokens, heads, dim).to(query.dtype)
