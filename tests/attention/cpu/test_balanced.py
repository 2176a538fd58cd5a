"""The balanced shift by torch's operators on the CPU: both ways to its shares, tiles of every shape, what is hidden, its memory."""

import math

import pytest
import torch
from blocked_problems import problem

from hf_tanhmax.attention.cpu import balanced
from hf_tanhmax.attention.cpu import problem as blocked_problem
from hf_tanhmax.attention.cpu.balanced import balanced_backward, balanced_forward
from hf_tanhmax.attention.mask import AttentionMask
from hf_tanhmax.attention.reference import reference_attention

NAMES = ("query", "key", "value", "bias", "additive_mask", "polarity")


def tensors(batch=3, heads=6, kv_heads=2, queries=53, keys=67, dim=5, std=1.0):
    query = torch.randn(batch, heads, queries, dim, dtype=torch.float64) * std
    key, value = torch.randn(2, batch, kv_heads, keys, dim, dtype=torch.float64).unbind()
    return query, key, value


def results(case, upstream):
    found = balanced_backward(case, upstream, bias=True, additive_mask=True, polarity=True)
    return [balanced_forward(case)[0], *(gradient for name in NAMES if (gradient := getattr(found, name)) is not None)]


MASKS = {
    "causal": {"causal": True, "offset": 14},
    "some rows without keys": {"causal": True, "offset": -20},
    "keep": {"keep": torch.rand(3, 1, 53, 67, generator=torch.Generator().manual_seed(1)) > 0.9, "window": 9},
    "keep, by key": {"keep": torch.arange(67).view(1, 1, 1, 67) % 5 > 1},
}
ADDED = {
    "nothing": {},
    "mask": {"additive_mask": torch.tensor([0.0, -3.0, -40.0, -9001.0, -math.inf, 2.0, -1e4]).repeat(10)[:67].double().view(1, 1, 1, 67)},
    "bias": {"bias": torch.linspace(-3.0, 3.0, 6 * 67, dtype=torch.float64).view(1, 6, 1, 67)},
}


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("mask", MASKS)
def test_both_ways_to_the_shares_agree(mask, added, monkeypatch):
    case = problem(*tensors(), polarity=0.3, mask=AttentionMask(53, 67, **MASKS[mask]), balanced=True, **ADDED[added])
    upstream, ways = torch.randn(3, 6, 53, 5, dtype=torch.float64), []
    for name in ("_plain_shares", "_softmax_shares"):
        real = getattr(balanced, name)
        monkeypatch.setattr(balanced, name, lambda *args, real=real, name=name: (ways.append(name), real(*args))[1])
    found = []
    for limit in (60.0, 0.0):
        monkeypatch.setattr(blocked_problem, "PLAIN_LIMIT", limit)
        monkeypatch.setattr(blocked_problem, "PLAIN_LIMIT_FADED", limit)
        found.append(results(case, upstream))
    assert set(ways) == {"_plain_shares", "_softmax_shares"}
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("std", [0.1, 1.0, 200.0])
@pytest.mark.parametrize(("rows", "tile"), [(16, 1), (16, 4000), (32, 20000), (7, 10**4)])
def test_every_tiling_gives_the_same(rows, tile, std, monkeypatch):
    monkeypatch.setattr(blocked_problem, "ROWS", rows)
    monkeypatch.setattr(blocked_problem, "TILE", tile)
    inputs = [tensor.requires_grad_() for tensor in (*tensors(std=std), torch.full((6,), 0.3, dtype=torch.float64))]
    mask = AttentionMask(53, 67, causal=True, offset=14)
    expected, _ = reference_attention(*inputs[:3], mask, scale=1.0, polarity=inputs[3], shift="balanced")
    case = problem(*(tensor.detach() for tensor in inputs[:3]), polarity=0.3, mask=mask, balanced=True)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(results(case, upstream), [expected, *torch.autograd.grad(expected, inputs, upstream)])


@pytest.mark.parametrize("hidden", [math.nan, math.inf, 1e300])
def test_hidden_keys_may_hold_anything(hidden):
    query, key, value = tensors()
    keep = torch.arange(67).view(1, 1, 1, 67) % 5 > 1
    expected = balanced_forward(problem(query, key, value, 0.3, AttentionMask(53, 67, keep=keep), balanced=True))[0]
    key = key.masked_fill(~keep.view(1, 1, 67, 1), hidden)
    case = problem(query, key, value, 0.3, AttentionMask(53, 67, keep=keep), balanced=True)
    torch.testing.assert_close(balanced_forward(case)[0], expected)


def test_infinite_scores_saturate_and_nan_stays_in_its_row():
    query, key = torch.tensor([[1.0], [math.nan]]).view(1, 1, 2, 1), torch.tensor([1.0, math.inf, -math.inf]).view(1, 1, 3, 1)
    found = balanced_forward(problem(query, key, torch.eye(3).view(1, 1, 3, 3), 0.5, balanced=True))[0][0, 0]
    torch.testing.assert_close(found[0], torch.tensor([0.0, 1.0, -0.5]) / 1.5)
    assert found[1].isnan().all()


def test_a_row_without_a_key_is_0_and_has_no_gradient():
    query, key, value = tensors(keys=3)
    keep = torch.zeros(1, 1, 53, 3, dtype=torch.bool)
    keep[:, :, 1] = True
    case = problem(query, key, value, 0.3, AttentionMask(53, 3, keep=keep), balanced=True)
    output, *_ = found = results(case, torch.ones(3, 6, 53, 5, dtype=torch.float64))
    assert (output[:, :, 1] != 0).all()
    for tensor in found[:2]:
        assert (tensor[:, :, [0, *range(2, 53)]] == 0).all()


def test_memory_is_linear_in_the_length():
    """At 4096 x 4096 the scores of one head alone would take 64 MiB."""
    query, key, value = torch.randn(3, 1, 1, 4096, 8).unbind()
    case = problem(query, key, value, balanced=True)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        results(case, torch.ones_like(query))
    assert max(event.cpu_memory_usage for event in profile.events()) < 8 * 2**20
