"""Both identities are exact, and the second is linear in memory."""

import pytest
import torch
from cases import CASES, error, oracle, with_gradients

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.composed.identities import ScoreMods, composed_attention, doubled_keys
from hf_tanhmax.attention.mask import AttentionMask

SCALE = 5**-0.5


@pytest.mark.parametrize("polarity", [0.0, 0.3, 1.0])
def test_doubled_keys_equal_two_calls(polarity):
    case = CASES["keep"]
    (query, key, value), arguments = case.tensors()
    mask = AttentionMask(case.queries, case.keys, keep=arguments["keep"])
    heads = torch.full((query.shape[1],), polarity, dtype=torch.float64)
    doubled = doubled_keys(query, key, value, ScoreMods(mask), scale=SCALE, log_polarity=heads.log())
    two_calls = composed_attention(query, key, value, mask, scale=SCALE, polarity=heads)
    inputs = (query, key, value)
    expected = with_gradients(oracle(inputs, {**arguments, "polarity": polarity})[0], inputs)
    for output in (doubled, two_calls):
        for found, true in zip(with_gradients(output, inputs), expected, strict=True):
            assert error(found, true) < 1e-12


def test_two_calls_never_hold_the_scores(record_property):
    """At 4096 x 4096 the scores of one head alone would take 64 MiB; forward and backward together stay below that."""
    query, key, value = (torch.randn(1, 1, 4096, 8, requires_grad=True) for _ in range(3))
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        output = composed_attention(query, key, value, AttentionMask(4096, 4096, causal=True), scale=1.0, polarity=torch.ones(1))
        output.sum().backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    record_property("largest_allocation", largest)
    assert largest < 4 * 2**20


def test_the_stock_kernel_it_rests_on_returns_output_and_log_sum_exp():
    """The kernel is not public; if its answer changes, this fails first."""
    query, key, value = torch.randn(3, 1, 2, 7, 8, dtype=torch.float64).unbind()
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True, scale=0.5)
    scores = (query @ key.transpose(-1, -2) * 0.5).masked_fill(~torch.ones(7, 7, dtype=torch.bool).tril(), float("-inf"))
    torch.testing.assert_close(lse, scores.logsumexp(-1))
    torch.testing.assert_close(output, scores.softmax(-1) @ value)


def test_a_padded_head_size_of_one_is_dense():
    """Padding keeps the order of strides, by which a dimension of size 1 may come first: the kernel reads the last one as dense."""
    query = torch.randn(1, 2, 2, 1, dtype=torch.float64).transpose(1, 2)
    key, value = torch.randn(1, 1, 3, 1, dtype=torch.float64), torch.randn(1, 1, 3, 5, dtype=torch.float64)
    expected = oracle((-query, key, value), {"scale": 0.5})[0]
    assert (-query).stride(-1) != 1
    for tensor, scale in ((-query, 0.5), (query, -0.5)):
        output = composed_attention(tensor, key, value, AttentionMask(2, 3), scale=scale, polarity=torch.ones(2))
        assert error(output, expected) < 1e-12


@pytest.mark.parametrize("constant", [0.0, 30.0, -100.0, -1000.0, -8000.0])
@pytest.mark.parametrize("learned", [False, True])
def test_a_constant_in_the_rows_of_an_additive_mask_costs_no_digits(constant, learned):
    """In half precision the mask is rounded; what it has in common in a row is taken off before."""
    query, key, value = torch.randn(3, 1, 4, 32, 32).bfloat16().unbind()
    mask = torch.randn(4, 32, 32) + constant
    call = {"polarity": 0.5, "implementation": "composed"}
    exact = tanhmax_attention(query.double(), key.double(), value.double(), additive_mask=mask.double(), **call)
    found = tanhmax_attention(query, key, value, additive_mask=mask.requires_grad_(learned), **call)
    assert ((found.double() - exact).norm() / exact.norm()).item() < 2 * torch.finfo(torch.bfloat16).eps


def test_a_hidden_key_has_no_part_in_the_constant_of_its_row():
    query, key, value = torch.randn(3, 1, 2, 7, 8).bfloat16().unbind()
    keep = torch.arange(7) < 5
    mask = torch.randn(7, 7)
    expected = tanhmax_attention(query, key, value, additive_mask=mask, keep=keep, implementation="composed")
    for hidden in (1e4, float("nan")):
        mask[:, 5:] = hidden
        assert torch.equal(tanhmax_attention(query, key, value, additive_mask=mask, keep=keep, implementation="composed"), expected)
        learned = tanhmax_attention(query, key, value, additive_mask=mask.clone().requires_grad_(), keep=keep, implementation="composed")
        torch.testing.assert_close(learned, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("implementation", ["reference", "composed", "cpu"])
@pytest.mark.parametrize("name", ["bias", "additive_mask"])
def test_what_is_added_to_no_key_has_a_gradient(name, implementation):
    query, nothing = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 0, 4)
    added = torch.randn(3, 0, requires_grad=True)
    output = tanhmax_attention(query, nothing, nothing, implementation=implementation, **{name: added})
    assert torch.autograd.grad(output.sum(), added)[0].shape == added.shape
