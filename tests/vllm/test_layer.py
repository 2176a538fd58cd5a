"""What a layer of vLLM computes, by its attributes and the config view of its module."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_tanhmax.integration.registration import SCORE_BIAS
from hf_tanhmax.vllm.layer import layer_call


def impl(polarity=1.0, heads=None, shift=None, softcap=0, rank=0, ranks=1):
    module = nn.Linear(2, 2)
    module.register_parameter(SCORE_BIAS, nn.Parameter(torch.arange(3.0 * ranks)))
    view = SimpleNamespace(tanhmax_polarity=polarity, tanhmax_heads=heads, tanhmax_shift=shift)
    return SimpleNamespace(scale=0.25, logits_soft_cap=softcap, num_heads=3, rank=rank, ranks=ranks, module=module, view=view)


def test_numbers():
    assert layer_call(impl(), -1) == (0.25, None, None, 1.0, None, "auto")
    assert layer_call(impl(0, shift="balanced", softcap=30.0), 24) == (0.25, 24, 30.0, 0.0, "balanced", "auto")
    assert layer_call(impl(), 0).window is None


@pytest.mark.parametrize(
    ("polarity", "heads", "expected"),
    [
        (0.5, [2, 0], [0.5, 0.0, 0.5]),
        ("learned", None, [1.0, math.exp(-2), math.exp(-4)]),
        ("learned", [1], [0.0, math.exp(-2), 0.0]),
    ],
)
def test_heads_that_differ(polarity, heads, expected):
    found = layer_call(impl(polarity, heads), -1).polarity
    assert found.tolist() == pytest.approx(expected)
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("polarity", "heads", "expected"),
    [
        (0.5, [5, 0], [[0.5, 0.0, 0.0], [0.0, 0.0, 0.5]]),
        ("learned", None, [[1.0, math.exp(-2), math.exp(-4)], [math.exp(-6), math.exp(-8), math.exp(-10)]]),
        ("learned", [1, 3], [[0.0, math.exp(-2), 0.0], [math.exp(-6), 0.0, 0.0]]),
        (0.5, None, [0.5, 0.5]),
    ],
)
def test_a_rank_has_its_own_heads(polarity, heads, expected):
    for rank, values in enumerate(expected):
        found = layer_call(impl(polarity, heads, rank=rank, ranks=2), -1).polarity
        assert (found.tolist() if isinstance(found, torch.Tensor) else found) == pytest.approx(values)
