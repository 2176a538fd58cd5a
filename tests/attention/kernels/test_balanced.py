"""Balanced weights in the kernels: every argument against the oracle, leaks, invariance, edges, the two sums of each row, derivatives."""

import pytest
import torch
from cases import BALANCED, Case, allowed, error, measured, with_gradients
from thorough import thorough_only

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.call import OperatorInputs
from hf_tanhmax.attention.ops import fused_attention, fused_attention_backward

pytest.importorskip("hf_tanhmax.attention.kernels.balanced", reason="needs triton")

GPU = "cuda" if torch.cuda.is_available() else "cpu"
SHIFT = {"shift": "balanced", "polarity": 0.3}
NAMES = [name for name, case in BALANCED.items() if not {"bias", "additive_mask"} <= case.arguments.keys()]
QUICK = {
    "causal_rows_without_keys",
    "softcap_and_bias",
    "additive_polarities",
    "polarity_some_heads",
    "packed_causal",
    "nothing_kept",
    "large_scores_masked",
    "tiny_scores",
    "causal_window_chunk",
}
HALF = {"plain", "additive", "keep", "tiny_scores", "large_scores", "polarity_per_head", "packed_causal", "long"}
QUICK_HALF = {"tiny_scores", "polarity_per_head"}

pytestmark = pytest.mark.usefixtures("small_tiles")


def fused(query, key, value, **arguments):
    return tanhmax_attention(query, key, value, implementation="triton", **SHIFT | arguments)


def exact(query, key, value, **arguments):
    """The reference in float64, on the CPU."""
    placed = {name: item.cpu() if isinstance(item, torch.Tensor) else item for name, item in arguments.items()}
    return tanhmax_attention(*(tensor.double().cpu() for tensor in (query, key, value)), implementation="reference", **SHIFT | placed)


def tensors(batch=1, heads=2, kv_heads=1, queries=19, keys=37, head_dim=8, dtype=torch.float32):
    """At least as many queries as leave decoding out."""
    sizes = ((heads, queries), (kv_heads, keys), (kv_heads, keys))
    return [torch.randn(batch, many, length, head_dim, device=GPU).to(dtype) for many, length in sizes]


def against_the_oracle(name, dtype):
    inputs, arguments = BALANCED[f"balanced_{name}"].tensors(dtype)
    leaves = [tensor.detach().to(GPU).requires_grad_() for tensor in inputs]
    rest = iter(leaves[3:])
    placed = {
        key: item if not isinstance(item, torch.Tensor) else next(rest) if item.is_floating_point() else item.to(GPU)
        for key, item in arguments.items()
    }
    found = with_gradients(tanhmax_attention(*leaves[:3], implementation="triton", **placed), leaves)
    expected, roundings = measured(f"balanced_{name}", dtype)
    for one, true, rounding in zip(found, expected, roundings, strict=True):
        assert one.dtype == dtype
        assert one.isfinite().all()
        assert error(one.cpu(), true) <= allowed(rounding, dtype)


@pytest.mark.parametrize("name", sorted(QUICK))
def test_arguments_against_the_oracle(name):
    """No worse than eager attention in float32, outputs and gradients."""
    against_the_oracle(name, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in (name.removeprefix("balanced_") for name in NAMES) if name not in QUICK])
def test_every_argument_against_the_oracle(name, request):
    if name in ("long", "additive_long"):
        request.getfixturevalue("shipped_tiles")
    against_the_oracle(name, torch.float32)


@pytest.mark.slow_in_interpreter
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(HALF - QUICK_HALF))
def test_half_precision_by_triton(name, dtype, request):
    if dtype == torch.float16 and name not in ("keep", "large_scores"):
        thorough_only("bfloat16 takes the same branches")
    if name == "long":
        request.getfixturevalue("shipped_tiles")
    against_the_oracle(name, dtype)


@pytest.mark.parametrize("name", sorted(QUICK_HALF))
def test_half_precision_keeps_the_difference(name):
    """Far below eager attention's error where scores are tiny: the two halves are subtracted before anything is rounded."""
    against_the_oracle(name, torch.bfloat16)
    inputs, arguments = BALANCED[f"balanced_{name}"].tensors(torch.bfloat16)
    call = [tensor.detach().to(GPU) for tensor in inputs[:3]]
    placed = {key: item.detach().to(GPU) if isinstance(item, torch.Tensor) else item for key, item in arguments.items()}
    expected, _ = measured(f"balanced_{name}", torch.bfloat16)
    assert error(fused_only(*call, **placed).cpu(), expected[0]) < 4e-3


def fused_only(query, key, value, **arguments):
    """Not by the decoding kernel, however few the queries."""
    return tanhmax_attention(query.requires_grad_(), key, value, implementation="triton", **arguments).detach()
