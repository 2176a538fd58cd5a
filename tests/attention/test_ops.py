"""The operators are good citizens of torch: schema, fake tensors, autograd, compilation with changing shapes, second derivatives, vmap."""

import pytest
import torch
from cases import error
from thorough import thorough_only

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.call import OperatorInputs
from hf_tanhmax.attention.ops import NAMESPACE, decode_attention, fused_attention, fused_attention_backward
from hf_tanhmax.integration import registration

GPU = "cuda" if torch.cuda.is_available() else "cpu"
BOTH = pytest.mark.parametrize("implementation", ["cpu", "triton"])

pytestmark = pytest.mark.usefixtures("small_tiles")


def device_of(implementation):
    return GPU if implementation == "triton" else "cpu"


def normal(implementation, *shape):
    return torch.randn(*shape, device=device_of(implementation), requires_grad=True)


def arguments(implementation, queries=7, keys=11, dropout_p=0.0, balanced=False, **tensors):
    tensors = {"polarity": torch.tensor([0.0, 0.3, 1.0, 0.7])} | tensors if balanced else tensors
    sizes = {"q": (4, queries), "k": (2, keys), "v": (2, keys)}
    inputs = [torch.randn(2, heads, length, 5) for heads, length in sizes.values()]
    seed = torch.tensor(3) if dropout_p else None
    optional = {"polarity": torch.zeros(4), "bias": None, "additive_mask": None, "keep": None, "segments": None, "seed": seed, **tensors}
    placed = [item.to(device_of(implementation)) if isinstance(item, torch.Tensor) else item for item in (*inputs, *optional.values())]
    return OperatorInputs(*placed, False, 0, None, 0.5, None, dropout_p, signed=True, balanced=balanced, kernels=implementation == "triton")


EXTRAS = {
    "plain": {},
    "bias": {"bias": torch.randn(1, 4, 7, 11)},
    "additive mask": {"additive_mask": torch.randn(1, 4, 1, 11)},
    "keep": {"keep": torch.rand(2, 1, 7, 11) > 0.3},
    "dropout": {"dropout_p": 0.3},
    "packed": {"queries": 11, "segments": torch.tensor([1] * 4 + [2] * 7)},
}


@pytest.mark.slow_in_interpreter
@BOTH
@pytest.mark.parametrize("extra", EXTRAS)
def test_opcheck(extra, implementation):
    if implementation == "triton" and extra != "packed":
        thorough_only("a tensor more or less does not change how the operator is registered")
    inputs = [
        item.clone().requires_grad_() if isinstance(item, torch.Tensor) and item.is_floating_point() else item
        for item in arguments(implementation, **EXTRAS[extra])
    ]
    torch.library.opcheck(fused_attention, tuple(inputs))


@pytest.mark.slow_in_interpreter
@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("signed", [True, False])
def test_opcheck_with_a_constant_polarity(signed, dtype, implementation):
    if dtype == torch.bfloat16:
        thorough_only("float32 is checked")
    inputs = arguments(implementation, polarity=None)._replace(signed=signed)
    torch.library.opcheck(fused_attention, (*(item.to(dtype).requires_grad_() for item in inputs[:3]), *inputs[3:]))


@pytest.mark.slow_in_interpreter
@BOTH
@pytest.mark.parametrize("wants", [(False, False, False), (True, True, False), (True, False, True)])
def test_opcheck_backward(wants, implementation):
    if implementation == "triton" and not any(wants):
        thorough_only("the backward pass with every gradient is checked")
    inputs = arguments(implementation, **{"additive_mask" if wants[2] else "bias": torch.randn(1, 4, 1, 11)})
    upstream = torch.randn(2, 4, 7, 5, device=device_of(implementation))
    results = fused_attention(*inputs) if implementation == "triton" else (None, None, None)
    torch.library.opcheck(fused_attention_backward, (upstream, *results, None, *wants, *inputs))


@pytest.mark.parametrize("extra", [*EXTRAS, "constant"])
def test_opcheck_with_a_balanced_shift(extra):
    """Whose polarity is no logarithm, and which returns no log-sum-exp."""
    made = arguments("cpu", balanced=True, **({"polarity": None} if extra == "constant" else EXTRAS[extra]))
    inputs = [item.clone().requires_grad_() if isinstance(item, torch.Tensor) and item.is_floating_point() else item for item in made]
    torch.library.opcheck(fused_attention, tuple(inputs))
    assert fused_attention(*made)[1].shape == (0,)
    wants = [made.polarity is not None, made.bias is not None, made.additive_mask is not None]
    torch.library.opcheck(fused_attention_backward, (torch.randn_like(fused_attention(*made)[0]), None, None, None, None, *wants, *made))


@pytest.mark.slow_in_interpreter
@BOTH
@pytest.mark.parametrize("shift", [None, "balanced"])
def test_compiles_with_dynamic_shapes_without_recompiling(shift, implementation):
    def call(query, key, value):
        return tanhmax_attention(query, key, value, is_causal=True, shift=shift, implementation=implementation)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
    torch._dynamo.reset()
    counter = torch._dynamo.utils.counters
    counter.clear()
    for length in (5, 7, 11, 13):
        query, key, value = torch.randn(3, 2, 4, length, 8, device=device_of(implementation)).unbind()
        torch.testing.assert_close(compiled(query, key, value), call(query, key, value))
    assert counter["stats"]["unique_graphs"] == 1


@BOTH
def test_second_derivatives(implementation):
    """Through the reference: equal to those of the reference, to the last digits of float32."""
    tensors = [normal(implementation, 1, heads, length, 5) for heads, length in ((4, 3), (2, 7), (2, 7))]
    bias = normal(implementation, 1, 4, 1, 7)
    found = []
    for name in (implementation, "reference"):
        output = tanhmax_attention(*tensors, bias=bias, is_causal="lower_right", softcap=2.0, polarity=0.5, implementation=name)
        first = torch.autograd.grad(output.square().sum(), (*tensors, bias), create_graph=True)
        found.append(torch.autograd.grad(sum(gradient.square().sum() for gradient in first), (*tensors, bias)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@BOTH
def test_one_tensor_as_query_and_key_and_value_has_one_gradient_of_each(implementation):
    """Also where the gradient can be differentiated again."""
    (shared, mask), found = (normal(implementation, 1, 2, 3, 3) for _ in range(2)), []
    for name in (implementation, "reference"):
        output = tanhmax_attention(shared, shared, shared, bias=mask, additive_mask=None, implementation=name)
        first = torch.autograd.grad(output.square().sum(), (shared, mask), create_graph=True)
        found.append((*first, *torch.autograd.grad(sum(gradient.square().sum() for gradient in first), (shared, mask))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


@BOTH
@pytest.mark.parametrize("shift", [None, "balanced"])
def test_second_derivatives_with_dropout_are_refused(shift, implementation):
    query, key, value = (normal(implementation, 1, 1, 3, 2) for _ in range(3))
    output = tanhmax_attention(query, key, value, dropout_p=0.5, shift=shift, implementation=implementation)
    with pytest.raises(NotImplementedError, match='second derivatives with dropout need implementation="reference"'):
        torch.autograd.grad(output.sum(), query, create_graph=True)


@pytest.mark.slow
@BOTH
def test_activation_checkpointing_gives_the_same_gradients(implementation):
    query, key, value = (normal(implementation, 2, 4, 7, 5) for _ in range(3))

    def call(*tensors):
        return tanhmax_attention(*tensors, dropout_p=0.3, implementation=implementation)

    found = []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        run = torch.utils.checkpoint.checkpoint if checkpointed else lambda function, *tensors, **_: function(*tensors)
        output = run(call, query, key, value, use_reentrant=False)
        found.append(torch.autograd.grad(output.square().sum(), (query, key, value)))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.slow
@BOTH
def test_vmap_equals_a_loop(implementation):
    query, key, value = (normal(implementation, 3, 2, 4, 7, 5) for _ in range(3))
    bias = normal(implementation, 4, 7, 7)

    def call(query, key, value):
        return tanhmax_attention(query, key, value, bias=bias, is_causal=True, implementation=implementation)

    looped = torch.stack([call(*parts) for parts in zip(query, key, value, strict=True)])
    torch.testing.assert_close(torch.vmap(call)(query, key, value), looped)
    shared = torch.vmap(call, in_dims=(0, None, None))(query, key[0], value[0])
    torch.testing.assert_close(shared[1], call(query[1], key[0], value[0]))


@BOTH
def test_batched_gradients_equal_a_loop(implementation):
    query, key, value = (normal(implementation, 1, 2, length, 4) for length in (5, 7, 7))
    output = tanhmax_attention(query, key, value, implementation=implementation)
    upstream = torch.randn(3, *output.shape, device=output.device)
    batched = torch.autograd.grad(output, (query, key, value), upstream, is_grads_batched=True, retain_graph=True)
    for index in range(3):
        expected = torch.autograd.grad(output, (query, key, value), upstream[index], retain_graph=True)
        torch.testing.assert_close([gradient[index] for gradient in batched], list(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_partial_results_merge_by_their_log_sum_exp(dtype):
    """(O, L) over disjoint sets of keys combine as softmax's do: the seam for split keys and rings."""
    query, key, value, *rest = arguments("triton", keys=23)
    query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    whole, lse, _ = fused_attention(query, key, value, *rest)
    parts = [fused_attention(query, key[:, :, part], value[:, :, part], *rest) for part in (slice(0, 9), slice(9, 10), slice(10, 23))]
    lses = torch.stack([part[1] for part in parts])
    shares = lses.softmax(0)
    merged = sum(share[..., None] * part[0].float() for share, part in zip(shares, parts, strict=True))
    torch.testing.assert_close(lses.logsumexp(0), lse)
    assert error(merged, whole) < 2 * torch.finfo(dtype).eps


def test_the_log_sum_exp_of_an_empty_row_is_infinite():
    keep = torch.ones(2, 1, 7, 11, dtype=torch.bool)
    keep[0, 0, 3] = False
    output, lse, _ = fused_attention(*arguments("triton", keep=keep))
    assert lse.isposinf().sum() == 4
    assert lse[0, :, 3].isposinf().all()
    assert (output[0, :, 3] == 0).all()


def test_what_is_global_to_a_process_carries_the_name_of_the_code_that_put_it_there():
    assert NAMESPACE == "hf_tanhmax"
    assert {registration.FUSED, registration.EAGER, registration.PAGED} == {"tanhmax", "tanhmax_eager", "tanhmax_paged"}
    for operator in (fused_attention, fused_attention_backward, decode_attention):
        assert operator._opoverload is getattr(torch.ops.hf_tanhmax, operator._name.removeprefix("hf_tanhmax::")).default
