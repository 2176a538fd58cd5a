"""Returned weights lie on the path from query and key to the output, so their gradient says what each of them does, in every dtype."""

import pytest
import torch
import transformers
from cases import CASES, H, error, oracle
from families import BACKBONES, inputs_for, tiny_model
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

import hf_tanhmax
from hf_tanhmax import tanhmax_attention

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HALF = (torch.bfloat16, torch.float16)
UPSTREAM = {"bert": transformers.BertModel, "vit": transformers.ViTModel, "llama": transformers.LlamaModel}
ROUNDED = "rounded_for_tests"


def rounded_forward(module, query, key, value, attention_mask, scaling, **kwargs):
    """TanhMax as stock eager attention computes softmax: products in the dtype of the model, the map in float32 or float64."""
    groups, dtype = query.shape[1] // key.shape[1], query.dtype
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.mT * scaling).to(torch.promote_types(dtype, torch.float32))
    seen = torch.ones_like(scores, dtype=torch.bool) if attention_mask is None else attention_mask.expand_as(scores)
    if attention_mask is None and module.is_causal:
        seen = seen.tril()
    doubled = torch.cat([scores, -scores], -1).masked_fill(~torch.cat([seen, seen], -1), torch.finfo(scores.dtype).min)
    positive, negative = doubled.softmax(-1).chunk(2, -1)
    weights = (positive - negative).masked_fill(~seen, 0.0).to(dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(ROUNDED, rounded_forward)
AttentionMaskInterface.register(ROUNDED, sdpa_mask)


def inputs_in(dtype, family):
    return {name: item.to(dtype) if item.is_floating_point() else item for name, item in inputs_for(family).items()}


def gradient_of_weights(model, dtype, family):
    """The gradients of an uneven loss for the weights of every layer, both by `autograd.grad` and as `retain_grad` keeps them."""
    output = model(**inputs_in(dtype, family), output_attentions=True)
    last = output.last_hidden_state
    loss = (last * torch.linspace(-1.0, 1.5, last.numel(), dtype=torch.float64).cos().view_as(last).to(last)).sum()
    asked = torch.autograd.grad(loss, output.attentions, retain_graph=True)
    for weights in output.attentions:
        weights.retain_grad()
    loss.backward()
    for weights, gradient in zip(output.attentions, asked, strict=True):
        torch.testing.assert_close(weights.grad, gradient, atol=0, rtol=0)
    return torch.stack(asked)


def model_of(family, kind, dtype):
    if kind == "class":
        return tiny_model(BACKBONES[family], attn_implementation="eager").to(dtype)
    model = tiny_model(UPSTREAM[family], attn_implementation="eager" if kind == "patched" else kind).to(dtype)
    if kind == "patched":
        hf_tanhmax.use_tanhmax(model)
    return model


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["class", "patched"])
@pytest.mark.parametrize("family", BACKBONES)
def test_gradients_of_returned_attentions(family, kind, dtype):
    """No further from float64 than twice what stock eager's way of computing makes of the same weights in the same dtype."""
    exact = gradient_of_weights(model_of(family, ROUNDED, torch.float64), torch.float64, family)
    found = gradient_of_weights(model_of(family, kind, dtype), dtype, family)
    rounded = gradient_of_weights(model_of(family, ROUNDED, dtype), dtype, family)
    assert exact.abs().amax((1, 2, 3, 4)).min() > 1e-3
    assert found.dtype == dtype
    assert error(found, exact) <= max(2 * error(rounded, exact), 1e-12)


@pytest.mark.parametrize("family", BACKBONES)
def test_gradients_of_returned_attentions_under_autocast(family):
    model = model_of(family, "class", torch.float32)
    exact = gradient_of_weights(model, torch.float32, family)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient_of_weights(model, torch.float32, family)
    assert error(found, exact) < 0.1


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", ["keep", "empty_rows", "tiny_scores", "polarity_per_head", "softcap_and_bias"])
def test_returning_weights_does_not_change_the_output(name, dtype):
    """The weights that are used are not the rounded ones, though the gradient passes through those."""
    inputs, arguments = CASES[name].tensors(dtype)
    output, weights = tanhmax_attention(*inputs[:3], **arguments, return_weights=True)
    assert torch.equal(output, tanhmax_attention(*inputs[:3], **arguments, implementation="reference"))
    upstream = torch.randn_like(output)
    found, *inner = torch.autograd.grad(output, (weights, *inputs[:2]), upstream)
    groups = H // CASES[name].kv_heads
    expected = upstream.double() @ inputs[2].detach().double().repeat_interleave(groups, 1).mT
    assert error(found, expected) < torch.finfo(dtype).eps
    wide, exact = [tensor.detach().double().requires_grad_() for tensor in inputs], {**arguments}
    exact |= {key: item.detach().double() for key, item in arguments.items() if isinstance(item, torch.Tensor) and item.requires_grad}
    for one, other in zip(inner, torch.autograd.grad(oracle(wide, exact)[0], wide[:2], upstream.double()), strict=True):
        assert error(one, other) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_loss_of_output_and_weights_adds_both_gradients(dtype):
    inputs, _ = CASES["plain"].tensors(dtype)
    output, weights = tanhmax_attention(*inputs, return_weights=True)
    (through,) = torch.autograd.grad(output.sum(), weights, retain_graph=True)
    (both,) = torch.autograd.grad(output.sum() + (3.0 * weights).sum(), weights)
    torch.testing.assert_close(both, through + 3.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_of_dropped_weights(dtype):
    """The weights returned are those after dropout, and so is their gradient: what was dropped has one too, as it met the values."""
    inputs, _ = CASES["multi_head"].tensors(dtype)
    output, weights = tanhmax_attention(*inputs, dropout_p=0.5, return_weights=True)
    dropped = weights == 0
    assert 0.3 < dropped.double().mean() < 0.7
    upstream = torch.randn_like(output)
    (found,) = torch.autograd.grad(output, weights, upstream)
    torch.testing.assert_close(found, (upstream.double() @ inputs[2].double().mT).to(dtype).detach())


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_second_derivatives_through_returned_weights(dtype):
    """Gradient penalties work, and are those of float32 to rounding."""
    found = []
    for kind in (dtype, torch.float32):
        inputs, _ = CASES["plain"].tensors(dtype)
        inputs = [tensor.detach().to(kind).requires_grad_() for tensor in inputs]
        output, weights = tanhmax_attention(*inputs, return_weights=True)
        (first,) = torch.autograd.grad(output.float().square().sum(), weights, create_graph=True)
        found.append(torch.autograd.grad(first.float().square().sum(), inputs))
    for one, other in zip(*found, strict=True):
        assert error(one, other) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_without_gradients_nothing_is_added(dtype):
    inputs, _ = CASES["plain"].tensors(dtype)
    with torch.no_grad():
        output, weights = tanhmax_attention(*inputs, return_weights=True)
    assert not output.requires_grad
    assert not weights.requires_grad
