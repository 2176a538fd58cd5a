"""The row-blocked CPU path: both kinds of block, tiles of every shape, its log-sum-exp, its memory."""

import math

import pytest
import torch
from blocked_problems import problem

from hf_tanhmax.attention.cpu import problem as blocked_problem
from hf_tanhmax.attention.cpu.blocked import blocked_backward, blocked_forward
from hf_tanhmax.attention.mask import AttentionMask
from hf_tanhmax.attention.reference import reference_attention


def tensors(batch=3, heads=6, kv_heads=2, queries=53, keys=67, dim=5, std=1.0):
    query = torch.randn(batch, heads, queries, dim, dtype=torch.float64) * std
    key, value = torch.randn(2, batch, kv_heads, keys, dim, dtype=torch.float64).unbind()
    return query, key, value


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("rows", "tile"), [(16, 1), (16, 4000), (32, 20000), (64, 10**6), (7, 10**4)])
def test_every_tiling_gives_the_same(rows, tile, causal, monkeypatch):
    monkeypatch.setattr(blocked_problem, "ROWS", rows)
    monkeypatch.setattr(blocked_problem, "TILE", tile)
    inputs = [tensor.requires_grad_() for tensor in tensors()]
    mask = AttentionMask(53, 67, causal=causal, offset=14)
    expected, _ = reference_attention(*inputs, mask, scale=1.0)
    case = problem(*(tensor.detach() for tensor in inputs), mask=mask)
    torch.testing.assert_close(blocked_forward(case)[0], expected)
    upstream = torch.randn_like(expected)
    found = blocked_backward(case, upstream)
    torch.testing.assert_close((found.query, found.key, found.value), torch.autograd.grad(expected, inputs, upstream))


def test_blocks_cover_every_visible_score_once():
    query, key, value = tensors()
    seen = torch.zeros(3, 6, 53, 67)
    case = problem(query, key, value, mask=AttentionMask(53, 67, causal=True))
    for block in case.blocks():
        seen[block.batch, block.heads, slice(*block.rows), slice(*block.columns)] += 1
    lower = torch.ones(53, 67).tril()
    assert (seen <= 1).all()
    assert (seen[:, :, lower.bool()] == 1).all()


@pytest.mark.parametrize("polarity", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("std", [0.5, 15.0, 200.0])
def test_plain_and_shifted_blocks_agree(std, polarity, monkeypatch):
    """Whichever path the bound picks, forcing the shifted one changes nothing; the plain one is only taken where it is safe."""
    case = problem(*tensors(std=std), polarity=polarity)
    output, lse = blocked_forward(case)
    assert case.plain(next(case.blocks())) is (std == 0.5)
    monkeypatch.setattr(blocked_problem, "PLAIN_LIMIT", 0.0)
    shifted = problem(case.query, case.key, case.value, polarity=polarity)
    again, again_lse = blocked_forward(shifted)
    torch.testing.assert_close(again, output)
    torch.testing.assert_close(again_lse, lse)
    upstream = torch.randn_like(output)
    for name in ("query", "key", "value", "polarity"):
        one, other = (getattr(blocked_backward(item, upstream, polarity=True), name) for item in (case, shifted))
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("bias", [-20.0, -0.5, 20.0])
def test_a_polarity_above_one_is_a_negative_score_bias(bias):
    """As a learned score bias may become; in float32, where e^(60 + 2 * 20) would overflow."""
    query, key, value = (tensor.float() for tensor in tensors(std=4.0))
    case = problem(query, key, value, polarity=math.exp(-2 * bias))
    output, _ = blocked_forward(case)
    shift = torch.full((1, 1, 1, 1), bias)
    expected, _ = reference_attention(query, key, value, AttentionMask(53, 67), bias=shift, scale=1.0)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    found = blocked_backward(case, torch.ones_like(output), polarity=True)
    assert torch.isfinite(found.query).all()
    assert torch.isfinite(found.polarity).all()


def test_plain_blocks_at_the_edge_of_the_limit_stay_finite_in_float32():
    key = torch.zeros(1, 1, 3, 2)
    key[0, 0, :, 0] = torch.tensor([59.9, -59.9, 59.0])
    query, value = torch.zeros(1, 1, 1, 2), torch.randn(1, 1, 3, 2)
    query[..., 0] = 1.0
    case = problem(query, key, value)
    assert case.plain(next(case.blocks()))
    expected, _ = reference_attention(query, key, value, AttentionMask(1, 3), scale=1.0)
    torch.testing.assert_close(blocked_forward(case)[0], expected)
    found = blocked_backward(case, torch.full_like(query, 1e-10))
    assert (found.value != 0).all()  # nothing underflows where the scores are as large as they may be
    assert torch.isfinite(found.query).all()


@pytest.mark.parametrize("polarity", [0.0, 0.3, 1.0])
def test_log_sum_exp_merges_disjoint_keys(polarity):
    query, key, value = tensors(kv_heads=6)
    whole, whole_lse = blocked_forward(problem(query, key, value, polarity))
    parts = [blocked_forward(problem(query, key[:, :, part], value[:, :, part], polarity)) for part in (slice(0, 20), slice(20, None))]
    lse = torch.logaddexp(parts[0][1], parts[1][1])
    torch.testing.assert_close(lse, whole_lse)
    torch.testing.assert_close(sum(torch.exp(part - lse)[..., None] * output for output, part in parts), whole)


def test_empty_rows_have_infinite_log_sum_exp():
    query, key, value = tensors(keys=3)
    keep = torch.zeros(1, 1, 53, 3, dtype=torch.bool)
    keep[:, :, 1] = True
    output, lse = blocked_forward(problem(query, key, value, mask=AttentionMask(53, 3, keep=keep)))
    assert (lse[:, :, 0] == math.inf).all()
    assert lse[:, :, 1].isfinite().all()
    assert (output[:, :, 0] == 0).all()


def test_memory_is_linear_in_the_length():
    """At 4096 x 4096 the scores of one head alone would take 64 MiB."""
    query, key, value = torch.randn(3, 1, 1, 4096, 8).unbind()
    case = problem(query, key, value)
    largest = max(case.tile_size(block) for block in case.blocks())
    assert largest <= blocked_problem.ROWS * 4096
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        output, _ = blocked_forward(case)
        blocked_backward(case, torch.ones_like(output))
    assert max(event.cpu_memory_usage for event in profile.events()) < 8 * 2**20
