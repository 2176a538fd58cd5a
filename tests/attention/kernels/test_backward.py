"""The backward kernels where the table of cases does not reach: shared biases, dropout, learned polarity, the same bits every time."""

import pytest
import torch
from cases import error
from thorough import thorough_only

from hf_tanhmax import tanhmax_attention

pytest.importorskip("hf_tanhmax.attention.kernels.backward", reason="needs triton")

GPU = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = pytest.mark.usefixtures("small_tiles")


def inputs(batch=2, heads=2, kv_heads=1, queries=19, keys=37, head_dim=8, dtype=torch.float32):
    sizes = ((heads, queries), (kv_heads, keys), (kv_heads, keys))
    return [torch.randn(batch, many, length, head_dim, device=GPU).to(dtype).requires_grad_() for many, length in sizes]


def gradients(tensors, differentiated, implementation, **arguments):
    """Gradients of an uneven loss in float32, or by the reference in float64."""
    output = tanhmax_attention(*tensors, implementation=implementation, **arguments)
    upstream = torch.linspace(-1.0, 1.5, output.numel(), dtype=torch.float64).cos().view_as(output).to(output)
    return torch.autograd.grad(output, differentiated, upstream)


def doubled(tensors):
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(2, 2, 19, 37), (1, 2, 19, 37), (2, 1, 19, 37), (1, 1, 19, 37), (2, 2, 1, 37), (1, 2, 19, 1), (1, 1, 1, 1), (1, 2, 1, 1)]
)
@pytest.mark.parametrize("added", ["bias", "additive_mask"])
def test_the_gradient_of_a_shared_bias_or_additive_mask(shape, added):
    if shape.count(1) in (1, 2) and shape != (1, 2, 19, 37):
        thorough_only("shapes that share one axis or three are run")
    if added == "additive_mask" and shape[-1] == 1:
        pytest.skip("what is one number for a row changes nothing")
    tensors, bias = inputs(), torch.randn(shape, device=GPU, requires_grad=True)
    keep = torch.rand(2, 1, 19, 37, device=GPU) > 0.3
    arguments = {"is_causal": "lower_right", "keep": keep, "polarity": 0.6}
    found = gradients(tensors, [*tensors, bias], "triton", **{added: bias}, **arguments)
    exact = doubled([*tensors, bias])
    for one, other in zip(found, gradients(exact[:3], exact, "reference", **{added: exact[3]}, **arguments), strict=True):
        assert one.shape == other.shape
        assert error(one.cpu(), other.cpu()) < 1e-6


@pytest.mark.parametrize("added", ["bias", "additive_mask"])
def test_the_gradient_of_a_bias_or_additive_mask_where_nothing_is_visible(added):
    tensors, bias = inputs(), torch.randn(1, 2, 19, 37, device=GPU, requires_grad=True)
    (found,) = gradients(tensors, [bias], "triton", **{added: bias}, keep=torch.zeros(1, 1, 1, 37, dtype=torch.bool, device=GPU))
    assert torch.equal(found, torch.zeros_like(bias))


@pytest.mark.parametrize(
    "arguments", [{}, {"softcap": 2.0, "is_causal": "lower_right"}, {"window": 5, "dropout_p": 0.0}], ids=["plain", "softcap", "window"]
)
def test_the_gradient_of_a_polarity_per_head(arguments):
    tensors = inputs(1, 4, 2)
    polarity = torch.tensor([1.0, 0.5, 1e-3, 1.7], device=GPU, requires_grad=True)  # a learned one may pass 1
    found = gradients(tensors, [*tensors, polarity], "triton", polarity=polarity, **arguments)
    exact = doubled([*tensors, polarity])
    for one, other in zip(found, gradients(exact[:3], exact, "reference", polarity=exact[3], **arguments), strict=True):
        assert error(one.cpu(), other.cpu()) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_the_same_weights_in_both_passes(dtype):
    """The mask is read off a call with an identity for values; with it, eager attention must have the same output and gradients."""
    query, key, value = inputs(keys=29, head_dim=32, dtype=dtype)
    arguments = {"dropout_p": 0.4, "is_causal": "lower_right", "polarity": 0.8, "implementation": "triton"}
    unit = torch.eye(29, 32, device=GPU).to(dtype).expand(2, 1, 29, 32)
    torch.manual_seed(11)
    drawn = tanhmax_attention(query.detach(), key.detach(), unit, **arguments)[..., :29]
    _, weights = tanhmax_attention(query.detach(), key.detach(), unit, polarity=0.8, is_causal="lower_right", return_weights=True)
    survives = (drawn != 0) | (weights == 0)
    assert 0.5 < survives.float().mean() < 0.8

    torch.manual_seed(11)
    output = tanhmax_attention(query, key, value, **arguments)
    upstream = torch.randn_like(output)
    found = [output, *torch.autograd.grad(output, (query, key, value), upstream)]
    exact = doubled((query, key, value))
    _, weights = tanhmax_attention(*exact, polarity=0.8, is_causal="lower_right", return_weights=True)
    expected = (weights * survives.double() / 0.6) @ exact[2].repeat_interleave(2, 1)
    wanted = [expected, *torch.autograd.grad(expected, exact, upstream.double())]
    for one, other in zip(found, wanted, strict=True):
        assert error(one.detach().cpu(), other.detach().cpu()) < (1e-6 if dtype == torch.float32 else 8e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_run_gives_the_same_bits(dtype):
    batch, heads = (2, 4) if GPU == "cuda" else (1, 2)
    tensors, bias = inputs(batch, heads, dtype=dtype), torch.randn(1, heads, 1, 37, device=GPU, requires_grad=True)
    first = None
    for _ in range(100 if GPU == "cuda" else 2):
        found = gradients(tensors, [*tensors, bias], "triton", bias=bias, is_causal="lower_right")
        first = first or found
        assert all(torch.equal(one, other) for one, other in zip(first, found, strict=True))


def test_rows_that_see_nothing_have_no_gradient():
    tensors = inputs()
    keep = torch.ones(2, 1, 19, 37, dtype=torch.bool, device=GPU)
    keep[0, 0, 3:5] = False
    found = gradients(tensors, tensors, "triton", keep=keep)
    assert (found[0][0, :, 3:5] == 0).all()
    assert all(gradient.isfinite().all() for gradient in found)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_tf32_only_if_torch_was_told_so(precision):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        tensors = inputs()
        exact = doubled(tensors)
        for one, other in zip(gradients(tensors, tensors, "triton"), gradients(exact, exact, "reference"), strict=True):
            assert error(one.cpu(), other.cpu()) < (1e-6 if precision == "highest" else 2e-3)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("settings", [("highest", "high"), ("high", "highest")])
def test_the_setting_may_change_between_the_passes(settings):
    before = torch.get_float32_matmul_precision()
    tensors = inputs()
    try:
        torch.set_float32_matmul_precision(settings[0])
        output = tanhmax_attention(*tensors, polarity=0.7, implementation="triton")
        torch.set_float32_matmul_precision(settings[1])
        found = torch.autograd.grad(output.square().sum(), tensors)
    finally:
        torch.set_float32_matmul_precision(before)
    exact = doubled(tensors)
    expected = torch.autograd.grad(tanhmax_attention(*exact, polarity=0.7, implementation="reference").square().sum(), exact)
    for one, other in zip(found, expected, strict=True):
        assert error(one.cpu(), other.cpu()) < (1e-6 if settings[0] == "highest" else 2e-3)
