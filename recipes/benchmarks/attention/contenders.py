"""What the CPU benchmark times, and the check that a contender computes what it should before it is timed."""

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.functional import Shift

Contender = Callable[[Tensor, Tensor, Tensor, bool], Tensor]
BASELINE = "softmax SDPA"
BALANCED = ("cpu, balanced", "composed, balanced")
# The largest relative error (Frobenius) of outputs and gradients, against float64, with which a contender may be timed.
LIMITS = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


def softmax(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """torch's fused softmax attention, the baseline."""
    return scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=query.shape[1] != key.shape[1])


def eager(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """TanhMax in a few lines of PyTorch: stable, in the dtype of the inputs, all scores at once."""
    key, value = repeated(key, query), repeated(value, query)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, 0.0)
    shift = scores.detach().abs().amax(-1, keepdim=True)
    positive, negative = torch.exp(scores - shift), torch.exp(-scores - shift)
    if causal:
        positive, negative = positive.masked_fill(hidden, 0.0), negative.masked_fill(hidden, 0.0)
    return (positive - negative) / (positive + negative).sum(-1, keepdim=True) @ value


def repeated(tensor: Tensor, query: Tensor) -> Tensor:
    """Keys or values once for each head of the query (GQA): `[batch, heads, keys, head_dim]`; the tensor itself if it has them all."""
    groups = query.shape[1] // tensor.shape[1]
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)


def output_of(query: Tensor, key: Tensor, value: Tensor, **arguments: Any) -> Tensor:
    """`tanhmax_attention` without its weights."""
    output = tanhmax_attention(query, key, value, **arguments)
    if not isinstance(output, Tensor):
        raise TypeError("weights were returned that nobody asked for")
    return output


def named(implementation: str, *, polarity: float = 1.0, shift: Shift = None) -> Contender:
    """`tanhmax_attention` with one implementation; polarity 1 is TanhMax, 0 softmax."""

    def call(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        return output_of(query, key, value, is_causal=causal, polarity=polarity, shift=shift, implementation=implementation)

    return call


CONTENDERS: dict[str, Contender] = {
    BASELINE: softmax,
    "cpu": named("cpu"),
    "composed": named("composed"),
    BALANCED[0]: named("cpu", shift="balanced"),
    BALANCED[1]: named("composed", shift="balanced"),
    "eager": eager,
    "reference": named("reference"),
}


def check() -> None:
    """Compare outputs and gradients of every contender with float64, at odd sizes, in both dtypes.

    Raises:
        SystemExit: one is wrong; it says which, where and by how much.
    """
    for causal in (False, True):
        for dtype in (torch.float32, torch.bfloat16):
            for name, function in CONTENDERS.items():
                torch.manual_seed(0)
                inputs = [torch.randn(2, 3, 131, 64).to(dtype) for _ in range(3)]
                worst = relative_error(function, inputs, causal=causal, signed=name != BASELINE, balanced=name in BALANCED)
                if not worst <= LIMITS[dtype]:
                    sys.exit(f"{name} is wrong in {dtype}, causal={causal}: relative error {worst:.1e}; nothing was timed")


def relative_error(function: Contender, tensors: list[Tensor], *, causal: bool, signed: bool, balanced: bool = False) -> float:
    """The largest relative error (Frobenius) of output and gradients against float64; NaN if any of them has one.

    Args:
        function: what is asked.
        tensors: query, key and value; `[batch, heads, length, head_dim]`.
        causal: whether later keys are hidden.
        signed: whether the function computes TanhMax; else softmax.
        balanced: whether TanhMax has a balanced shift.
    """
    inputs = [tensor.detach().requires_grad_() for tensor in tensors]
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    query, key, value = inputs
    found, expected = function(query, key, value, causal), exact(*wide, causal=causal, signed=signed, balanced=balanced)
    upstream = torch.randn(expected.shape).to(found)
    gradients = torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(expected, wide, upstream.double())
    pairs = [(found, expected), *zip(*gradients, strict=True)]
    # torch's maximum keeps a NaN, the built-in one may lose it
    return torch.stack([(one.double() - other).norm() / other.norm() for one, other in pairs]).max().item()


def exact(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, signed: bool, balanced: bool = False) -> Tensor:
    """Attention by its definition, in the dtype of the inputs; TanhMax as softmax over the keys and their negatives."""
    key, value = repeated(key, query), repeated(value, query)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    everything = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
    hidden = everything.triu(1) if causal else ~everything
    if not signed:
        return scores.masked_fill(hidden, -math.inf).softmax(-1) @ value
    if balanced:
        positive, negative = (half.masked_fill(hidden, -math.inf).softmax(-1) for half in (scores, -scores))
        return (positive - negative) @ value / 2.0
    both = torch.cat([scores, -scores], -1).masked_fill(torch.cat([hidden, hidden], -1), -math.inf).softmax(-1)
    positive, negative = both.chunk(2, dim=-1)
    return (positive - negative) @ value
