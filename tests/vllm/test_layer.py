"""What a layer of vLLM computes, by its attributes and the config view of its module."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_tanhmax.integration.registration import SCORE_BIAS
from hf_tanhmax.vllm.layer import layer_call


def impl(polarity=1.0, heads=None, shift=None, softcap=0):
    module = nn.Linear(2, 2)
    module.register_parameter(SCORE_BIAS, nn.Parameter(torch.tensor([0.0, 1.0, 2.0])))
    view = SimpleNamespace(tanhmax_polarity=polarity, tanhmax_heads=heads, tanhmax_shift=shift)
    return SimpleNamespace(scale=0.25, logits_soft_cap=softcap, num_heads=3, module=module, view=view)


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
