r"""TanhMax attention from softmax attention kernels, by two identities that hold exactly for outputs and gradients.

(a) **Doubled keys**: softmax attention over keys :math:`[K; -K]` and values :math:`[V; -V]`, with :math:`\log p` added to the scores of
    the second half. A bias changes its sign in the second half; the mask, boolean or additive, is repeated.

(b) **Two calls**: with output and log-sum-exp of softmax attention for :math:`q` and for :math:`-q` (:math:`L_-` shifted by
    :math:`\log p`), :math:`O = \sigma(L_+ - L_-)\,O_+ - \sigma(L_- - L_+)\,O_-` and :math:`L = \log(e^{L_+} + e^{L_-})`. A softmax
    kernel's backward pass that is given the joint O and L computes one half of the exact gradient, so two calls with
    :math:`(dO, q, O, L)` and :math:`(-dO, -q, -O, L - \log p)` compute it all.

(b) runs over the kernels of `stock`, in memory linear in the length unless there is a mask: on the CPU its flash kernel; on CUDA the flash
kernel for 16 bits without mask and bias, else the efficient one. (a) runs on other devices, in float64 on CUDA, on GPUs older than the
kernels ask for, and where a bias, an additive mask or a polarity wants a gradient.

Both lose digits where scores are near 0, as the two halves cancel; in bfloat16 the loss is visible (1.2 % at a score deviation of 0.1), so
these are the fallback and the oracle, not the accurate path. The CPU computes half precision in float32. The kernels on CUDA do not: they
round each of the two outputs to the dtype of the query before they are joined in float32, and each of the two gradients before their sum.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import hides, log_polarity
from ..call import AutogradContext, Flat
from ..mask import AttentionMask
from .aten_kernels import KERNELS, Joint, Pattern, StockCall, padded, refusal

AUTOMATIC_KERNELS = ("cpu", "flash", "efficient")
"""The kernels that are chosen unasked, the first that can run a call."""


def composed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask,
    *,
    bias: Tensor | None = None,
    additive_mask: Tensor | None = None,
    scale: float,
    polarity: Tensor,
    kernel: str | None = None,
) -> Tensor:
    """Attention output `[batch, heads, queries, value_dim]`; arguments as in `reference_attention`, polarity `[heads]`.

    Dropout and softcap are not to be had from stock kernels; the caller refuses them. Neither queries nor keys may be none.

    Args:
        kernel: the stock kernel that (b) runs over: "cpu", "flash", "cudnn" or "efficient"; it runs or raises. None chooses.

    Raises:
        ValueError: an unknown kernel.
        NotImplementedError: a named kernel that cannot run the call; the sentence says why.
    """
    if scale <= 0:  # the CPU's kernel multiplies hidden scores, which are -inf, by the scale
        query, scale = (-query, -scale) if scale else (query * 0.0, 1.0)
    log_p = log_polarity(polarity)
    mods = ScoreMods(mask, bias, additive_mask)
    wants = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in (polarity, bias, additive_mask))
    if kernel is not None:
        _check_kernel(kernel, query, key, value, mods.pattern, wants)
        return _two_calls(query, key, value, mods, scale=scale, log_polarity=log_p, name=kernel)
    for name in () if wants else AUTOMATIC_KERNELS:
        if refusal(name, query, key, value, mods.pattern) is None:
            return _two_calls(query, key, value, mods, scale=scale, log_polarity=log_p, name=name)
    return doubled_keys(query, key, value, mods, scale=scale, log_polarity=log_p)


class ScoreMods(NamedTuple):
    """What is done to the scores: a mask, a bias (of the other sign in the second half), an additive mask (of the same sign)."""

    mask: AttentionMask
    bias: Tensor | None = None
    additive_mask: Tensor | None = None

    def halves(self, query: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sums for the scores and for their negatives, in the dtype of the query; of the mask, what is not `seen` counts as 0.

        The largest number that a row of the mask shows is taken off before anything is rounded: it changes no weight.
        """
        exact = torch.promote_types(query.dtype, torch.float32)
        bias = query.new_zeros(1, 1, 1, 1, dtype=exact) if self.bias is None else self.bias.to(exact)
        if self.additive_mask is None:
            return bias.to(query.dtype), -bias.to(query.dtype)
        added = self.additive_mask.to(exact)
        largest = added.detach() if seen is None else torch.where(seen, added.detach(), -math.inf)
        largest = largest.amax(-1, keepdim=True)
        added = added - largest.masked_fill(largest == -math.inf, 0.0)
        if seen is not None:
            added = torch.where(seen, added, 0.0)
        return (added + bias).to(query.dtype), (added - bias).to(query.dtype)

    def seen(self, device: torch.device) -> Tensor | None:
        """The mask of all queries and keys, with what the additive mask hides: 4-dimensional; None if all are visible."""
        keep = self.mask.full(device)
        if self.additive_mask is not None:
            open_keys = ~hides(self.additive_mask)
            keep = open_keys if keep is None else keep & open_keys
        return None if keep is None else keep[(None,) * (4 - keep.dim())]

    def stock_masks(self, query: Tensor, keep: Tensor | None, empty: Tensor | None, log_polarity: Tensor | None = None) -> list[Tensor]:
        """The masks of a stock call for the scores and for their negatives, 4-dimensional and with all keys; none if nothing is hidden.

        Boolean where they add nothing. What is `empty` stays open. The logarithm of the polarity, a scalar or `[heads]`, is added to the
        second.
        """
        hidden = None if keep is None or empty is None else ~(keep | empty)
        if self.bias is None and self.additive_mask is None and log_polarity is None:
            return [] if hidden is None else [(~hidden).expand(-1, -1, -1, self.mask.keys)] * 2
        positive, negative = self.halves(query, keep)
        if log_polarity is not None:
            negative = negative + log_polarity.to(query.dtype).view(1, -1, 1, 1)
        shape = torch.broadcast_shapes(positive.shape, negative.shape, () if hidden is None else hidden.shape)
        halves = [half.expand(*shape[:3], self.mask.keys) for half in (positive, negative)]
        return halves if hidden is None else [half.masked_fill(hidden, -math.inf) for half in halves]

    @property
    def pattern(self) -> Pattern:
        """What a kernel has to know of it."""
        mask = self.mask
        if any(item is not None for item in (self.bias, self.additive_mask, mask.window, mask.segments, mask.keep)):
            return "mask"
        if not mask.causal or mask.offset >= mask.keys - 1:  # the latter: one query behind a cache sees all of it
            return "full"
        return "causal" if mask.offset == 0 else "mask"


def _check_kernel(kernel: str, query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, wants: bool) -> None:
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; there are {', '.join(KERNELS)}")
    reason = refusal(kernel, query, key, value, pattern)
    if reason is None and wants:
        reason = "has no gradient for bias, additive mask and polarity, but one of them requires it"
    if reason is not None:
        raise NotImplementedError(f"kernel={kernel!r} {reason}; use kernel=None, which takes another way")


def doubled_keys(query: Tensor, key: Tensor, value: Tensor, mods: ScoreMods, *, scale: float, log_polarity: Tensor | None) -> Tensor:
    """Identity (a) over `torch.nn.functional.scaled_dot_product_attention`, on any device; no `log_polarity` is polarity 1."""
    keep = mods.seen(query.device)
    empty = None if keep is None else ~keep.any(-1, keepdim=True)
    halves = mods.stock_masks(query, keep, empty, log_polarity)
    mask = torch.cat(halves, dim=-1) if halves else None
    key, value = (torch.cat([half, -half], dim=2) for half in (key, value))
    output = stock_attention(query, key, value, mask, scale=scale)
    return output if empty is None else output.masked_fill(empty, 0.0)


def stock_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scale: float) -> Tensor:
    """torch's own softmax attention, looked up at each call, as exporters put another function in its place."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # as Transformers writes it, which runtimes know
        key, value = (tensor[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for tensor in (key, value))
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)


class TwoCalls(NamedTuple):
    """The calls of a stock kernel for q and -q, without their tensors that have gradients.

    Attributes:
        mask, negative_mask: additive, for q and -q; None if all keys are visible, or only causality hides some.
        empty: True where a row sees no key, `[batch or 1, heads or 1, queries or 1]`; the masks leave such rows open.
        log_polarity: `[heads]`.
        name: of the kernel.
    """

    mask: Tensor | None
    negative_mask: Tensor | None
    empty: Tensor | None
    causal: bool
    scale: float
    log_polarity: Tensor
    name: str


def _two_calls(query: Tensor, key: Tensor, value: Tensor, mods: ScoreMods, *, scale: float, log_polarity: Tensor, name: str) -> Tensor:
    kernel, dtype, value_dim = KERNELS[name], query.dtype, value.shape[-1]
    if kernel.exact:
        query, key, value = (tensor.to(torch.promote_types(dtype, torch.float32)) for tensor in (query, key, value))
    width = max(query.shape[-1], value_dim)
    width += -width % kernel.multiple
    query, key, value = (padded(tensor, width) for tensor in (query, key, value))
    positive, negative, empty = kernel_masks(mods, query) if mods.pattern == "mask" else (None, None, None)
    calls = TwoCalls(positive, negative, empty, mods.pattern == "causal", scale, log_polarity, name)
    output = _TwoCalls.apply(query, key, value, *calls)
    return output[..., :value_dim].to(dtype)


def kernel_masks(mods: ScoreMods, query: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The masks of `TwoCalls`, and what is empty."""
    keep = mods.seen(query.device)
    positive, negative = mods.halves(query, keep)
    if keep is None:
        return positive, negative, None
    empty = ~keep.any(-1)
    seen = keep | empty[..., None]
    return torch.where(seen, positive, -math.inf), torch.where(seen, negative, -math.inf), empty


class _TwoCalls(torch.autograd.Function):
    """Identity (b) over a stock kernel."""

    @staticmethod
    def forward(ctx: AutogradContext, query: Tensor, key: Tensor, value: Tensor, *flat: Flat | str) -> Tensor:
        """Join the two outputs by their log-sum-exps; after the value come the fields of `TwoCalls`."""
        calls = TwoCalls._make(flat)
        forward, options = KERNELS[calls.name].forward, (calls.causal, calls.scale)
        positive, plus, state = forward(StockCall(query, key, value, calls.mask, *options))
        negative, minus, _ = forward(StockCall(-query, key, value, calls.negative_mask, *options))
        log_p = calls.log_polarity.to(plus.dtype).view(1, -1, 1)
        minus = minus + log_p
        lse = torch.logaddexp(plus, minus)
        output = positive * torch.sigmoid(plus - minus)[..., None] - negative * torch.sigmoid(minus - plus)[..., None]
        if calls.empty is not None:
            output, lse = output.masked_fill(calls.empty[..., None], 0.0), lse.masked_fill(calls.empty, math.inf)
        if output.dtype != query.dtype:  # what comes of a cast to its own dtype has no gradient in the compiled code of torch 2.11
            output = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, calls.mask, calls.negative_mask, output, lse, log_p, *state)
        ctx.constants = (calls.causal, calls.scale, calls.name)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: AutogradContext, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Two backward passes that are given the joint output and log-sum-exp."""
        query, key, value, mask, negative_mask, output, lse, log_p, *state = ctx.saved_tensors
        causal, scale, name = ctx.constants
        backward = KERNELS[name].backward
        plus = backward(StockCall(query, key, value, mask, causal, scale), Joint(grad_output, output, lse, tuple(state)))
        negated = StockCall(-query, key, value, negative_mask, causal, scale)
        minus = backward(negated, Joint(-grad_output, -output, lse - log_p, tuple(state)))
        return plus[0] - minus[0], plus[1] + minus[1], plus[2] + minus[2], *(None for _ in TwoCalls._fields)
