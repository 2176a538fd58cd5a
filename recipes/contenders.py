"""What the attention benchmark times, and the check that each computes what it should before it is timed."""

import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hf_tanhmax import tanhmax_attention

Contender = Callable[[Tensor, Tensor, Tensor, bool], Tensor]
BASELINE = "softmax SDPA"


def softmax(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """torch's fused softmax attention, the baseline."""
    return scaled_dot_product_attention(query, key, value, is_causal=causal)


def eager(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """TanhMax as one writes it by hand: stable, in the dtype of the inputs, all scores at once."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, 0.0)
    shift = scores.detach().abs().amax(-1, keepdim=True)
    positive, negative = torch.exp(scores - shift), torch.exp(-scores - shift)
    if causal:
        positive, negative = positive.masked_fill(hidden, 0.0), negative.masked_fill(hidden, 0.0)
    return (positive - negative) / (positive + negative).sum(-1, keepdim=True) @ value


def named(implementation: str) -> Contender:
    """`tanhmax_attention` with one implementation."""

    def call(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        output = tanhmax_attention(query, key, value, is_causal=causal, implementation=implementation)
        if not isinstance(output, Tensor):
            raise TypeError("weights were returned that nobody asked for")
        return output

    return call


CONTENDERS: dict[str, Contender] = {
    BASELINE: softmax,
    "cpu": named("cpu"),
    "composed": named("composed"),
    "eager": eager,
    "reference": named("reference"),
}


def check() -> None:
    """Compare outputs and gradients of every contender with float64, at odd sizes, in both dtypes.

    Raises:
        SystemExit: one is wrong; it says which, where and by how much.
    """
    for causal in (False, True):
        for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
            for name, function in CONTENDERS.items():
                torch.manual_seed(0)
                inputs = [torch.randn(2, 3, 131, 64).to(dtype).requires_grad_() for _ in range(3)]
                exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
                found, expected = function(*inputs, causal), _exact(*exact, causal=causal, signed=name != BASELINE)
                upstream = torch.randn_like(expected)
                pairs = [(found, expected)]
                pairs += zip(
                    torch.autograd.grad(found, inputs, upstream.to(dtype)), torch.autograd.grad(expected, exact, upstream), strict=True
                )
                worst = max(((one.double() - other).norm() / other.norm()).item() for one, other in pairs)
                if not worst <= limit:
                    sys.exit(f"{name} is wrong in {dtype}, causal={causal}: relative error {worst:.1e}; nothing was timed")


def _exact(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, signed: bool) -> Tensor:
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    everything = torch.ones(scores.shape[-2:], dtype=torch.bool)
    hidden = everything.triu(1) if causal else ~everything
    if not signed:
        return scores.masked_fill(hidden, -math.inf).softmax(-1) @ value
    both = torch.cat([scores, -scores], -1).masked_fill(torch.cat([hidden, hidden], -1), -math.inf).softmax(-1)
    positive, negative = both.chunk(2, dim=-1)
    return (positive - negative) @ value
