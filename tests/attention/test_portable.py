"""What `auto` chooses while a call is exported: stock attention at every size, or the definition; a named implementation stays."""

import pytest
import torch
from masked_calls import Attention, assert_the_same, dims_of_masked_calls, masked_call, operators


@pytest.mark.parametrize("shift", [None, "balanced"])
def test_a_named_implementation_is_exported_as_it_is(shift):
    calls = [masked_call(*size) for size in ((3, 5, 7), (2, 19, 23))]
    model = Attention(implementation="cpu", shift=shift)
    program = torch.export.export(model, calls[0], dynamic_shapes=dims_of_masked_calls())
    assert any("fused_attention" in name for name in operators(program))
    assert_the_same(program.module(), model, calls)


def test_a_strict_export_takes_the_same():
    calls = [masked_call(*size) for size in ((3, 5, 7), (2, 19, 23))]
    program = torch.export.export(Attention(is_causal=True), calls[0], dynamic_shapes=dims_of_masked_calls(), strict=True)
    assert not any("tanhmax" in name for name in operators(program))
    assert_the_same(program.module(), Attention(is_causal=True), calls)


@pytest.mark.parametrize("arguments", [{"softcap": 2.0}, {"dropout_p": 0.1}], ids=str)
def test_what_stock_attention_lacks_is_exported_as_the_definition(arguments):
    calls = [masked_call(*size) for size in ((3, 5, 7), (2, 19, 23))]
    program = torch.export.export(Attention(**arguments), calls[0], dynamic_shapes=dims_of_masked_calls())
    assert not any("tanhmax" in name or "scaled_dot_product" in name for name in operators(program))


@pytest.mark.parametrize("shift", [None, "balanced"])
@pytest.mark.parametrize("polarity", [1.0, 0.0, 0.3, torch.tensor([1.0, 0.0, 0.2, 1.9])], ids=str)
def test_one_graph_serves_every_size_of_a_masked_call(polarity, shift):
    """The calls of other sizes too have a row that keeps no key."""
    calls = [masked_call(*size) for size in ((3, 5, 7), (2, 19, 23), (1, 2, 31))]
    model = Attention(polarity=polarity, shift=shift, is_causal="lower_right")
    program = torch.export.export(model, calls[0], dynamic_shapes=dims_of_masked_calls())
    targets = [str(node.target) for node in program.graph.nodes]
    softmax = not isinstance(polarity, torch.Tensor) and polarity == 0.0
    assert targets.count("aten.scaled_dot_product_attention.default") == (2 if shift and not softmax else 1)
    assert_the_same(program.module(), model, calls)
    assert not program.module()(*calls[1])[0, :, 1].any()
