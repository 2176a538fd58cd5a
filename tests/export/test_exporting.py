"""Files of other runtimes: each runs, at sizes that it was not traced with, and says how far it is from the live model."""

import copy
import importlib.metadata
import json
from importlib import import_module

import pytest
import torch
from families import tiny_model
from transformers import BertConfig, BertModel, MistralConfig, MistralForCausalLM

import hf_tanhmax
from hf_tanhmax.cli import checks
from hf_tanhmax.export import FORMATS, ExportError, export_model
from hf_tanhmax.export.exporting import OURS, REPORT
from hf_tanhmax.export.inputs import random_inputs

MODELS = {
    "bert": hf_tanhmax.TanhMaxBertForSequenceClassification,
    "vit": hf_tanhmax.TanhMaxViTForImageClassification,
    "llama": hf_tanhmax.TanhMaxLlamaForCausalLM,
}
SETTINGS = {
    "tanhmax": {},
    "balanced": {"tanhmax_shift": "balanced", "tanhmax_polarity": 0.5},
    "learned": {"tanhmax_polarity": "learned", "tanhmax_score_bias": 0.4},
}
# Of packages that exporters import, and of the exporters of Transformers about themselves.
pytestmark = [pytest.mark.filterwarnings("ignore")]


def packages(name):
    try:
        import_module("transformers.exporters.runners")
    except ImportError:
        pytest.skip("needs Transformers 5.23 or newer")
    for package in FORMATS[name].needs:
        pytest.importorskip(package, reason=f"needs {package} (pip install hf-tanhmax[{name}])")


def model_of(family, settings="tanhmax", **changes):
    return tiny_model(MODELS[family], num_hidden_layers=2, **SETTINGS[settings], **changes).eval()


def reloaded(folder):
    saved = import_module("transformers.exporters").ExportedModel
    return saved.from_pretrained(folder, trust_remote_code=True)  # a pickle, in the format torch


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("family", "settings"), [("bert", "tanhmax"), ("bert", "learned"), ("vit", "balanced"), ("llama", "learned")])
def test_files_compute_what_the_model_does(name, family, settings, tmp_path):
    packages(name)
    model = model_of(family, settings)
    report = export_model(model, tmp_path / "out", format=name)
    assert report.largest_difference < 1e-4
    assert {each["component"] for each in report.checks} == ({"prefill", "decode"} if family == "llama" else {"model"})
    assert len({(each["batch"], each["length"]) for each in report.checks}) > 3
    if name != "executorch":  # which hides them
        nodes = 2 if settings == "balanced" else 1
        assert all(graph["attention_nodes"] == nodes * report.attentions for graph in report.graphs.values())
    manifest = json.loads((tmp_path / "out" / REPORT).read_text())
    assert manifest[OURS]["largest_difference"] == report.largest_difference
    assert manifest[OURS]["versions"]["torch"] == importlib.metadata.version("torch")
    found = reloaded(tmp_path / "out")
    assert found.config.tanhmax_settings == model.config.tanhmax_settings
    if family != "llama" and name != "openvino":  # whose CPU may round to half precision unless it is told otherwise
        inputs = random_inputs(model, 5, 8)
        with torch.no_grad():
            torch.testing.assert_close(found(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
@torch.no_grad()
def test_decoding_goes_on_from_its_own_cache(settings, tmp_path):
    """Every step's cache is what the graph returned at the step before, of rows padded to the left."""
    packages("onnx")
    model = model_of("llama", settings)
    model.get_input_embeddings().weight[0] = 0.3  # that of padding is 0, whose rounding a norm would blow up
    export_model(model, tmp_path / "out")
    runners = reloaded(tmp_path / "out").runners
    inputs = random_inputs(model, 2, 7)
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    expected = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)
    cache = import_module("transformers").DynamicCache(config=model.config)
    positions, stage, written = (mask.cumsum(-1) - 1).clamp(min=0), "prefill", tokens
    for _ in range(6):
        names = runners[stage].metadata.kwargs
        given = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions, "past_key_values": cache, "cache": cache}
        found = runners[stage](**{name: value for name, value in given.items() if name in names})
        cache = found["cache"] if "cache" in found else found["past_key_values"]
        tokens, mask = found.logits[:, -1:].argmax(-1), torch.cat([mask, mask.new_ones(2, 1)], 1)
        positions, stage, written = mask.sum(-1, keepdim=True) - 1, "decode", torch.cat([written, tokens], 1)
    assert torch.equal(written, expected)


@pytest.mark.slow
def test_int8_is_written_beside_and_compared(tmp_path):
    packages("onnx")
    model = model_of("bert")
    report = export_model(model, tmp_path / "out", int8=True)
    whole, small = ((tmp_path / "out" / name).stat().st_size for name in ("model.onnx.data", "model_quantized.onnx"))
    assert small
    assert whole
    differences = [each["difference"] for each in report.int8]
    assert 1e-4 < max(differences) < 1.0
    session = import_module("onnxruntime").InferenceSession(str(tmp_path / "out" / "model_quantized.onnx"))
    assert "input_ids" in {each.name for each in session.get_inputs()}


@pytest.mark.slow
def test_the_model_is_as_it_was(tmp_path):
    model = model_of("vit").train()
    packages("torch")
    before = copy.deepcopy(model.state_dict())
    export_model(model, tmp_path / "out", format="torch")
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


# What is refused


class Untraceable(torch.nn.Module):
    """A layer whose output depends on what its input holds."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, hidden):
        return self.module(hidden) if hidden.sum().item() > 0 else self.module(-hidden)


def test_a_model_that_cannot_be_exported_whole(tmp_path):
    packages("torch")
    model = model_of("bert")
    layer = model.tanhmax_bert.encoder.layer[1] if hasattr(model, "tanhmax_bert") else model.bert.encoder.layer[1]
    layer.intermediate.dense = Untraceable(layer.intermediate.dense)
    with pytest.raises(
        ExportError, match=r"cannot be exported whole: it fails in its \S*encoder\.layer\.1\.intermediate\.dense \(Untraceable\)"
    ):
        export_model(model, tmp_path / "out", format="torch")
    assert not (tmp_path / "out").exists()


def test_softmax_is_not_exported_as_tanhmax(tmp_path):
    packages("torch")
    softmax = BertModel(BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8, vocab_size=11))
    with pytest.raises(ValueError, match=r"a BertModel computes softmax, .* convert it first: hf-tanhmax convert SOURCE OUT"):
        export_model(softmax, tmp_path / "out", format="torch")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "onxx"}, ValueError, "there is no format 'onxx'; choose from onnx, openvino, executorch, torch"),
        ({"format": "torch", "int8": True}, ValueError, "int8 is of ONNX alone, but the format is 'torch'"),
        ({"format": "torch", "opset": 23}, ValueError, "opset is of ONNX alone, but the format is 'torch'"),
        ({"format": "torch", "with_past": True}, ValueError, "does not generate, so it has no past to export"),
    ],
)
def test_options_that_do_not_go_together(options, error, message, tmp_path):
    packages("torch")
    with pytest.raises(error, match=message):
        export_model(model_of("bert"), tmp_path / "out", **options)


def test_nothing_is_overwritten(tmp_path):
    packages("torch")
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(ValueError, match="is there already and not an empty folder; name one that is new"):
        export_model(model_of("bert"), tmp_path, format="torch")


def test_what_is_no_model_is_refused(tmp_path):
    packages("torch")
    with pytest.raises(TypeError, match="export takes a model of Transformers, but got Linear"):
        export_model(torch.nn.Linear(2, 2), tmp_path / "out", format="torch")


def test_the_command_knows_the_same_formats():
    assert tuple(FORMATS) == checks.FORMATS


def test_a_cache_that_a_window_cuts_off_is_refused(tmp_path):
    """Its decoding would be right up to the window and wrong after it, at lengths that no check at export reaches."""
    packages("torch")
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = MistralForCausalLM(MistralConfig(vocab_size=64, sliding_window=40, **size))
    hf_tanhmax.use_tanhmax(model)
    with pytest.raises(ValueError, match=r"forgets what is behind its window .* export it without a cache: with_past=False"):
        export_model(model, tmp_path / "out", format="torch")
    assert not (tmp_path / "out").exists()
