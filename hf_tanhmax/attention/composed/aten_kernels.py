r"""torch's softmax attention kernels that return their log-sum-exp, each wrapped in the same two functions, forward and backward.

`forward` computes, of the scores :math:`S = \alpha\, Q K^\top` plus mask, the log-sum-exp :math:`L` and the output :math:`O = e^{S - L} V`.
`backward` takes an output and a log-sum-exp, which need not be its own: with :math:`P = e^{S - L}` and :math:`\delta_i = dO_i \cdot O_i`

.. math:: dV = P^\top dO, \quad dS_{ij} = P_{ij} (dO_i \cdot V_j - \delta_i), \quad dQ = \alpha\, dS\, K, \quad dK = \alpha\, dS^\top Q.

A row whose :math:`L` is inf has :math:`P = 0` and gives no gradient.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

# None of these operators is public. They are called here and nowhere else, with the arguments that torch 2.11 to 2.15 have; their names
# are pinned in tests/attention/composed/test_aten_kernels.py, which is the first to fail when torch changes one.
aten = torch.ops.aten

Pattern = Literal["full", "causal", "mask"]
"""What is visible: every key; keys up to the query's own position, counted from the upper left; or what an additive mask says."""

State = tuple[Tensor, ...]
HALF = (torch.float16, torch.bfloat16)


class StockCall(NamedTuple):
    """One call of a stock kernel.

    Attributes:
        query: `[batch, heads, queries, width]`; the last dimension of query, key and value is dense.
        key, value: `[batch, kv_heads, keys, width]`; `kv_heads` divides `heads`.
        mask: additive, in the dtype of the query; broadcasts to `[batch, heads, queries, keys]`.
        causal: whether keys behind the query's own position are hidden.
        scale: multiplies the products of query and key.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    causal: bool
    scale: float

    @property
    def full_mask(self) -> Tensor | None:
        """The mask as a view of `[batch, heads, queries, keys]`."""
        return None if self.mask is None else self.mask.expand(*self.query.shape[:3], self.key.shape[2])

    @property
    def lengths(self) -> tuple[None, None, int, int]:
        """How long the sequences are, as the operators ask: not packed, and the lengths of queries and of keys."""
        return None, None, self.query.shape[2], self.key.shape[2]


class Joint(NamedTuple):
    """What a backward pass is given besides its call.

    Attributes:
        grad_output, output: `[batch, heads, queries, width]`, in the dtype of the query.
        lse: the log-sum-exp `[batch, heads, queries]`, in float32, or float64 for float64.
        state: what a forward pass returned; it holds the unused random state, so any call's will do.
    """

    grad_output: Tensor
    output: Tensor
    lse: Tensor
    state: State


Forward = Callable[[StockCall], tuple[Tensor, Tensor, State]]
"""A call -> output, log-sum-exp and state, as in `Joint`."""
Backward = Callable[[StockCall, Joint], tuple[Tensor, Tensor, Tensor]]
"""-> gradients of query, key and value."""


@dataclass(frozen=True)
class StockKernel:
    """One kernel and what it accepts.

    Attributes:
        forward, backward: its two passes.
        device: the type of device it runs on.
        dtypes: of query, key and value, which have one dtype.
        multiple: the head size must be a multiple of it.
        widest: the largest head size; None is any.
        masks: whether it takes a mask; without, it knows causality only for as many queries as keys.
        fewest_keys: the smallest number of keys.
        exact: whether half precision is to be raised to float32 first, because the kernel is slower in it and rounds more.
    """

    forward: Forward
    backward: Backward
    device: str
    dtypes: tuple[torch.dtype, ...]
    multiple: int
    widest: int | None = None
    masks: bool = True
    fewest_keys: int = 1
    exact: bool = False


def refusal(name: str, query: Tensor, key: Tensor, value: Tensor, pattern: Pattern) -> str | None:
    """Why a kernel cannot run a call, as the end of a sentence; None if it can. Tensors as they come to `composed_attention`."""
    kernel = KERNELS[name]
    if query.device.type != kernel.device:
        return f"runs on {kernel.device} alone, but the tensors are on {query.device}"
    if query.dtype not in kernel.dtypes:
        return f"takes {', '.join(str(dtype) for dtype in kernel.dtypes)}, but the tensors are {query.dtype}"
    width = max(query.shape[-1], value.shape[-1])
    if kernel.widest is not None and width > kernel.widest:
        return f"takes heads of at most {kernel.widest}, but they have {width}"
    if pattern == "mask" and not kernel.masks:
        return "takes neither mask nor bias, but the call needs one"
    if pattern == "causal" and not kernel.masks and query.shape[2] != key.shape[2]:
        return f"is causal for as many queries as keys, but there are {query.shape[2]} and {key.shape[2]}"
    if key.shape[2] < kernel.fewest_keys:
        return f"wants at least {kernel.fewest_keys} keys, but there is {key.shape[2]}"
    return _hardware_refusal(name, query)


def _hardware_refusal(name: str, query: Tensor) -> str | None:
    if query.device.type != "cuda":
        return None
    if torch.version.hip is not None:
        return "is wired for CUDA, but this torch is built for ROCm"
    if name == "efficient" and query.dtype != torch.bfloat16:
        return None
    # Without a GPU the tensors are fake, and so is what they run on.
    if torch.cuda.is_available() and torch.cuda.get_device_capability(query.device) < (8, 0):
        return f"wants compute capability 8.0 for {query.dtype}, but {query.device} is older"
    return None


def padded(tensor: Tensor, width: int) -> Tensor:
    """A tensor whose last dimension is dense and `width` long, zeros behind its own; itself if it is that. Differentiable."""
    if tensor.shape[-1] < width:
        tensor = pad(tensor, (0, width - tensor.shape[-1]))  # which keeps the order of strides, whatever it is
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _cpu_forward(call: StockCall) -> tuple[Tensor, Tensor, State]:
    forward, options = aten._scaled_dot_product_flash_attention_for_cpu, {"attn_mask": call.full_mask, "scale": call.scale}
    output, lse = forward(call.query, call.key, call.value, 0.0, call.causal, **options)
    return output, lse, ()


def _cpu_backward(call: StockCall, joint: Joint) -> tuple[Tensor, Tensor, Tensor]:
    backward, options = aten._scaled_dot_product_flash_attention_for_cpu_backward, {"attn_mask": call.full_mask, "scale": call.scale}
    return backward(joint.grad_output, *call[:3], joint.output, joint.lse, 0.0, call.causal, **options)


def _flash_forward(call: StockCall) -> tuple[Tensor, Tensor, State]:
    found = aten._scaled_dot_product_flash_attention(*call[:3], 0.0, call.causal, False, scale=call.scale)
    return found[0], found[1], found[6:8]


def _flash_backward(call: StockCall, joint: Joint) -> tuple[Tensor, Tensor, Tensor]:
    joined = (joint.output, joint.lse.contiguous(), *call.lengths)
    backward = aten._scaled_dot_product_flash_attention_backward
    return backward(joint.grad_output, *call[:3], *joined, 0.0, call.causal, *joint.state, scale=call.scale)


def _cudnn_forward(call: StockCall) -> tuple[Tensor, Tensor, State]:
    forward = aten._scaled_dot_product_cudnn_attention
    found = forward(*call[:3], _dense(call), True, 0.0, call.causal, False, scale=call.scale)
    return found[0], found[1].squeeze(-1), found[6:8]


def _cudnn_backward(call: StockCall, joint: Joint) -> tuple[Tensor, Tensor, Tensor]:
    # The compiled graph is looked up by the strides of the query, but runs on those of output and gradient: they must go with it.
    grad_output, output = (_laid_out_like(call.query, tensor) for tensor in (joint.grad_output, joint.output))
    joined = (output, joint.lse.unsqueeze(-1).contiguous(), *joint.state, _dense(call), *call.lengths)
    backward = aten._scaled_dot_product_cudnn_attention_backward
    return backward(grad_output, *call[:3], *joined, 0.0, call.causal, scale=call.scale)


def _dense(call: StockCall) -> Tensor | None:
    shape = (call.query.shape[0], -1, call.query.shape[2], call.key.shape[2])
    return None if call.mask is None else call.mask.expand(shape).contiguous()


def _laid_out_like(pattern: Tensor, tensor: Tensor) -> Tensor:
    like = torch.empty_like(pattern)
    return tensor if tensor.stride() == like.stride() else like.copy_(tensor)


def _efficient_forward(call: StockCall) -> tuple[Tensor, Tensor, State]:
    forward = aten._scaled_dot_product_efficient_attention
    found = forward(*_by_query_head(call), _aligned(call), True, 0.0, call.causal, scale=call.scale)
    return found[0], found[1][..., : call.query.shape[2]], found[2:4]


def _efficient_backward(call: StockCall, joint: Joint) -> tuple[Tensor, Tensor, Tensor]:
    output = joint.output.transpose(1, 2).contiguous().transpose(1, 2)  # the layout that it assumes without a check
    lse = pad(joint.lse, (0, -joint.lse.shape[-1] % 32), value=math.inf)  # it reads whole blocks
    joined = (_aligned(call), output, lse, *joint.state)
    backward, wanted = aten._scaled_dot_product_efficient_attention_backward, [True, True, True, False]
    dq, dk, dv, _ = backward(joint.grad_output, *_by_query_head(call), *joined, 0.0, wanted, call.causal, scale=call.scale)
    kv_heads = call.key.shape[1]
    return dq, _per_group(dk, kv_heads), _per_group(dv, kv_heads)


def _by_query_head(call: StockCall) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, with a key head for each query head."""
    return call.query, _per_head(call.key, call.query), _per_head(call.value, call.query)


def _per_head(tensor: Tensor, query: Tensor) -> Tensor:
    groups = query.shape[1] // tensor.shape[1]
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)


def _per_group(gradient: Tensor, kv_heads: int) -> Tensor:
    return gradient if gradient.shape[1] == kv_heads else gradient.unflatten(1, (kv_heads, -1)).sum(2)


def _aligned(call: StockCall) -> Tensor | None:
    """The mask at full size, with rows that start at multiples of 8 elements and are dense."""
    if call.mask is None:
        return None
    keys = call.key.shape[2]
    mask = call.mask.expand(-1, -1, -1, keys)
    if keys % 8 or not mask.is_contiguous():
        mask = pad(mask, (0, -keys % 8)).contiguous()[..., :keys]
    return mask.expand(*call.query.shape[:3], keys)


KERNELS: dict[str, StockKernel] = {
    "cpu": StockKernel(_cpu_forward, _cpu_backward, "cpu", (*HALF, torch.float32, torch.float64), multiple=1, exact=True),
    "flash": StockKernel(_flash_forward, _flash_backward, "cuda", HALF, multiple=8, widest=256, masks=False),
    "cudnn": StockKernel(_cudnn_forward, _cudnn_backward, "cuda", HALF, multiple=8, widest=256, fewest_keys=2),
    "efficient": StockKernel(_efficient_forward, _efficient_backward, "cuda", (*HALF, torch.float32), multiple=8),
}
