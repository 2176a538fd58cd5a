"""Balanced attention: its identity, precision, leaks, caches, blocks, derivatives, compilation, and which kernels compute it."""

import math

import pytest
import torch
from cases import BALANCED, CASES, Case, allowed, doubled_softmax, error, measured, two_softmax_calls, visible, with_gradients

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention import api

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PRECISE = ("plain", "causal", "keep", "bias", "additive", "additive_learned", "tiny_scores", "large_scores", "polarity_per_head")
WAYS = pytest.mark.parametrize("implementation", ["cpu", "composed", "reference"])
SHIFT = {"shift": "balanced", "polarity": 0.3}


def row_constants(inputs, arguments):
    """The constant of each row that balances its scores, `[batch, heads, queries, 1]`; 0 where it has no key."""
    query, key = inputs[:2]
    scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).mT * query.shape[-1] ** -0.5 + arguments.get("bias", 0.0)
    seen = visible(inputs, arguments)
    level = arguments["additive_mask"].masked_fill(~seen, 0.0) if "additive_mask" in arguments else 0.0
    empty = ~seen.any(-1, keepdim=True)
    lowest, highest = (
        (level + half).masked_fill(~seen, -math.inf).masked_fill(empty, 0.0).logsumexp(-1, keepdim=True) for half in (-scores, scores)
    )
    polarity = torch.as_tensor(arguments.get("polarity", 1.0), dtype=torch.float64).reshape(-1, 1, 1)
    return 0.5 * (lowest - highest - polarity.log())


@WAYS
@pytest.mark.parametrize(
    "name",
    [
        "multi_query",
        "empty_rows",
        "causal_lower_right",
        "bias",
        "additive_learned",
        "additive_and_bias",
        "polarity_per_head",
        "packed_causal",
    ],
)
def test_equals_tanhmax_of_scores_shifted_by_a_constant_of_each_row(name, implementation):
    """Outputs and gradients, by the cases' own bias, to which the constants are added."""
    found = []
    for shifted in (False, True):
        inputs, arguments = CASES[name].tensors()
        if shifted:
            constants = row_constants(inputs, arguments)
            arguments["bias"], arguments["polarity"] = arguments.get("bias", 0.0) + constants, 1.0
        else:
            arguments |= {"shift": "balanced", "implementation": implementation}
        found.append(with_gradients(tanhmax_attention(*inputs[:3], **arguments), inputs))
    for one, other in zip(*found, strict=True):
        assert error(one, other) < 1e-10


@WAYS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PRECISE)
def test_lower_precision_is_no_worse_than_eager(name, dtype, implementation):
    """What is composed is held against eager compositions, as without a shift."""
    inputs, arguments = BALANCED[f"balanced_{name}"].tensors(dtype)
    found = with_gradients(tanhmax_attention(*inputs[:3], implementation=implementation, **arguments), inputs)
    alone = implementation != "composed"
    exact, roundings = measured(f"balanced_{name}", dtype, (doubled_softmax,) if alone else (doubled_softmax, two_softmax_calls))
    for one, true, rounding in zip(found, exact, roundings, strict=True):
        assert one.dtype == dtype
        assert one.isfinite().all()
        if math.isfinite(rounding):
            assert error(one, true) <= (1.0 if alone else 1.5) * allowed(rounding, dtype)


@WAYS
def test_a_constant_in_a_row_changes_nothing(implementation):
    (query, key, value), _ = Case().tensors()
    constant = torch.linspace(-30.0, 30.0, 7, dtype=torch.float64)[:, None]
    plain = tanhmax_attention(query, key, value, implementation=implementation, **SHIFT)
    torch.testing.assert_close(tanhmax_attention(query, key, value, bias=constant, implementation=implementation, **SHIFT), plain)
    assert not torch.allclose(tanhmax_attention(query, key, value, bias=constant, polarity=0.3), plain)


@WAYS
def test_no_leak_from_later_keys_from_padding_or_from_the_rest_of_the_batch(implementation):
    query, key, value = (tensor.detach() for tensor in Case(queries=11).tensors()[0])
    options = {"is_causal": True, "implementation": implementation, **SHIFT}
    before = tanhmax_attention(query, key, value, **options)
    later = [tensor.clone() for tensor in (key, value)]
    later[0][:, :, 7:], later[1][:, :, 7:] = 1e3, -1e3
    torch.testing.assert_close(tanhmax_attention(query, *later, **options)[:, :, :7], before[:, :, :7], rtol=0, atol=1e-12)
    keep = torch.arange(11) >= 4
    hidden = [tensor.clone() for tensor in (key, value)]
    hidden[0][:, :, :4], hidden[1][:, :, :4] = 7.0, -7.0
    masked = tanhmax_attention(query, *hidden, keep=keep.view(1, 1, 1, -1), **options)
    torch.testing.assert_close(masked[:, :, 4:], tanhmax_attention(query[:, :, 4:], key[:, :, 4:], value[:, :, 4:], **options))
    assert (masked[:, :, :4] == 0).all()
    torch.testing.assert_close(tanhmax_attention(query[:1], key[:1], value[:1], **options), before[:1], rtol=1e-12, atol=1e-14)


@WAYS
@pytest.mark.parametrize("chunks", [(11,), (5, 1, 1, 4)])
def test_chunked_prefill_and_cached_decoding_equal_full(chunks, implementation):
    (query, key, value), _ = Case(queries=11).tensors()
    full = tanhmax_attention(query, key, value, is_causal=True, implementation=implementation, **SHIFT)
    parts, stop = [], 0
    for part in query.split(chunks, 2):
        stop += part.shape[2]
        options = {"is_causal": "lower_right", "implementation": implementation}
        parts.append(tanhmax_attention(part, key[:, :, :stop], value[:, :, :stop], **options, **SHIFT))
    torch.testing.assert_close(torch.cat(parts, 2), full)


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_reads_through_a_block_table(implementation):
    query, pool = torch.randn(2, 4, 1, 8), torch.randn(9, 2, 1, 8)
    table, bounds = torch.tensor([7, 2, 0, 5, 8]), torch.tensor([0, 2, 5])
    options = {"is_causal": "lower_right", "implementation": implementation, **SHIFT}
    found = tanhmax_attention(query, pool, pool, cu_seqlens=bounds, block_table=table, **options)
    for entry, rows in enumerate((table[:2], table[2:])):
        keys = pool[rows, :, 0].transpose(0, 1)[None]
        torch.testing.assert_close(found[entry : entry + 1], tanhmax_attention(query[entry : entry + 1], keys, keys, **options))
    with pytest.raises(NotImplementedError, match="'composed' reads no block table"):
        tanhmax_attention(query, pool, pool, cu_seqlens=bounds, block_table=table, **options | {"implementation": "composed"})


@WAYS
@pytest.mark.parametrize("shape", [(2, 3, 5, 0), (2, 3, 0, 7), (0, 3, 5, 7)])
def test_nothing_to_compute(shape, implementation):
    batch, heads, queries, keys = shape
    query, key = (torch.randn(batch, heads, length, 4, requires_grad=True) for length in (queries, keys))
    output = tanhmax_attention(query, key, key, implementation=implementation, **SHIFT)
    assert torch.equal(output, torch.zeros_like(query))


@WAYS
@pytest.mark.parametrize("scale", [-0.5, 0.0])
def test_scales_that_are_not_positive(scale, implementation):
    (query, key, value), _ = Case().tensors()
    expected = tanhmax_attention(query * scale, key, value, scale=1.0, implementation="reference", **SHIFT)
    torch.testing.assert_close(tanhmax_attention(query, key, value, scale=scale, implementation=implementation, **SHIFT), expected)


def test_auto_takes_the_operator_and_the_reference_for_weights(monkeypatch):
    query, names = torch.randn(1, 2, 5, 8), []
    for name in ("fused_attention", "balanced_attention", "reference_attention"):
        whole = getattr(api, name)
        monkeypatch.setattr(
            api, name, lambda *tensors, whole=whole, name=name, **options: (names.append(name), whole(*tensors, **options))[1]
        )
    for options in ({}, {"is_causal": True}, {"softcap": 2.0}, {"dropout_p": 0.5}, {"return_weights": True}):
        tanhmax_attention(query, query, query, **options, **SHIFT)
    assert names == ["fused_attention"] * 4 + ["reference_attention"]


def test_dropout_and_softcap():
    query, key, value = torch.randn(3, 1, 2, 5, 8).unbind()
    identity, size = torch.eye(5).expand(1, 2, 5, 5), 64
    wide = [tensor.repeat(size, 1, 1, 1) for tensor in (query, key, identity)]  # so that the output is the weights
    for implementation in ("cpu", "reference"):
        dropped = tanhmax_attention(*wide, dropout_p=0.5, implementation=implementation, **SHIFT)
        kept = dropped != 0
        assert abs(kept.double().mean() - 0.5) < 0.05
        torch.testing.assert_close(dropped[kept], (2 * tanhmax_attention(*wide, **SHIFT))[kept])
    output, weights = tanhmax_attention(query, key, value, softcap=2.0, return_weights=True, **SHIFT)
    torch.testing.assert_close(weights.sum(-1), torch.full((1, 2, 5), 0.7 / 1.3))
    torch.testing.assert_close(output, tanhmax_attention(query, key, value, softcap=2.0, **SHIFT))


@WAYS
@pytest.mark.parametrize("arguments", [{"is_causal": "lower_right"}, {"keep": torch.arange(5) < 3}, {}], ids=["causal", "keep", "plain"])
@pytest.mark.parametrize("added", [False, True])
def test_second_derivatives(added, arguments, implementation):
    mask = torch.tensor([0.0, -0.7, -20.0, -9001.0, 0.3], dtype=torch.float64)
    extra = {"bias": torch.randn(1, 6, 1, 5, dtype=torch.float64), "additive_mask": mask} if added else {}
    case = Case({"polarity": torch.tensor([1.0, 0.5, 0.1, 1e-3, 0.9, 0.2], dtype=torch.float64), **extra}, queries=3, keys=5, batch=1)
    inputs, found = case.tensors()

    def call(*tensors):
        named = dict(zip(found, tensors[3:], strict=True))
        return tanhmax_attention(*tensors[:3], **named, **arguments, shift="balanced", implementation=implementation)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs, gen_non_contig_grad_outputs=True)


@WAYS
@pytest.mark.parametrize("wanted", [(0,), (1,), (1, 2)])
def test_second_derivatives_by_some_of_the_tensors(wanted, implementation):
    inputs = [tensor.detach().requires_grad_(place in wanted) for place, tensor in enumerate(Case(queries=3, keys=5, batch=1).tensors()[0])]

    def call(*leaves):
        rest = iter(leaves)
        tensors = [next(rest) if place in wanted else tensor for place, tensor in enumerate(inputs)]
        return tanhmax_attention(*tensors, implementation=implementation, **SHIFT)

    assert torch.autograd.gradgradcheck(call, [inputs[place] for place in wanted])


def test_one_tensor_as_query_and_key_and_value_has_one_gradient_of_each():
    shared, found = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True), []
    for implementation in ("composed", "reference"):
        output = tanhmax_attention(shared, shared, shared, implementation=implementation, **SHIFT)
        (first,) = torch.autograd.grad(output.square().sum(), shared, create_graph=True)
        found.append((first, *torch.autograd.grad(first.square().sum(), shared)))
    torch.testing.assert_close(*found)


@WAYS
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'>:DeprecationWarning")  # Dynamo's own
def test_compiles_in_one_graph(wanted, implementation):
    query, key, value = (torch.randn(2, 4, 7, 8, requires_grad=True) for _ in range(3))
    bias, polarity = torch.randn(4, 7, 7, requires_grad=wanted), torch.rand(4, requires_grad=True)
    tensors = (query, key, value, polarity) + ((bias,) if wanted else ())

    def call(*tensors):
        options = {"polarity": tensors[3], "shift": "balanced", "implementation": implementation, "is_causal": True}
        return tanhmax_attention(*tensors[:3], bias=tensors[4] if wanted else None, **options).square().sum()

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    loss, again = call(*tensors), compiled(*tensors)
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(torch.autograd.grad(again, tensors), torch.autograd.grad(loss, tensors))


@WAYS
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'>:DeprecationWarning")  # Dynamo's own
def test_compiles_in_one_graph_for_inference(implementation):
    """Two calls of a function of ours with a backward pass are more than Dynamo traces where none is wanted."""
    query, key, value = torch.randn(3, 2, 4, 7, 8).unbind()

    def call(query, key, value):
        return tanhmax_attention(query, key, value, keep=torch.arange(key.shape[2]) < 5, implementation=implementation, **SHIFT)

    torch._dynamo.reset()  # of all implementations together it would compile too often
    compiled = torch.compile(call, fullgraph=True, backend="eager", dynamic=True)
    for tensors in ((query, key, value), (query.clone().requires_grad_(), key, value)):
        torch.testing.assert_close(compiled(*tensors), call(*tensors))
        with torch.no_grad():
            torch.testing.assert_close(compiled(*tensors), call(*tensors))


@pytest.mark.filterwarnings("ignore:There is a performance drop because:UserWarning")
def test_vmap_and_functional_gradients():
    query, key, value = torch.randn(3, 2, 2, 4, 7, 8).unbind()

    def call(query, key, value):
        return tanhmax_attention(query, key, value, is_causal=True, implementation="composed", **SHIFT)

    looped = torch.stack([call(*parts) for parts in zip(query, key, value, strict=True)])
    torch.testing.assert_close(torch.vmap(call)(query, key, value), looped)
    found = torch.func.grad(lambda tensor: call(tensor, key[0], value[0]).square().sum())(query[0])
    leaf = query[0].clone().requires_grad_()
    torch.testing.assert_close(found, *torch.autograd.grad(call(leaf, key[0], value[0]).square().sum(), leaf))


def test_it_never_holds_the_scores():
    """At 4096 x 4096 the scores of one head alone would take 64 MiB."""
    query, key, value = (torch.randn(1, 1, 4096, 8, requires_grad=True) for _ in range(3))
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        tanhmax_attention(query, key, value, is_causal=True, implementation="composed", **SHIFT).sum().backward()
    assert max(event.cpu_memory_usage for event in profile.events()) < 4 * 2**20


def test_autocast_does_not_lower_the_precision_inside():
    query, key, value = torch.randn(3, 2, 4, 7, 8).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        inside = tanhmax_attention(query, key, value, **SHIFT)
    assert torch.equal(inside, tanhmax_attention(query, key, value, **SHIFT))
