"""The operator is a good citizen of torch: schema, fake tensors, autograd, compilation with changing shapes, second derivatives."""

import pytest
import torch

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.ops import blocked_attention, blocked_attention_backward


def arguments(queries=7, keys=11, dropout_p=0.0, **tensors):
    normal = {name: torch.randn(2, heads, length, 5) for name, heads, length in (("q", 4, queries), ("k", 2, keys), ("v", 2, keys))}
    optional = {"bias": None, "keep": None, "segments": None, "seed": torch.tensor(3) if dropout_p else None, **tensors}
    return (*normal.values(), torch.zeros(4), *optional.values(), False, 0, None, 0.5, None, dropout_p)


@pytest.mark.parametrize(
    "extra",
    [{}, {"bias": torch.randn(1, 4, 7, 11)}, {"keep": torch.rand(2, 1, 7, 11) > 0.3}, {"dropout_p": 0.3}],
    ids=["plain", "bias", "keep", "dropout"],
)
def test_opcheck(extra):
    inputs = [
        item.clone().requires_grad_() if isinstance(item, torch.Tensor) and item.is_floating_point() else item
        for item in arguments(**extra)
    ]
    torch.library.opcheck(blocked_attention, tuple(inputs))


@pytest.mark.parametrize("wants", [(False, False), (True, True)])
def test_opcheck_backward(wants):
    query, key, value, log_polarity, *rest = arguments(bias=torch.randn(1, 4, 1, 11))
    upstream = torch.randn(2, 4, 7, 5)
    torch.library.opcheck(blocked_attention_backward, (upstream, query, key, value, log_polarity, *rest, *wants))


def test_compiles_with_dynamic_shapes_without_recompiling():
    compiled = torch.compile(lambda q, k, v: tanhmax_attention(q, k, v, is_causal=True), fullgraph=True, backend="aot_eager", dynamic=True)
    torch._dynamo.reset()
    counter = torch._dynamo.utils.counters
    counter.clear()
    for length in (5, 7, 11, 13):
        query, key, value = torch.randn(3, 2, 4, length, 8).unbind()
        torch.testing.assert_close(compiled(query, key, value), tanhmax_attention(query, key, value, is_causal=True))
    assert counter["stats"]["unique_graphs"] == 1


def test_second_derivatives_with_dropout_are_refused():
    query, key, value = (torch.randn(1, 1, 3, 2, requires_grad=True) for _ in range(3))
    output = tanhmax_attention(query, key, value, dropout_p=0.5, implementation="cpu")
    with pytest.raises(NotImplementedError, match='second derivatives with dropout need implementation="reference"'):
        torch.autograd.grad(output.sum(), query, create_graph=True)


def test_activation_checkpointing_gives_the_same_gradients():
    query, key, value = (torch.randn(2, 4, 7, 5, requires_grad=True) for _ in range(3))

    def call(*tensors):
        return tanhmax_attention(*tensors, dropout_p=0.3)

    found = []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        run = torch.utils.checkpoint.checkpoint if checkpointed else lambda function, *tensors, **_: function(*tensors)
        output = run(call, query, key, value, use_reentrant=False)
        found.append(torch.autograd.grad(output.square().sum(), (query, key, value)))
    torch.testing.assert_close(found[0], found[1])
