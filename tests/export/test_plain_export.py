"""What is written for other runtimes holds torch's operators alone, and computes the same at every length, with padding and without."""

import pytest
import torch
from families import BACKBONES, images, right_padding, text, tiny_model
from masked_calls import Attention, assert_the_same, dims_of_masked_calls, masked_call, operators
from torch import nn
from torch.export import Dim
from transformers import DynamicCache

# Batch and length of the calls that an exported model is tried with; the first is its example.
SIZES = ((3, 20), (2, 7), (1, 31), (5, 16), (2, 17), (1, 5))
NAMES = {"bert": ("input_ids", "attention_mask"), "llama": ("input_ids", "attention_mask"), "vit": ("pixel_values",)}
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["sdpa", "eager"])
FAMILIES = pytest.mark.parametrize("family", BACKBONES)

# Of the exporters' own code, of attributes of a model that a tracer reads, and of what Transformers does to make masks.
EXPECTED = (
    ":torch.jit.TracerWarning",
    ":DeprecationWarning",
    ":FutureWarning",
    "# The axis name:UserWarning",
    "Exporting aten..index:UserWarning",
)
pytestmark = [pytest.mark.filterwarnings(f"ignore:{warning}") for warning in EXPECTED]


class LastState(nn.Module):
    """A model whose tensors come and go by position."""

    def __init__(self, model):
        super().__init__()
        self.model, self.names = model, NAMES[model.config.model_type.removeprefix("tanhmax_")]

    def forward(self, *tensors):
        options = {"use_cache": False} if self.model.config.model_type.endswith("llama") else {}
        return self.model(**dict(zip(self.names, tensors, strict=True)), **options).last_hidden_state


def exportable(family, implementation="sdpa"):
    """A model and calls of it, of which the first is the example."""
    model = LastState(tiny_model(BACKBONES[family], attn_implementation=implementation, num_hidden_layers=2)).eval()
    if family == "vit":
        return model, [(images(batch),) for batch, _ in SIZES]
    return model, [(text(*size), right_padding(*size)) for size in SIZES]


def dynamic(family):
    """The dimensions that change, by tensor."""
    batch, length = Dim("batch", min=1, max=64), Dim("length", min=2, max=64)
    return ({0: batch},) if family == "vit" else ({0: batch, 1: length},) * 2


@IMPLEMENTATIONS
@FAMILIES
@torch.no_grad()
def test_an_exported_program_serves_every_length(family, implementation):
    model, calls = exportable(family, implementation)
    program = torch.export.export(model, calls[0], dynamic_shapes=(dynamic(family),))
    assert not any("tanhmax" in name for name in operators(program))
    # Where no weights are asked for, a runtime finds the node of softmax attention, for which it has a kernel.
    assert ("aten.scaled_dot_product_attention.default" in operators(program)) == (implementation == "sdpa")
    assert_the_same(program.module(), model, calls, atol=1e-5, rtol=1e-4)


@FAMILIES
@torch.no_grad()
def test_a_traced_model_holds_nothing_of_this_package(family):
    model, calls = exportable(family)
    traced = torch.jit.trace(model, calls[0])
    assert "tanhmax::" not in str(traced.inlined_graph)
    assert_the_same(traced, model, calls, atol=1e-5, rtol=1e-4)


def test_compilation_keeps_the_operators_of_this_package():
    """Only what is written for other runtimes goes without them."""
    found = set()

    def backend(graph, _):
        found.update(str(node.target) for node in graph.graph.nodes)
        return graph

    model, calls = exportable("bert")
    with torch.no_grad():
        torch.compile(model, backend=backend, fullgraph=True)(*calls[0])
    assert any("fused_attention" in name for name in found)


@pytest.mark.slow
@FAMILIES
@torch.no_grad()
def test_a_library_by_aot_inductor(family, tmp_path):
    model, calls = exportable(family)
    program = torch.export.export(model, calls[0], dynamic_shapes=(dynamic(family),))
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    assert_the_same(torch._inductor.aoti_load_package(path), model, calls)


# ONNX

EXPORTERS = pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])


def onnx_function(model, example, path, *, dynamo, dims):
    """A model exported to a file, as a function that onnxruntime computes."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package} (pip install hf-tanhmax[test])")
    import onnxruntime

    names = [f"input_{index}" for index in range(len(example))]
    by_name = dict(zip(names, [{dim: str(symbol) for dim, symbol in each.items()} for each in dims], strict=True))
    shapes = {"dynamic_shapes": (dims,)} if dynamo else {"dynamic_axes": by_name}
    with torch.no_grad():
        torch.onnx.export(model, example, str(path), input_names=names, dynamo=dynamo, verbose=False, **shapes)
    model.eval()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(*tensors):
        found = [torch.from_numpy(item) for item in session.run(None, dict(zip(names, (item.numpy() for item in tensors), strict=True)))]
        return found[0] if len(found) == 1 else tuple(found)

    return run


@pytest.mark.slow
@EXPORTERS
@FAMILIES
def test_onnx(family, dynamo, tmp_path):
    model, calls = exportable(family)
    run = onnx_function(model, calls[0], tmp_path / "model.onnx", dynamo=dynamo, dims=dynamic(family))
    assert_the_same(run, model, calls)


class Spread(nn.Module):
    """A module of several tensors as one of a list of them, which is how `dynamic_shapes` counts `LastState`'s."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *tensors):
        return self.module(*tensors)


@pytest.mark.slow
@EXPORTERS
@pytest.mark.parametrize("arguments", [{}, {"polarity": 0.0}, {"polarity": 0.5, "softcap": 2.0}, {"is_causal": True, "window": 3}], ids=str)
def test_onnx_rows_without_keys_are_zero(arguments, dynamo, tmp_path):
    calls = [masked_call(*size) for size in ((3, 5, 7), (2, 19, 23), (1, 2, 31))]
    model = Spread(Attention(**arguments)).eval()
    run = onnx_function(model, calls[0], tmp_path / "attention.onnx", dynamo=dynamo, dims=dims_of_masked_calls())
    assert_the_same(run, model, calls)
    for call in calls:
        assert not run(*call)[0, :, 1].any()


class Step(nn.Module):
    """A causal model with its cache as tensors, `[batch, heads, length, head_dim]`, keys and values in turn."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, *past):
        cache = DynamicCache(config=self.model.config)
        for layer in range(self.model.config.num_hidden_layers):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        return (found.last_hidden_state, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values)))


@pytest.mark.slow
@EXPORTERS
def test_onnx_with_a_cache(dynamo, tmp_path):
    """Two new tokens behind a cache of any length, left padded."""
    model = Step(tiny_model(BACKBONES["llama"], num_hidden_layers=2)).eval()

    def call(batch, length):
        mask = torch.ones(batch, length + 2, dtype=torch.int64)
        mask[-1, :2] = 0
        return (text(batch, 2), mask, *(torch.randn(batch, 2, length, 6) for _ in range(4)))

    batch, past, total = Dim("batch", max=64), Dim("past", min=2, max=32), Dim.DYNAMIC
    dims = ({0: batch}, {0: batch, 1: total}, *({0: batch, 2: past} for _ in range(4)))
    calls = [call(*size) for size in ((3, 7), (2, 19), (1, 4))]
    run = onnx_function(Spread(model).eval(), calls[0], tmp_path / "step.onnx", dynamo=dynamo, dims=dims)
    assert_the_same(run, model, calls)
