"""A call: what is wrong with it, and what operators get of it."""

import inspect
import math

import pytest
import torch
from operations import Seen
from torch.autograd import forward_ad

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.call import Call, autocasts

Q = torch.randn(2, 4, 5, 8)


@pytest.mark.parametrize(
    ("arguments", "error_type", "message"),
    [
        ({"query": Q[0]}, ValueError, r"query must be \[batch, heads, length, head_dim\], but has shape \(4, 5, 8\)"),
        ({"query": Q.long()}, TypeError, "query must be floating point, but is torch.int64"),
        ({"key": Q.double()}, TypeError, "one dtype, but key is torch.float64 and query is torch.float32"),
        ({"value": Q.to("meta")}, ValueError, "value is on meta, but query is on cpu"),
        ({"key": Q[:1], "value": Q[:1]}, ValueError, r"must agree in batch.*\(1, 4, 5, 8\)"),
        ({"value": Q[:, :, :3]}, ValueError, "must agree in batch"),
        ({"key": Q[..., :4]}, ValueError, "one head size, but have 8 and 4"),
        ({"key": Q[:, :3], "value": Q[:, :3]}, ValueError, "the 3 key heads must divide the 4 query heads"),
        ({"keep": torch.zeros(5, 5)}, TypeError, "keep must be boolean .* an additive mask goes to `additive_mask`"),
        ({"keep": torch.ones(5, 4, dtype=torch.bool)}, ValueError, r"keep of shape \(5, 4\) does not broadcast to \[batch, heads"),
        ({"keep": torch.ones(5, 5, dtype=torch.bool, device="meta")}, ValueError, "keep is on meta"),
        ({"bias": torch.ones(5, 5, dtype=torch.bool)}, TypeError, "bias must be floating point, but is torch.bool; a boolean mask goes"),
        ({"additive_mask": torch.ones(5, 5, dtype=torch.bool)}, TypeError, "additive_mask must be floating point, .* goes to `keep`"),
        ({"additive_mask": torch.ones(4, 5)}, ValueError, r"additive_mask of shape \(4, 5\) does not broadcast to \[batch, heads"),
        ({"additive_mask": torch.ones(5, device="meta")}, ValueError, "additive_mask is on meta, but query is on cpu"),
        ({"bias": torch.ones(3, 5, 5)}, ValueError, r"bias of shape \(3, 5, 5\) does not broadcast"),
        ({"bias": torch.ones(5, 5, device="meta")}, ValueError, "bias is on meta"),
        ({"is_causal": "left"}, ValueError, 'is_causal must be a bool, "upper_left" or "lower_right", but is \'left\''),
        ({"window": 0}, ValueError, "window must be at least 1"),
        ({"softcap": -1.0}, ValueError, "softcap must be positive, but is -1.0"),
        ({"dropout_p": 1.0}, ValueError, r"dropout_p must be in \[0, 1\), but is 1.0"),
        ({"polarity": 2.0}, ValueError, r"polarity must be in \[0, 1\]"),
        ({"polarity": torch.ones(3)}, ValueError, r"a polarity tensor must be a scalar or \[heads\] = \[4\]"),
        ({"polarity": torch.ones(4, device="meta")}, ValueError, "polarity is on meta"),
        ({"cu_seqlens": torch.tensor([0, 5])}, ValueError, "into a batch of one"),
    ],
)
def test_bad_input(arguments, error_type, message):
    with pytest.raises(error_type, match=message):
        tanhmax_attention(**{"query": Q, "key": Q, "value": Q, **arguments})


@pytest.mark.parametrize(
    ("bounds", "error_type", "message"),
    [
        ([0, 3], ValueError, r"ascend from 0 to the length 5, but is \[0, 3\]"),
        ([1, 5], ValueError, "ascend from 0"),
        ([0, 4, 3, 5], ValueError, "ascend from 0"),
        ([[0, 5]], TypeError, r"int32 or int64 \[sequences \+ 1\]"),
        ([0.0, 5.0], TypeError, "int32 or int64"),
    ],
)
def test_bad_cu_seqlens(bounds, error_type, message):
    one = Q[:1]
    with pytest.raises(error_type, match=message):
        tanhmax_attention(one, one, one, cu_seqlens=torch.tensor(bounds))


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
def test_autocast_makes_different_dtypes_alike(lower):
    """As torch's own attention does: a rotary embedding may have widened query and key, and nobody the value."""
    query, key, value = torch.randn(3, 2, 4, 7, 8).unbind()
    with torch.autocast("cpu", lower):
        found = tanhmax_attention(query, key, value.to(lower))
    assert torch.equal(found, tanhmax_attention(query.to(lower), key.to(lower), value.to(lower)))
    with torch.autocast("cpu", lower), pytest.raises(TypeError, match=r"one dtype, but key is .*float32 and query is .*float64"):
        tanhmax_attention(query.double(), key, value)


def call(**arguments):
    defaults = inspect.signature(tanhmax_attention).parameters.values()
    options = {item.name: item.default for item in defaults if item.kind == item.KEYWORD_ONLY and item.name != "implementation"}
    return Call(Q, Q[:, :2], Q[:, :2], **options | arguments)


def test_operators_get_the_mask_of_the_call():
    keep = torch.rand(5, 5) > 0.3
    made = call(keep=keep, is_causal="lower_right", window=3)
    inputs = made.operator_inputs(kernels=False)
    assert torch.equal(inputs.mask.full(Q.device), made.mask.full(Q.device))
    assert (inputs.keep.shape, inputs.causal, inputs.offset, inputs.window) == ((1, 1, 5, 5), True, 0, 3)


@pytest.mark.parametrize(("polarity", "signed"), [(1.0, True), (0.0, False), (0.5, True), (torch.tensor(0.5), True)])
def test_a_polarity_of_0_or_1_is_no_tensor(polarity, signed):
    """The kernels are compiled for each of the two."""
    inputs = call(polarity=polarity).operator_inputs(kernels=True)
    assert inputs.signed is signed
    assert inputs.polarity is None if polarity in (0.0, 1.0) else torch.equal(inputs.polarity, torch.full((4,), 0.5).log())


def logarithm(polarity):
    return call(polarity=polarity).operator_inputs(kernels=False).polarity


def test_without_derivatives_the_logarithm_of_a_polarity_takes_one_step_and_is_the_same():
    for values in ([0.0, 0.3, 1.0, 1e-30], [-0.5, math.nan, -0.0, 2.0]):
        given = torch.tensor(values)
        with Seen() as seen:
            found = logarithm(given)
        assert set(seen.names) - {"aten.slice.Tensor", "aten.promote_types.default"} == {"aten.log.default"}
        torch.testing.assert_close(found, logarithm(given.clone().requires_grad_()).detach(), equal_nan=True, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by which torch makes forward derivatives
@pytest.mark.parametrize("kind", ["grad", "forward-mode", "jvp", "vmap of grad", "grad of vmap"])
def test_the_logarithm_of_a_polarity_has_a_derivative_at_0(kind):
    """It is 0 there; that of the logarithm alone would be infinite."""
    given, ones = torch.tensor([0.0, 0.5, 1.0, 0.25]), torch.ones(4)
    if kind == "grad":
        given.requires_grad_()
        (found,) = torch.autograd.grad(logarithm(given).sum(), given)
    elif kind == "forward-mode":
        with torch.no_grad(), forward_ad.dual_level():
            found = forward_ad.unpack_dual(logarithm(forward_ad.make_dual(given, ones))).tangent
    elif kind == "jvp":
        found = torch.func.jvp(logarithm, (given,), (ones,))[1]
    elif kind == "grad of vmap":
        found = torch.func.grad(lambda polarity: torch.func.vmap(logarithm)(polarity[None]).sum())(given)
    else:
        found = torch.func.vmap(torch.func.grad(lambda polarity: logarithm(polarity).sum()))(given[None])[0]
    assert found.tolist() == [0.0, 2.0, 1.0, 4.0]


@pytest.mark.parametrize("polarity", [1.0, 0.0, 0.5, torch.tensor([0.0, 0.5, 1.0, 0.3])])
def test_a_balanced_shift_takes_the_polarity_itself_and_is_none_at_0(polarity):
    """Its logarithm would lose the derivative at 0; softmax does not see a shift."""
    inputs = call(polarity=polarity, shift="balanced").operator_inputs(kernels=False)
    constant = isinstance(polarity, float) and polarity in (0.0, 1.0)
    assert (inputs.balanced, inputs.signed) == ((polarity != 0.0, polarity != 0.0) if constant else (True, True))
    expected = torch.as_tensor(polarity).expand(4)
    assert inputs.polarity is None if constant else torch.equal(inputs.polarity, expected)
    torch.testing.assert_close(torch.as_tensor(inputs.coefficient).expand(4), expected)
    assert call(polarity=polarity).operator_inputs(kernels=False).balanced is False


def test_the_scale_is_that_of_the_head_size_unless_given():
    assert call().operator_inputs(kernels=True).scale == 8**-0.5
    assert call(scale=0.0).operator_inputs(kernels=True).scale == 0.0


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_where_autocast_is_always_there_nothing_asks_for_it(kind, monkeypatch):
    """torch.compile of torch 2.11 breaks the graph at that question."""
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda device_type: pytest.fail(f"asked about {device_type}"))
    with torch.autocast("cpu", torch.bfloat16):
        assert autocasts(kind) == (kind == "cpu")


def test_a_device_without_autocast_has_none_on():
    assert not autocasts("meta")


@pytest.mark.parametrize("name", ["scale", "softcap"])
def test_a_number_that_comes_as_a_tensor_is_read_in_every_call(name):
    given = torch.tensor(0.5)
    for value in (0.5, 0.1):
        given.fill_(value)
        with torch.no_grad():
            found = tanhmax_attention(Q, Q, Q, implementation="cpu", **{name: given})
            expected = tanhmax_attention(Q, Q, Q, implementation="cpu", **{name: value})
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["scale", "softcap"])
def test_a_number_with_a_gradient_is_refused_where_none_would_be_found(name):
    given = torch.tensor(0.5, requires_grad=True)
    with pytest.raises(NotImplementedError, match=f'{name} is a tensor with a gradient.*implementation="reference" does'):
        tanhmax_attention(Q, Q, Q, implementation="cpu", **{name: given})
    output = tanhmax_attention(Q, Q, Q, implementation="reference", **{name: given})
    assert torch.autograd.grad(output.square().sum(), given)[0] != 0
    with torch.no_grad():
        tanhmax_attention(Q, Q, Q, implementation="cpu", **{name: given})
