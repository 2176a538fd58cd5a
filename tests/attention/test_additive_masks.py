"""What Transformers adds to the scores hides under TanhMax as it does under softmax: through the function that it calls, in every dtype."""

import pytest
import torch
from torch import nn
from transformers.generation.continuous_batching.utils import build_attention_mask

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.cpu import problem as blocked_problem
from hf_tanhmax.integration.registration import eager_forward, fused_forward

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
VALUES = (-20.0, -30.0, -100.0, -1000.0, -9001.0, -1e4, float("-inf"), "min")
HEADS, QUERIES, KEYS, SIZE = 6, 5, 7, 11

both = pytest.mark.parametrize("forward", [fused_forward, eager_forward])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_value = pytest.mark.parametrize("value", VALUES, ids=str)


class Attention(nn.Module):
    """A module as Transformers hands it to an attention function."""

    is_causal = False


def tensors(dtype, std=1.0):
    """Query, key, and values that make the output the weights."""
    identity = torch.eye(KEYS).expand(2, HEADS, KEYS, KEYS)
    query, key = torch.randn(2, HEADS, QUERIES, SIZE) * std, torch.randn(2, HEADS, KEYS, SIZE)
    return query.to(dtype), key.to(dtype), identity.to(dtype)


def mask_of(keep, value, dtype):
    """The additive mask that adds `value` where `keep` is False."""
    value = torch.finfo(dtype).min if value == "min" else value
    return torch.zeros(keep.shape, dtype=dtype).masked_fill(~keep, value)


def weights_of(forward, *call, **kwargs):
    """The weights `[batch, heads, queries, keys]` in float64, of a call whose values are the identity."""
    return forward(Attention(), *call, **kwargs)[0].transpose(1, 2).double()


@both
@every_dtype
@every_value
@pytest.mark.parametrize("way", ["attention_mask", "position_bias"])
def test_a_hidden_key_weighs_no_more_than_under_softmax(forward, dtype, value, way):
    query, key, identity = tensors(dtype)
    keep = torch.rand(2, 1, QUERIES, KEYS) > 0.4
    keep[..., 0] = True
    mask = mask_of(keep, value, dtype)
    found = weights_of(forward, query, key, identity, **({"attention_mask": mask} if way == "attention_mask" else {way: mask}))
    scores = query.double() @ key.double().mT * SIZE**-0.5
    softmax = (scores + mask.double()).softmax(-1)
    without = weights_of(forward, query, key, identity, attention_mask=keep)
    # The largest share that a hidden key has is e^(a + m) over cosh, where softmax's is over e^a; the room is that of the scores.
    room = 2.0 * scores.abs().amax().mul(2).exp()
    hidden = ~keep.expand_as(found)
    assert (found.abs()[hidden] <= room * softmax[hidden] + torch.finfo(dtype).smallest_normal).all()
    torch.testing.assert_close(found[~hidden], without[~hidden], rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


@both
@every_dtype
@pytest.mark.parametrize("value", VALUES[4:], ids=str)
def test_a_row_with_hidden_keys_alone_is_0(forward, dtype, value):
    query, key, identity = tensors(dtype)
    keep = torch.rand(2, 1, QUERIES, KEYS) > 0.4
    keep[1, 0, 2] = False
    found = weights_of(forward, query, key, identity, attention_mask=mask_of(keep, value, dtype))
    assert (found[1, :, 2] == 0).all()
    assert (found[0] != 0).any()


@both
@every_dtype
@pytest.mark.parametrize("value", VALUES[:4], ids=str)
def test_a_constant_of_a_row_changes_nothing(forward, dtype, value):
    query, key, identity = tensors(dtype)
    found = weights_of(forward, query, key, identity, attention_mask=torch.full((2, 1, QUERIES, KEYS), value, dtype=dtype))
    torch.testing.assert_close(found, weights_of(forward, query, key, identity, attention_mask=None), rtol=1e-3, atol=1e-4)


def test_what_fades_keeps_its_sign():
    """ALiBi's slopes and T5's relative positions multiply shares: no weight turns its sign, and its share falls with m."""
    query, key, identity = tensors(torch.float64)
    slopes = 2.0 ** -torch.arange(1, HEADS + 1, dtype=torch.float64)
    distance = (torch.arange(QUERIES)[:, None] - torch.arange(KEYS)).abs()
    faded = weights_of(fused_forward, query, key, identity, position_bias=-slopes[:, None, None] * distance)
    flat = weights_of(fused_forward, query, key, identity)
    assert torch.equal(faded.sign(), flat.sign())
    torch.testing.assert_close(
        (faded / flat).log().diff(dim=-1), (-slopes[:, None, None] * distance).diff(dim=-1).expand_as(faded[..., 1:])
    )


@every_dtype
def test_polarity_0_is_softmax_of_the_sum(dtype):
    query, key, identity = tensors(dtype)
    mask = torch.randn(2, HEADS, QUERIES, KEYS).to(dtype) - 30.0 * (torch.rand(2, HEADS, QUERIES, KEYS) > 0.5).to(dtype)
    found = tanhmax_attention(query, key, identity, additive_mask=mask, polarity=0.0)
    stock = (query.double() @ key.double().mT * SIZE**-0.5 + mask.double()).softmax(-1)
    # An exponential whose argument x is rounded is off by x eps.
    torch.testing.assert_close(found.double(), stock, rtol=40 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny)


def test_what_is_not_a_number_propagates_to_its_row_alone():
    query, key, identity = tensors(torch.float32)
    mask = torch.zeros(2, 1, QUERIES, KEYS)
    mask[0, 0, 1, 2] = float("nan")
    for implementation in ("reference", "cpu"):
        found = tanhmax_attention(query, key, identity, additive_mask=mask, implementation=implementation)
        assert found[0, :, 1].isnan().all()
        assert found.isnan().sum() == HEADS * KEYS
    keep = torch.ones_like(mask, dtype=torch.bool)
    keep[0, 0, 1, 2] = False
    assert tanhmax_attention(query, key, identity, keep=keep, additive_mask=mask).isfinite().all()


@pytest.mark.parametrize("polarity", [0.0, 1.0])
def test_plain_and_shifted_blocks_agree_under_a_mask(polarity, monkeypatch):
    """In float32, where the exponential of -100 has no digits left to be multiplied by e^30."""
    query, key, identity = tensors(torch.float32, std=6.0)
    mask = -torch.tensor([0.0, 5.0, 100.0, 88.0, 0.5, 1000.0, 30.0])
    found = []
    for limit in (blocked_problem.PLAIN_LIMIT_FADED, 0.0):
        monkeypatch.setattr(blocked_problem, "PLAIN_LIMIT_FADED", limit)
        found.append(tanhmax_attention(query, key, identity, additive_mask=mask, polarity=polarity, implementation="cpu"))
    doubled = [tensor.double() for tensor in (query, key, identity)]
    exact = tanhmax_attention(*doubled, additive_mask=mask.double(), polarity=polarity, implementation="reference").float()
    for one in found:
        torch.testing.assert_close(one, exact, rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("bound", [29.0, 59.0])
def test_visible_keys_with_the_lowest_scores_outweigh_what_is_hidden(bound):
    """Softmax of scores that are as low where a key is visible, and as high where it is hidden by -100, as plain blocks may have them."""
    query, key = torch.ones(1, 1, 1, 1), torch.tensor([-bound, bound]).view(1, 1, 2, 1)
    mask = torch.tensor([0.0, -100.0])
    found = tanhmax_attention(query, key, torch.eye(2).view(1, 1, 2, 2), additive_mask=mask, polarity=0.0, scale=1.0, implementation="cpu")
    exact = (key.double().view(2) + mask.double()).softmax(-1)
    torch.testing.assert_close(found.double().view(2), exact, rtol=1e-5, atol=1e-12)


def test_continuous_batching_hides_outright_or_not_at_all():
    """Its masks are read as boolean ones. Their function is not public: if it fills in other numbers, this fails first."""
    for window in (1, 3):
        mask = torch.full((1, 1, 5, 9), torch.finfo(torch.bfloat16).min, dtype=torch.bfloat16)
        build_attention_mask(mask, [0, 2, 5], [0, 4, 9], window)
        assert set(mask.unique().tolist()) == {0.0, torch.finfo(torch.bfloat16).min}
