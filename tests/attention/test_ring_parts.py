"""Parts of a row, joined in any order, are the whole; and so are the gradients of parts, added up."""

import pytest
import torch

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.call import Call
from hf_tanhmax.attention.ring_parts import Joined, backward_part, forward_part, joint_gradient, polarity_gradient

B, H, HK, S, K, D, DV = 2, 4, 2, 5, 11, 3, 7
PARTS = [slice(6, 11), slice(0, 1), slice(1, 6)]


def made(shift, polarity):
    torch.manual_seed(0)
    shapes = ((B, H, S, D), (B, HK, K, D), (B, HK, K, DV))
    query, key, value = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    keep = torch.rand(B, 1, S, K) > 0.3
    keep[0, 0, 2] = False
    call = Call(query, key, value, keep, None, None, False, 0.7, None, None, 0.0, polarity, None, None, False, shift)
    return call.operator_inputs(kernels=False)


def of_keys(inputs, part):
    return inputs._replace(key=inputs.key[:, :, part], value=inputs.value[:, :, part], keep=inputs.keep[..., part])


@pytest.mark.parametrize("polarity", [1.0, 0.0, 0.4, torch.tensor([1.0, 0.3, 0.05, 1.7], dtype=torch.float64)], ids=str)
@pytest.mark.parametrize("shift", [None, "balanced"])
def test_parts_are_the_whole(shift, polarity):
    inputs = made(shift, polarity)
    leaves = [tensor.clone().requires_grad_() for tensor in inputs[:3]]
    learned = polarity.clone().requires_grad_() if isinstance(polarity, torch.Tensor) else polarity
    options = {"keep": inputs.keep, "scale": 0.7, "shift": shift, "polarity": learned, "implementation": "reference"}
    wanted = tanhmax_attention(*leaves, **options)
    upstream = torch.randn_like(wanted)
    wanted.backward(upstream)

    joined = Joined(inputs)
    for part in PARTS:
        joined.take(slice(None), forward_part(of_keys(inputs, part)))
    torch.testing.assert_close(joined.outputs[0], wanted, atol=1e-13, rtol=0)
    assert not joined.outputs[0][0, :, 2].any()

    joint = joint_gradient(inputs, upstream, joined.outputs, joined.lses)
    wants_polarity = isinstance(polarity, torch.Tensor)
    found = [backward_part(of_keys(inputs, part), joint, polarity=wants_polarity and shift is None) for part in PARTS]
    torch.testing.assert_close(sum(each.query for each in found), leaves[0].grad, atol=1e-12, rtol=0)
    for part, each in zip(PARTS, found, strict=True):
        torch.testing.assert_close(each.key, leaves[1].grad[:, :, part], atol=1e-12, rtol=0)
        torch.testing.assert_close(each.value, leaves[2].grad[:, :, part], atol=1e-12, rtol=0)
    if wants_polarity:
        # the operators take the logarithm of a polarity that is not balanced
        gradient = polarity_gradient(inputs, joint) if shift else sum(each.polarity for each in found) / polarity
        torch.testing.assert_close(gradient, learned.grad, atol=1e-11, rtol=0)
