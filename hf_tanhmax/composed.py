r"""TanhMax attention composed of stock softmax kernels, by two identities that hold exactly for outputs and gradients.

(a) **Doubled keys**: softmax attention over keys :math:`[K; -K]` and values :math:`[V; -V]`, with :math:`\log p` added to the scores of
    the second half. A bias changes its sign in the second half; the mask is repeated.

(b) **Two calls**: with output and log-sum-exp of softmax attention for :math:`q` and for :math:`-q` (:math:`L_-` shifted by
    :math:`\log p`), :math:`O = \sigma(L_+ - L_-)\,O_+ - \sigma(L_- - L_+)\,O_-` and :math:`L = \log(e^{L_+} + e^{L_-})`. A softmax
    kernel's backward pass that is given the joint O and L computes one half of the exact gradient, so two calls with
    :math:`(dO, q, O, L)` and :math:`(-dO, -q, -O, L - \log p)` compute it all.

(b) runs where the kernel hands out its log-sum-exp (the CPU's flash kernel), in memory linear in the length; (a) runs on any device, and
where a bias or a polarity wants a gradient. Both lose digits where scores are near 0, as the two halves cancel; in bfloat16 the loss is
visible (1.2 % at a score deviation of 0.1), so these are the fallback and the oracle, not the accurate path.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .functional import log_polarity
from .visibility import Visibility


def composed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visibility: Visibility,
    *,
    bias: Tensor | None = None,
    scale: float,
    polarity: Tensor,
) -> Tensor:
    """Attention output `[batch, heads, queries, value_dim]`; arguments as in `reference_attention`, polarity `[heads]`.

    Dropout and softcap are not to be had from stock kernels; the caller refuses them.
    """
    log_p = log_polarity(polarity)
    wants = polarity.requires_grad or (bias is not None and bias.requires_grad)
    if query.device.type == "cpu" and value.shape[-1] == query.shape[-1] and not (wants and torch.is_grad_enabled()):
        exact = torch.promote_types(query.dtype, torch.float32)  # in half precision the CPU's kernel is slower and cancels more
        output = _two_calls(query.to(exact), key.to(exact), value.to(exact), visibility, bias, scale, log_p)
        return output.to(query.dtype)
    return doubled_keys(query, key, value, visibility, bias=bias, scale=scale, log_polarity=log_p)


def doubled_keys(
    query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, *, bias: Tensor | None, scale: float, log_polarity: Tensor
) -> Tensor:
    """Identity (a) over `torch.nn.functional.scaled_dot_product_attention`, on any device."""
    groups = query.shape[1] // key.shape[1]
    key, value = (torch.cat([half, -half], dim=2).repeat_interleave(groups, dim=1) for half in (key, value))
    keep = visibility.full(query.device)
    shift = log_polarity.to(query.dtype).view(1, -1, 1, 1)
    positive = query.new_zeros(1, 1, 1, 1) if bias is None else bias.to(query.dtype)
    negative = shift if bias is None else shift - bias.to(query.dtype)
    shape = torch.broadcast_shapes(positive.shape, negative.shape, () if keep is None else keep.shape)
    shape = (*shape[:3], visibility.keys)
    halves = [half.expand(shape) for half in (positive, negative)]
    if keep is None:
        return scaled_dot_product_attention(query, key, value, torch.cat(halves, dim=-1), scale=scale)
    mask = torch.cat([half.masked_fill(~keep, -math.inf) for half in halves], dim=-1)
    empty = ~keep.any(-1, keepdim=True)
    output = scaled_dot_product_attention(query, key, value, mask.masked_fill(empty, 0.0), scale=scale)
    return output.masked_fill(empty, 0.0)


def _two_calls(
    query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, bias: Tensor | None, scale: float, log_p: Tensor
) -> Tensor:
    upper_left = visibility.offset == 0 and visibility.window is None and visibility.segments is None and visibility.keep is None
    if visibility.causal and upper_left and bias is None:
        return _TwoCalls.apply(query, key, value, None, None, None, True, scale, log_p)
    keep = visibility.full(query.device)
    if keep is None and bias is None:
        return _TwoCalls.apply(query, key, value, None, None, None, False, scale, log_p)
    positive = torch.zeros(1, 1, 1, 1, dtype=query.dtype) if bias is None else bias.detach().to(query.dtype)
    shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    masks = [half if keep is None else torch.where(keep, half, -math.inf) for half in (positive, -positive)]
    empty = None if keep is None else ~keep.any(-1)
    return _TwoCalls.apply(query, key, value, masks[0].expand(shape), masks[1].expand(shape), empty, False, scale, log_p)


class _TwoCalls(torch.autograd.Function):
    """Identity (b) over the CPU's flash kernel, which is not public: it alone hands out the log-sum-exp."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        negative_mask: Tensor | None,
        empty: Tensor | None,
        causal: bool,
        scale: float,
        log_p: Tensor,
    ) -> Tensor:
        """Join the two outputs by their log-sum-exps."""
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        positive, plus = flash(query, key, value, 0.0, causal, attn_mask=mask, scale=scale)
        negative, minus = flash(-query, key, value, 0.0, causal, attn_mask=negative_mask, scale=scale)
        log_p = log_p.to(plus.dtype).view(1, -1, 1)
        minus = minus + log_p
        lse = torch.logaddexp(plus, minus)
        output = torch.sigmoid(plus - minus)[..., None] * positive - torch.sigmoid(minus - plus)[..., None] * negative
        if empty is not None:
            output, lse = output.masked_fill(empty[..., None], 0.0), lse.masked_fill(empty, math.inf)
        ctx.save_for_backward(query, key, value, mask, negative_mask, output, lse, log_p)
        ctx.causal, ctx.scale = causal, scale
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Two backward passes that are given the joint output and log-sum-exp."""
        query, key, value, mask, negative_mask, output, lse, log_p = ctx.saved_tensors
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        options = {"scale": ctx.scale}
        plus = flash(grad_output, query, key, value, output, lse, 0.0, ctx.causal, attn_mask=mask, **options)
        minus = flash(-grad_output, -query, key, value, -output, lse - log_p, 0.0, ctx.causal, attn_mask=negative_mask, **options)
        return plus[0] - minus[0], plus[1] + minus[1], plus[2] + minus[2], None, None, None, None, None, None
