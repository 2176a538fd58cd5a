"""What the GPU benchmark times: softmax by torch, the fused TanhMax kernels, and the ways to TanhMax without them.

The fused kernel's twin is the same kernel with polarity 0, which is softmax: what it takes less is the price of the second exponential.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from hf_tanhmax.attention.composed.identities import composed_attention
from hf_tanhmax.attention.mask import AttentionMask

from .contenders import BASELINE, Contender, eager, named, repeated, softmax

SOFTMAX_CUDNN = "softmax SDPA, cuDNN"
FUSED, TWIN = "fused", "fused softmax twin"
CALLS_FLASH, CALLS_CUDNN = "two calls, flash", "two calls, cuDNN"
EAGER = "eager"
REQUIRED = (BASELINE, FUSED, TWIN)


@dataclass(frozen=True)
class Entry:
    """One contender.

    Attributes:
        function: query, key, value and whether it is causal; to the output.
        signed: whether it computes TanhMax; else softmax.
        scores: how many tensors `[batch, heads, queries, keys]` in the dtype of the query it holds at once in training, at most.
        compiled: whether torch compiles it anew for each shape, which takes seconds.
    """

    function: Contender
    signed: bool = True
    scores: int = 0
    compiled: bool = False


def contenders(device: str) -> dict[str, Entry]:
    """All of them by name, the baseline first.

    In a rehearsal on the CPU, its flash kernel stands in for the GPU's, and torch.compile traces and runs what it traced.
    """
    backend, flash = ("inductor", "flash") if device == "cuda" else ("aot_eager", "cpu")
    return {
        BASELINE: Entry(softmax, signed=False),
        SOFTMAX_CUDNN: Entry(softmax_cudnn, signed=False),
        FUSED: Entry(named("triton")),
        TWIN: Entry(named("triton", polarity=0.0), signed=False),
        CALLS_FLASH: Entry(two_calls(flash)),
        CALLS_CUDNN: Entry(two_calls("cudnn")),
        "doubled keys": Entry(doubled_keys),
        EAGER: Entry(eager, scores=10),  # P and N before and after the mask, their difference, the weights, and what backward adds
        "compiled eager": Entry(_compile(eager, backend), scores=5, compiled=True),
        "FlexAttention": Entry(flex(backend), compiled=True),
    }


def softmax_cudnn(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """torch's softmax attention by cuDNN and nothing else."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return softmax(query, key, value, causal)


def two_calls(kernel: str) -> Contender:
    """TanhMax from softmax attention for q and for -q, joined by their log-sum-exps; `kernel` is torch's name of a softmax kernel."""

    def call(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        mask = AttentionMask(queries=query.shape[2], keys=key.shape[2], causal=causal)
        polarity = torch.ones(query.shape[1], device=query.device)
        return composed_attention(query, key, value, mask, scale=query.shape[-1] ** -0.5, polarity=polarity, kernel=kernel)

    return call


def doubled_keys(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """TanhMax as SDPA over keys [K; -K] and values [V; -V]; a causal mask must then be written out, `[queries, 2 keys]`."""
    key, value = torch.cat([key, -key], dim=2), torch.cat([value, -value], dim=2)
    if not causal:
        return softmax(query, key, value, False)
    seen = torch.ones(query.shape[2], key.shape[2] // 2, dtype=torch.bool, device=query.device).tril()
    # the one kernel that takes a mask and holds no scores has no GQA
    return scaled_dot_product_attention(query, repeated(key, query), repeated(value, query), torch.cat([seen, seen], dim=1))


def flex(backend: str) -> Contender:
    """TanhMax by FlexAttention: keys twice, values with both signs, and a `score_mod` that negates the second half's scores."""
    compiled = _compile(_flex_doubled, backend)

    def call(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        return compiled(query, key, value, _block_mask(key.shape[2], str(key.device)) if causal else None)

    return call


def _flex_doubled(query: Tensor, key: Tensor, value: Tensor, block_mask: BlockMask | None) -> Tensor:
    length = key.shape[2]

    def signed(score: Tensor, _batch: Tensor, _head: Tensor, _i: Tensor, j: Tensor) -> Tensor:
        return torch.where(j < length, score, -score)

    doubled = torch.cat([key, key], dim=2), torch.cat([value, -value], dim=2)
    return flex_attention(query, *doubled, score_mod=signed, block_mask=block_mask, enable_gqa=query.shape[1] != key.shape[1])


@lru_cache(maxsize=2)
def _block_mask(length: int, device: str) -> BlockMask:
    """Which blocks of queries and doubled keys are causal: made once per length, as a training run would."""

    def seen(_batch: Tensor, _head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return j % length <= i

    return create_block_mask(seen, None, None, length, 2 * length, device=device)


def _compile(function: Callable[..., Tensor], backend: str) -> Callable[..., Tensor]:
    # fullgraph: an error, where torch.compile would else run the function uncompiled and say nothing
    return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)
