r"""Balanced TanhMax attention composed of two stock softmax calls, whose outputs alone are joined.

With outputs :math:`O_+, O_-` of softmax attention for :math:`q` and for :math:`-q` (where a bias changes its sign, and a mask does not),

.. math:: O = \frac{O_+ - p\,O_-}{1 + p}

No log-sum-exp enters, so any softmax kernel can serve both calls: here those of `aten_kernels`, the first that can run, and torch's own
`scaled_dot_product_attention` on other devices, in float64 on CUDA, and where a bias or an additive mask wants a gradient. A second
derivative is computed by torch's operators, in memory that grows with queries times keys.

The CPU computes half precision in float32; kernels on CUDA round both outputs to the dtype of the query before they are joined in float32.
"""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ..call import AutogradContext, Flat
from ..mask import AttentionMask
from .aten_kernels import KERNELS, Joint, StockCall, padded, refusal
from .identities import AUTOMATIC_KERNELS, ScoreMods, kernel_masks


def balanced_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask,
    *,
    bias: Tensor | None = None,
    additive_mask: Tensor | None = None,
    scale: float,
    polarity: Tensor,
) -> Tensor:
    """Attention output `[batch, heads, queries, value_dim]`; arguments as in `reference_attention`, polarity `[heads]`.

    Everything has a gradient. Dropout and softcap are not to be had; the caller refuses them. Neither queries nor keys may be none.
    """
    if scale <= 0:  # the CPU's kernel multiplies hidden scores, which are -inf, by the scale
        query, scale = (-query, -scale) if scale else (query * 0.0, 1.0)
    mods, dtype, value_dim = ScoreMods(mask, bias, additive_mask), query.dtype, value.shape[-1]
    name, exact = _kernel_for(query, key, value, mods), torch.promote_types(dtype, torch.float32)
    if name is None or KERNELS[name].exact:
        query, key, value = (tensor.to(exact) for tensor in (query, key, value))
    if name is not None:
        width = max(query.shape[-1], value_dim)
        width += -width % KERNELS[name].multiple
        query, key, value = (padded(tensor, width) for tensor in (query, key, value))
    positive, negative, empty = kernel_masks(mods, query) if mods.pattern == "mask" else (None, None, None)
    options = (mods.pattern == "causal", scale)
    halves = [
        _softmax_attention(name, StockCall(*call, *options)) for call in ((query, key, value, positive), (-query, key, value, negative))
    ]
    share = polarity.to(exact).view(1, -1, 1, 1)
    output = (halves[0].to(exact) - share * halves[1].to(exact)) / (1.0 + share)
    if empty is not None:
        output = output.masked_fill(empty[..., None], 0.0)
    return output[..., :value_dim].to(dtype)


def _kernel_for(query: Tensor, key: Tensor, value: Tensor, mods: ScoreMods) -> str | None:
    """The first kernel that can run a call; None where torch's own attention is to."""
    added = [tensor for tensor in (mods.bias, mods.additive_mask) if tensor is not None and tensor.requires_grad]
    if added and torch.is_grad_enabled():
        return None
    return next((name for name in AUTOMATIC_KERNELS if refusal(name, query, key, value, mods.pattern) is None), None)


def _softmax_attention(name: str | None, call: StockCall) -> Tensor:
    """By a kernel, or without a name by torch's own attention; where a gradient is wanted, differentiable any number of times."""
    wanted = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in call[:4])
    if name is None:
        return _by_operators(call, wanted)
    return _StockSoftmax.apply(name, *call)[0] if wanted else KERNELS[name].forward(call)[0]


def _by_operators(call: StockCall, wanted: bool = True) -> Tensor:
    """By torch's own attention, which is differentiable any number of times if that is wanted."""
    groups = call.query.shape[1] // call.key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (call.key, call.value))
    with sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext():
        return scaled_dot_product_attention(call.query, key, value, call.full_mask, is_causal=call.causal, scale=call.scale)


class _StockSoftmax(torch.autograd.Function):
    """Softmax attention by a stock kernel, in both passes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, *call: Flat) -> tuple[Tensor, ...]:
        """Output, log-sum-exp and state of a kernel, by its name and the fields of its `StockCall`."""
        output, lse, state = KERNELS[name].forward(StockCall._make(call))
        return output, lse, *state

    @staticmethod
    def setup_context(ctx: AutogradContext, inputs: tuple[Flat | str, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the call and what came of it; only the output has a gradient."""
        call = StockCall._make(inputs[1:])
        ctx.save_for_backward(*call[:4], *output)
        ctx.constants = (inputs[0], *call[4:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: AutogradContext, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """The kernel's backward pass, or the operators where its result is to be differentiated again."""
        query, key, value, mask, output, lse, *state = ctx.saved_tensors
        name, causal, scale = ctx.constants
        call = StockCall(query, key, value, mask, causal, scale)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            found = _gradients_of_operators(call, ctx.needs_input_grad[1:4], grad_output)
        else:
            found = KERNELS[name].backward(call, Joint(grad_output, output, lse, tuple(state)))
        return None, *found, None, None, None


def _gradients_of_operators(call: StockCall, wants: tuple[bool, ...], grad_output: Tensor) -> tuple[Tensor | None, ...]:
    """First derivatives of query, key and value that can be differentiated again."""
    views = [tensor.view_as(tensor) for tensor in call[:3]]  # as one tensor may be two of them
    wanted = [view for view, want in zip(views, wants, strict=True) if want]
    found = iter(torch.autograd.grad(_by_operators(StockCall._make((*views, *call[3:]))), wanted, grad_output, create_graph=True))
    return tuple(next(found) if want else None for want in wants)
