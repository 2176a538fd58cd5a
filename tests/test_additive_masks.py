"""What Transformers adds to the scores hides under TanhMax as it does under softmax: through the function that it calls, in every dtype."""

import pytest
import torch
from torch import nn

from hf_tanhmax.registration import eager_forward, fused_forward

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
