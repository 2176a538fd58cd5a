"""What every TanhMax class has: the fields of a config, and what the decorator makes of an upstream class."""

import inspect
import json
import pickle
import re
from pathlib import Path

import pytest
import torch
import transformers
from families import (
    BACKBONES,
    CONFIGS,
    LAYERS,
    TINY,
    UPSTREAM_CONFIGS,
    assert_same,
    auto_heads,
    differ,
    heads,
    inputs_for,
    naive_twin,
    run,
    softmax_twin,
    tensors_of,
    tiny_config,
    tiny_model,
)
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

import hf_tanhmax
from hf_tanhmax import TanhMaxSettings
from hf_tanhmax.integration import patching
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.integration.registration import SCORE_BIAS
from hf_tanhmax.models.family import ASKED_TYPES

every_family = pytest.mark.parametrize("family", TINY)
every_head = pytest.mark.parametrize(("family", "auto", "upstream"), heads(), ids=[f"{auto}-{upstream}" for _, auto, upstream in heads()])


def cls_of(upstream):
    return getattr(hf_tanhmax, f"TanhMax{upstream}")


# Configs


@every_family
def test_fields_round_trip(family, tmp_path):
    config = tiny_config(family, tanhmax_polarity=0.5, tanhmax_layers=[0, 2], tanhmax_heads=[1], tanhmax_score_bias=2.5)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is CONFIGS[family]
    assert again.to_dict() | {"_name_or_path": ""} == config.to_dict() | {"_name_or_path": ""}
    assert again.tanhmax_settings == TanhMaxSettings(polarity=0.5, layers=(0, 2), heads=(1,), score_bias=2.5)


@every_family
def test_a_shift_is_written_only_where_there_is_one(family, tmp_path):
    """So a config without one is, to the byte, what it was before there were any; a null is none."""
    for shift in (None, "balanced"):
        model = tiny_model(BACKBONES[family], tanhmax_shift=shift, tanhmax_polarity=0.3)
        model.save_pretrained(tmp_path)
        written = json.loads((tmp_path / "config.json").read_text())
        assert written.get("tanhmax_shift", "absent") == (shift or "absent")
        assert ("tanhmax_shift" in json.loads(model.config.to_json_string(use_diff=False))) is (shift is not None)
        assert AutoConfig.from_pretrained(tmp_path).tanhmax_settings == TanhMaxSettings(polarity=0.3, shift=shift)
        again = BACKBONES[family].from_pretrained(tmp_path)
        assert_same(run(again, inputs_for(family)), run(model, inputs_for(family)), atol=0, rtol=0)
    (tmp_path / "config.json").write_text(json.dumps(written | {"tanhmax_shift": None}))
    assert AutoConfig.from_pretrained(tmp_path).tanhmax_settings.shift is None


@every_family
@pytest.mark.parametrize("polarity", [0, 1, 0.25, "learned"])
def test_polarity_round_trips(family, polarity, tmp_path):
    tiny_config(family, tanhmax_polarity=polarity).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).tanhmax_polarity == polarity


@every_family
def test_repr_shows_every_field(family):
    config, upstream = tiny_config(family), tiny_config(family, upstream=True)
    shown = repr(config)
    assert shown.startswith(type(config).__name__)
    for field in upstream.to_dict():
        assert f'"{field}"' in shown or f'"{field}"' not in repr(upstream)
    for field in ("polarity", "layers", "heads", "score_bias"):
        assert f'"tanhmax_{field}"' in shown


@every_family
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tanhmax_polarity": 1.5}, r"polarity must be in \[0, 1\] \(0 is softmax, 1 is TanhMax\), but is 1.5"),
        ({"tanhmax_polarity": -0.5}, r"polarity must be in \[0, 1\] .* but is -0.5"),
        ({"tanhmax_polarity": "signed"}, "polarity must be a number in .* or \"learned\", but is 'signed'"),
        ({"tanhmax_polarity": True}, "tanhmax_polarity"),
        ({"tanhmax_polarity": None}, "tanhmax_polarity"),
        ({"tanhmax_polarity": [1.0]}, "tanhmax_polarity"),
        ({"tanhmax_layers": 3}, "tanhmax_layers"),
        ({"tanhmax_layers": "01"}, "tanhmax_layers"),
        ({"tanhmax_layers": []}, "layers must name at least one index"),
        ({"tanhmax_layers": [-1]}, "layers must hold indices counted from 0, but holds -1"),
        ({"tanhmax_layers": [1, 1]}, "layers names an index twice"),
        ({"tanhmax_layers": [0.5]}, "tanhmax_layers"),
        ({"tanhmax_heads": [-2]}, "heads must hold indices counted from 0, but holds -2"),
        ({"tanhmax_score_bias": 41}, "score_bias must be between -40 and 40, but is 41"),
        ({"tanhmax_score_bias": "3"}, "tanhmax_score_bias"),
        ({"tanhmax_shift": "centred"}, "shift must be None or \"balanced\", but is 'centred'"),
        ({"tanhmax_shift": 1}, "tanhmax_shift"),
    ],
    ids=str,
)
def test_configs_are_strict(family, values, message):
    with pytest.raises((StrictDataclassError, ValueError, TypeError), match=message):
        tiny_config(family, **values)


@every_family
def test_upstream_checks_still_hold(family):
    with pytest.raises(StrictDataclassError, match="hidden_size"):
        tiny_config(family, hidden_size="wide")


@every_family
@pytest.mark.parametrize(
    ("values", "message"), [({"tanhmax_layers": [3]}, "there is no layer 3"), ({"tanhmax_heads": [4]}, "there is no head 4")]
)
def test_what_only_a_model_can_refuse(family, values, message):
    with pytest.raises(ValueError, match=message):
        BACKBONES[family](tiny_config(family, **values))


@every_family
@pytest.mark.parametrize(("label", "stock"), [("tanhmax", "sdpa"), ("tanhmax_eager", "eager")])
def test_our_names_are_other_words_for_the_stock_names(family, label, stock):
    """Taken as they are, they would make TanhMax of the layers that stay softmax."""
    config = tiny_config(family, attn_implementation=label, tanhmax_layers=[1])
    assert config._attn_implementation == stock
    wanted = run(tiny_model(BACKBONES[family], tanhmax_layers=[1]), inputs_for(family))
    for model in (
        tiny_model(BACKBONES[family], attn_implementation=label, tanhmax_layers=[1]),
        tiny_model(BACKBONES[family], tanhmax_layers=[1]),
    ):
        model.set_attn_implementation(label)
        assert model.config._attn_implementation == stock
        assert_same(run(model, inputs_for(family)), wanted)


# Classes


@every_head
def test_class_keeps_what_transformers_reads_off_it(family, auto, upstream):
    cls, base = cls_of(upstream), getattr(transformers, upstream)
    assert cls.__mro__[1] is base
    assert cls.config_class is CONFIGS[family]
    assert cls.__annotations__["config"] is CONFIGS[family]
    assert inspect.signature(cls.__init__) == inspect.signature(base.__init__)
    assert not cls._supports_flash_attn
    assert not cls._supports_flex_attn
    assert cls._supports_sdpa
    assert cls.base_model_prefix == base.base_model_prefix
    assert cls.main_input_name == base.main_input_name


@every_head
def test_head_computes_tanhmax(family, auto, upstream):
    model, inputs = tiny_model(cls_of(upstream)), inputs_for(family, auto, labels=True)
    assert len(attention_modules(model)) == LAYERS
    found = run(model, inputs)
    assert_same(found, run(naive_twin(model), inputs))
    assert differ(found, run(softmax_twin(model), inputs), by=1e-4)


@every_head
def test_head_trains(family, auto, upstream):
    cls, inputs = cls_of(upstream), inputs_for(family, auto, labels=True)
    model = tiny_model(cls).train()
    twin = softmax_twin(model).train()
    found, native = model(**inputs), twin(**inputs)
    assert type(found) is type(native)
    assert getattr(model, "loss_type", None) == getattr(twin, "loss_type", None)
    assert model.loss_function.__name__ == twin.loss_function.__name__
    if auto in ("AutoModel", "AutoModelForTextEncoding"):
        assert "loss" not in found
    else:
        assert found.loss.dim() == 0
    for output in (found, native):
        (output.loss if output.get("loss") is not None else sum(each.square().sum() for each in tensors_of(output))).backward()
    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    assert trained == {name for name, value in twin.named_parameters() if value.grad is not None}
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)
    attention = attention_modules(model)[0]
    assert all(value.grad.abs().max() > 0 for name, value in attention.named_parameters() if name.endswith("weight"))


@every_head
@pytest.mark.parametrize("polarity", [1.0, "learned"])
def test_head_saves_and_reloads(family, auto, upstream, polarity, tmp_path):
    cls, inputs = cls_of(upstream), inputs_for(family, auto)
    changes = {"is_decoder": True} if upstream == "BertLMHeadModel" else {}
    model = tiny_model(cls, tanhmax_polarity=polarity, tanhmax_layers=[0, 2], **changes)
    if polarity == "learned":
        for module in attention_modules(model):
            if getattr(module, SCORE_BIAS, None) is not None:
                torch.nn.init.uniform_(getattr(module, SCORE_BIAS), 0.1, 2.0)
    model.save_pretrained(tmp_path)
    again, report = getattr(transformers, auto).from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is cls
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.config.model_type == CONFIGS[family].model_type
    assert again.config.architectures == [cls.__name__]
    assert_same(run(again, inputs), run(model, inputs), atol=1e-6, rtol=1e-5)


@every_family
def test_backbone_of_every_head_is_a_checkpoint_of_the_backbone(family, tmp_path):
    """`AutoModel` reads what any head saved; not LLaMA's question answering, which names its backbone differently upstream."""
    for auto, upstream in auto_heads(family).items():
        if upstream is transformers.LlamaForQuestionAnswering:
            assert upstream.base_model_prefix != transformers.LlamaForCausalLM.base_model_prefix
            continue
        model = tiny_model(cls_of(upstream.__name__))
        model.save_pretrained(tmp_path / auto)
        backbone, report = transformers.AutoModel.from_pretrained(tmp_path / auto, output_loading_info=True)
        assert type(backbone) is BACKBONES[family]
        assert [key for key in report["missing_keys"] if "pooler" not in key] == []
        for name, value in backbone.state_dict().items():
            if "pooler" not in name and "mask_token" not in name:
                torch.testing.assert_close(value, model.base_model.state_dict()[name], atol=0, rtol=0)


@every_family
def test_learned_polarity_starts_where_the_config_says_when_a_checkpoint_lacks_it(family, tmp_path):
    softmax = softmax_twin(tiny_model(BACKBONES[family]))
    softmax.save_pretrained(tmp_path)
    config = tiny_config(family, tanhmax_polarity="learned", tanhmax_score_bias=1.25, tanhmax_layers=[0, 2])
    model, report = BACKBONES[family].from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert len(report["missing_keys"]) == 2
    assert all(key.endswith(SCORE_BIAS) for key in report["missing_keys"])
    for key in report["missing_keys"]:
        torch.testing.assert_close(model.get_parameter(key).data, torch.full((config.num_attention_heads,), 1.25))
    wanted = tiny_model(BACKBONES[family], tanhmax_polarity="learned", tanhmax_score_bias=1.25, tanhmax_layers=[0, 2])
    assert_same(run(model, inputs_for(family)), run(wanted, inputs_for(family)))


@every_family
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(family, dtype, tmp_path):
    tiny_model(BACKBONES[family], tanhmax_polarity="learned").save_pretrained(tmp_path)
    model = BACKBONES[family].from_pretrained(tmp_path, dtype=dtype)
    for name, value in model.named_parameters():  # a learned score bias keeps its digits
        assert value.dtype == (torch.float32 if name.endswith(SCORE_BIAS) else dtype)
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs_for(family).items()}
    found = run(model, inputs).last_hidden_state
    assert found.dtype == dtype
    assert torch.isfinite(found).all()


@every_family
def test_upstream_family_is_untouched(family):
    """The decorator writes on our class alone."""
    upstream = BACKBONES[family].__mro__[1]
    assert upstream.config_class is UPSTREAM_CONFIGS[family]
    assert upstream._supports_flash_attn
    assert not issubclass(UPSTREAM_CONFIGS[family], hf_tanhmax.models.family.TanhMaxFields)
    assert issubclass(CONFIGS[family], PreTrainedConfig)
    assert tiny_config(family, upstream=True, attn_implementation="tanhmax")._attn_implementation == "tanhmax"


def test_types_that_transformers_asks_for_by_name():
    """What its pipelines and `generate` compare a model type with is found in their code, and answers to both names."""
    root = Path(transformers.__file__).parent
    code = "\n".join(path.read_text() for folder in ("pipelines", "generation") for path in sorted((root / folder).rglob("*.py")))
    compared = re.findall(r"(?<!_)\bconfig\.model_type (?:==|!=|in|not in) (\"[^\"]*\"|\([^)]*\)|\[[^\]]*\])", code)
    asked = {name for names in compared for name in re.findall(r'"([\w-]+)"', names)}
    assert "whisper" in asked
    assert asked <= ASKED_TYPES


def test_a_type_that_is_asked_for_answers_to_both_names():
    config = AutoConfig.for_model("tanhmax_whisper")
    for model_type in (config.model_type, type(config).model_type, pickle.loads(pickle.dumps(config.model_type))):
        assert model_type == "whisper"
        assert model_type == "tanhmax_whisper"
        assert (model_type != "whisper") is False
        assert model_type != "bert"
        assert json.dumps(model_type) == '"tanhmax_whisper"'
        assert model_type not in {"whisper": 1}
        assert model_type in {"tanhmax_whisper": 1}
    assert AutoConfig.for_model("tanhmax_bert").model_type != "bert"


def test_a_type_from_a_file_is_the_types_own(tmp_path):
    AutoConfig.for_model("tanhmax_whisper").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "tanhmax_whisper"
    config = AutoConfig.from_pretrained(tmp_path)
    assert "model_type" not in vars(config)
    assert config.model_type == "whisper"


def test_each_layer_is_asked_as_often_whatever_their_number(tmp_path, monkeypatch):
    """While a checkpoint is loaded: of eighty layers that asked for each other, loading took ten seconds."""
    asked, facts = [], patching.attention_facts
    monkeypatch.setattr(patching, "attention_facts", lambda module: asked.append(module) or facts(module))
    counts = []
    for layers in (2, 4, 6):
        tiny_model(hf_tanhmax.TanhMaxLlamaModel, num_hidden_layers=layers).save_pretrained(tmp_path / str(layers))
        asked.clear()
        hf_tanhmax.TanhMaxLlamaModel.from_pretrained(tmp_path / str(layers))
        counts.append(len(asked))
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0
