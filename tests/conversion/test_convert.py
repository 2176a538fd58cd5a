"""From softmax to TanhMax and back: the same weights, the same numbers at polarity 0, and no broken checkpoint in silence."""

import json
import logging

import pytest
import torch
import transformers
from families import (
    BACKBONES,
    CONFIGS,
    LAYERS,
    TINY,
    assert_same,
    differ,
    heads,
    images,
    inputs_for,
    naive_twin,
    real_weights,
    run,
    text,
    tiny_config,
    tiny_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedImageModeling, AutoModelForSequenceClassification

import hf_tanhmax
from hf_tanhmax import TanhMaxSettings, convert, set_polarity, to_softmax, use_tanhmax
from hf_tanhmax.conversion.calibration.calibrate import split
from hf_tanhmax.conversion.convert import _warn_uncalibrated
from hf_tanhmax.conversion.gauge import align
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.integration.registration import SCORE_BIAS
from hf_tanhmax.models.remote_code import auto_map

UPSTREAM = {"bert": transformers.BertModel, "vit": transformers.ViTModel, "llama": transformers.LlamaModel}
every_family = pytest.mark.parametrize("family", TINY)
every_head = pytest.mark.parametrize(("family", "auto", "upstream"), heads(), ids=[f"{auto}-{upstream}" for _, auto, upstream in heads()])
EXACT = {"atol": 1e-6, "rtol": 1e-5}


def saved(model, folder):
    model.save_pretrained(folder)
    return str(folder)


# By name


@every_head
def test_a_checkpoint_by_name(family, auto, upstream, tmp_path):
    softmax = tiny_model(getattr(transformers, upstream))
    name, inputs = saved(softmax, tmp_path / "softmax"), inputs_for(family, auto)
    model = convert(name, getattr(transformers, auto), polarity=0.0)
    assert type(model) is getattr(hf_tanhmax, f"TanhMax{upstream}")
    assert not model.training
    assert_same(run(model, inputs), run(softmax, inputs))
    set_polarity(model, 1.0)
    found = run(model, inputs)
    assert_same(found, run(naive_twin(model), inputs))
    again, report = getattr(transformers, auto).from_pretrained(saved(model, tmp_path / "tanhmax"), output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(run(again, inputs), found, **EXACT)


@every_family
def test_the_class_that_was_saved_is_the_default(family, tmp_path):
    upstream = {"bert": "BertForMaskedLM", "vit": "ViTForImageClassification", "llama": "LlamaForCausalLM"}[family]
    name = saved(tiny_model(getattr(transformers, upstream)), tmp_path)
    assert type(convert(name)) is getattr(hf_tanhmax, f"TanhMax{upstream}")


@every_family
def test_identity_is_ours(family, tmp_path):
    """Model type, architectures and auto_map belong to the origin; everything else comes along."""
    source = tiny_model(UPSTREAM[family])
    source.config.auto_map = {"AutoModel": "somewhere.Else"}
    name = saved(source, tmp_path / "softmax")
    model = convert(name, polarity=0.25, layers=[2, 0], heads=[1])
    written = json.loads((tmp_path / "tanhmax" / "config.json").read_text()) if saved(model, tmp_path / "tanhmax") else {}
    assert model.config.model_type == written["model_type"] == f"tanhmax_{family}"
    assert written["architectures"] == [BACKBONES[family].__name__]
    assert written["auto_map"] == auto_map(f"tanhmax_{family}")
    assert model.config.tanhmax_settings == TanhMaxSettings(polarity=0.25, layers=(0, 2), heads=(1,))
    for field, value in TINY[family].items():
        assert getattr(model.config, field) == value


@every_family
def test_a_balanced_shift_comes_along_and_is_softmax_at_polarity_0(family, tmp_path):
    source, inputs = tiny_model(UPSTREAM[family]), inputs_for(family)
    name = saved(source, tmp_path / "softmax")
    assert_same(run(convert(name, polarity=0.0, shift="balanced"), inputs), run(source, inputs))
    model = convert(source, polarity=0.2, shift="balanced")
    again = AutoModel.from_pretrained(saved(model, tmp_path / "tanhmax"))
    assert again.config.tanhmax_settings == TanhMaxSettings(polarity=0.2, shift="balanced")
    assert_same(run(again, inputs), run(model, inputs), **EXACT)
    assert_same(run(model, inputs), run(naive_twin(model, balanced=0.2), inputs))
    back = hf_tanhmax.to_softmax(model)
    assert not hasattr(back.config, "tanhmax_shift")


def test_a_new_head_is_new_and_logged(tmp_path, caplog):
    name = saved(tiny_model(transformers.BertModel), tmp_path)
    with caplog.at_level("WARNING", logger="hf_tanhmax"):
        model = convert(name, AutoModelForSequenceClassification, num_labels=5)
    assert model.classifier.weight.shape == (5, 21)
    assert "has no weights for classifier.bias, classifier.weight: they are new, so train before use" in caplog.text


def test_a_mask_token_may_be_new(tmp_path):
    name = saved(tiny_model(transformers.ViTForImageClassification), tmp_path)
    assert convert(name, AutoModelForMaskedImageModeling).vit.embeddings.mask_token is not None


def test_arguments_for_loading_are_passed_on(tmp_path):
    name = saved(tiny_model(transformers.LlamaForCausalLM), tmp_path)
    model = convert(name, AutoModelForCausalLM, dtype=torch.bfloat16, attn_implementation="eager")
    assert model.dtype == torch.bfloat16
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"
    assert run(model, inputs_for("llama"), output_attentions=True).attentions[0].min() < 0


@every_family
def test_learned_polarity(family, tmp_path):
    softmax = tiny_model(UPSTREAM[family])
    model = convert(saved(softmax, tmp_path / "softmax"), polarity="learned", score_bias=20.0)
    biases = [value for name, value in model.named_parameters() if name.endswith(SCORE_BIAS)]
    assert len(biases) == LAYERS
    assert all((value == 20.0).all() for value in biases)
    assert_same(run(model, inputs_for(family)), run(softmax, inputs_for(family)))
    with torch.no_grad():
        biases[1].copy_(torch.linspace(0.1, 0.5, len(biases[1])))
    again = AutoModel.from_pretrained(saved(model, tmp_path / "learned"))
    assert_same(run(again, inputs_for(family)), run(model, inputs_for(family)), **EXACT)


def test_score_biases_are_said_to_be_missing_only_where_they_were_to_be(tmp_path, caplog):
    """No softmax checkpoint has any; one of a learned polarity that was written without them does not compute what was trained."""
    softmax = tiny_model(UPSTREAM["bert"])
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        convert(softmax, polarity="learned")
        model = convert(saved(softmax, tmp_path / "softmax"), polarity="learned")
        assert not caplog.text
        weights = {name: value for name, value in model.state_dict().items() if not name.endswith(SCORE_BIAS)}
        model.save_pretrained(tmp_path / "without", state_dict=weights)
        _, report = AutoModel.from_pretrained(tmp_path / "without", output_loading_info=True)
        assert len(report["missing_keys"]) == LAYERS
        assert SCORE_BIAS in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


# Live models


@every_family
@pytest.mark.parametrize("training", [True, False])
def test_a_live_model(family, training):
    source = tiny_model(UPSTREAM[family]).train(training)
    model = convert(source, polarity=0.0)
    assert type(model) is BACKBONES[family]
    assert model.training == training
    assert type(source) is UPSTREAM[family]
    ours, theirs = dict(model.named_parameters()), dict(source.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
    assert all(value.requires_grad for value in ours.values())
    assert_same(run(model, inputs_for(family)), run(source, inputs_for(family)))


@every_family
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_is_kept(family, dtype):
    model = convert(tiny_model(UPSTREAM[family]).to(dtype))
    assert {value.dtype for value in model.parameters()} == {dtype}
    assert {value.dtype for value in to_softmax(model).parameters()} == {dtype}


def test_construction_is_kept():
    bert = convert(transformers.BertModel(tiny_config("bert", upstream=True), add_pooling_layer=False))
    assert bert.pooler is None
    vit = convert(transformers.ViTModel(tiny_config("vit", upstream=True), add_pooling_layer=False, use_mask_token=True))
    assert vit.pooler is None
    assert vit.embeddings.mask_token is not None


def test_tied_weights_stay_tied():
    source = tiny_model(transformers.LlamaForCausalLM, tie_word_embeddings=True)
    model = convert(source)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    back = to_softmax(model)
    assert back.lm_head.weight is back.model.embed_tokens.weight
    masked = convert(tiny_model(transformers.BertForMaskedLM))
    assert masked.cls.predictions.decoder.weight is masked.bert.embeddings.word_embeddings.weight


def test_generation_config_is_kept(tmp_path):
    source = tiny_model(transformers.LlamaForCausalLM)
    source.generation_config.max_new_tokens = 7
    source.generation_config.pad_token_id = 0
    for model in (convert(source), convert(saved(source, tmp_path / "softmax"))):
        assert model.generation_config.max_new_tokens == 7
        assert model.can_generate()
    assert to_softmax(model).generation_config.max_new_tokens == 7
    assert AutoModelForCausalLM.from_pretrained(saved(model, tmp_path / "tanhmax")).generation_config.max_new_tokens == 7


@every_family
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_implementation_is_kept(family, implementation):
    model = convert(tiny_model(UPSTREAM[family], attn_implementation=implementation))
    assert model.config._attn_implementation == implementation
    assert to_softmax(model).config._attn_implementation == implementation


@every_family
def test_a_patched_model_converts_to_its_class(family):
    """What a patched model computes is not saved with it; converting is how to keep it."""
    source = tiny_model(UPSTREAM[family])
    use_tanhmax(source)
    assert_same(run(convert(source), inputs_for(family)), run(source, inputs_for(family)))


# Back


@every_head
def test_to_softmax(family, auto, upstream, tmp_path):
    softmax, inputs = tiny_model(getattr(transformers, upstream)), inputs_for(family, auto)
    model = convert(softmax)
    back = to_softmax(model)
    assert type(back) is getattr(transformers, upstream)
    assert not any(key.startswith("tanhmax") for key in back.config.to_dict())
    assert back.config.model_type == family
    assert_same(run(back, inputs), run(softmax, inputs), atol=0, rtol=0)
    again, report = getattr(transformers, auto).from_pretrained(saved(back, tmp_path), output_loading_info=True)
    assert type(again) is type(back)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("label", ["tanhmax", "tanhmax_eager"])
def test_to_softmax_is_softmax_whatever_the_label_was(label):
    softmax = tiny_model(transformers.BertModel)
    model = convert(softmax)
    model.set_attn_implementation(label)
    assert_same(run(to_softmax(model), inputs_for("bert")), run(softmax, inputs_for("bert")))


# What is refused


@every_family
def test_truncated_files(family, tmp_path):
    name = saved(tiny_model(UPSTREAM[family]), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Exception, match=r"(?i)incomplete|invalid|metadata|safetensors"):
        convert(name)


@every_family
def test_renamed_weights(family, tmp_path):
    name = saved(tiny_model(UPSTREAM[family]), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {key.replace("layer.1.", "block.1.").replace("layers.1.", "blocks.1."): value for key, value in weights.items()}
    assert renamed.keys() != weights.keys()
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks \d+ weights of its backbone, for example .*1.*; is the file whole\?"):
        convert(name)


@every_family
def test_weights_without_a_place(family, tmp_path):
    name = saved(tiny_model(UPSTREAM[family]), tmp_path)
    tiny_config(family, upstream=True, num_hidden_layers=LAYERS - 1, architectures=[UPSTREAM[family].__name__]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has \d+ weights that its config has no place for, for example .*2"):
        convert(name)


@every_family
def test_weights_of_other_shapes(family, tmp_path):
    name = saved(tiny_model(UPSTREAM[family]), tmp_path)
    tiny_config(family, upstream=True, intermediate_size=17, architectures=[UPSTREAM[family].__name__]).save_pretrained(tmp_path)
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)shape|mismatch"):
        convert(name)
    with pytest.raises(ValueError, match="has weights of other shapes than its config says"):
        convert(name, ignore_mismatched_sizes=True)


def test_what_is_tanhmax_already(tmp_path):
    model = tiny_model(hf_tanhmax.TanhMaxBertModel)
    with pytest.raises(ValueError, match=r"is a TanhMax checkpoint already \(tanhmax_bert\); load it with AutoModel.from_pretrained"):
        convert(saved(model, tmp_path))
    with pytest.raises(ValueError, match=r"TanhMaxBertModel is a TanhMax class already; set its polarity with hf_tanhmax.set_polarity"):
        convert(model)


def test_a_checkpoint_that_does_not_say_its_class(tmp_path):
    name = saved(tiny_model(transformers.BertModel), tmp_path)
    tiny_config("bert", upstream=True).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"does not say its class \(architectures: .*\); pass auto_class, such as AutoModel"):
        convert(name)
    assert type(convert(name, AutoModel)) is hf_tanhmax.TanhMaxBertModel


def test_arguments_beside_a_live_model():
    for arguments in ({"auto_class": AutoModel}, {"dtype": torch.bfloat16}):
        with pytest.raises(TypeError, match="a live model has its class and weights already; pass a name"):
            convert(tiny_model(transformers.BertModel), **arguments)


def test_settings_out_of_range():
    with pytest.raises(ValueError, match=r"polarity must be in \[0, 1\]"):
        convert(tiny_model(transformers.BertModel), polarity=2.0)
    with pytest.raises(ValueError, match="there is no layer 3"):
        convert(tiny_model(transformers.BertModel), layers=[3])


def test_to_softmax_of_other_models():
    with pytest.raises(ValueError, match=r"BertModel is not a TanhMax class; for a patched live model use hf_tanhmax.restore"):
        to_softmax(tiny_model(transformers.BertModel))
    with pytest.raises(ValueError, match="has learned score biases, which a softmax model has no place for"):
        to_softmax(tiny_model(hf_tanhmax.TanhMaxBertModel, tanhmax_polarity="learned"))


# Real weights


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("family", TINY)
def test_real_weights_are_exact_at_polarity_zero(family, tmp_path):
    name = real_weights(family)
    softmax, model = (
        AutoModel.from_pretrained(name, dtype=torch.float32).eval(),
        convert(name, AutoModel, polarity=0.0, dtype=torch.float32),
    )
    assert type(model) is BACKBONES[family]
    size = getattr(model.config, "image_size", None)
    inputs = {"pixel_values": images(1, size)} if family == "vit" else {"input_ids": text(2, 29, vocabulary=1000)}
    wanted = run(softmax, inputs)
    scale = wanted.last_hidden_state.abs().max()
    assert_same([run(model, inputs).last_hidden_state / scale], [wanted.last_hidden_state / scale], atol=1e-5, rtol=1e-4)
    set_polarity(model, 1.0)
    assert differ([run(model, inputs).last_hidden_state], [wanted.last_hidden_state], by=0.05)
    again, report = AutoModel.from_pretrained(saved(model, tmp_path), output_loading_info=True)
    assert type(again) is BACKBONES[family]
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert len(attention_modules(again)) == model.config.num_hidden_layers
    assert isinstance(again.config, CONFIGS[family])


@pytest.mark.slow
@pytest.mark.weights
def test_real_language_model_is_exact_at_polarity_zero():
    name = real_weights("llama")
    softmax, model = AutoModelForCausalLM.from_pretrained(name), convert(name, polarity=0.0)
    assert type(model) is hf_tanhmax.TanhMaxLlamaForCausalLM
    prompt = transformers.AutoTokenizer.from_pretrained(name)("The capital of France is", return_tensors="pt")
    found, wanted = (each.generate(**prompt, max_new_tokens=8, do_sample=False) for each in (model, softmax))
    assert torch.equal(found, wanted)
    set_polarity(model, 1.0)
    assert not torch.equal(model.generate(**prompt, max_new_tokens=8, do_sample=False), wanted)


# Calibrated


def unlabelled(family):
    if family == "vit":
        return [{"pixel_values": images(4)}]
    return [{"input_ids": text(5, 9)}, {"input_ids": text(5, 11)[:, :7]}]


@pytest.mark.parametrize("family", ["bert", "vit"])
@pytest.mark.parametrize("live", [False, True], ids=["by name", "live"])
def test_aligned(family, live, tmp_path, caplog):
    """It is at polarity 1, with the biases that `align` gives; at polarity 0 it computes what it computed."""
    softmax = tiny_model(UPSTREAM[family])
    want, source = run(softmax, inputs_for(family)), softmax if live else saved(softmax, tmp_path)
    plain = convert(tiny_model(UPSTREAM[family]), layers=[0, 2])
    align(plain, split(unlabelled(family)).fitted, balance=0.4)
    caplog.clear()
    model = convert(source, layers=[0, 2], calibrate=unlabelled(family), balance=0.4, polarity=1.0)
    assert "polarity above 0" not in caplog.text
    assert model.config.tanhmax_settings == TanhMaxSettings(layers=(0, 2))
    assert_same(run(model, inputs_for(family)), run(plain, inputs_for(family)), **EXACT)
    set_polarity(model, 0.0)
    assert_same(run(model, inputs_for(family)), want)
    if live:
        assert_same(run(softmax, inputs_for(family)), want)


@pytest.mark.parametrize("family", ["bert", "vit", "llama"])
@pytest.mark.parametrize("live", [False, True], ids=["by name", "live"])
def test_refitted(family, live, tmp_path, caplog):
    """LLaMA and ViT get a balanced shift and a refit by default; a live model stays as it is, though it shared its weights."""
    softmax = tiny_model(UPSTREAM[family])
    want, source = run(softmax, inputs_for(family)), softmax if live else saved(softmax, tmp_path)
    data = [{"pixel_values": images(40)}] if family == "vit" else [{"input_ids": text(5, 9).roll(shift)} for shift in range(4)]
    options = {"refit": True, "transfer_steps": 2} if family == "bert" else {}
    model = convert(source, calibrate=data, balance=0.3, **options)
    polarity, shift = (1.0, None) if family == "bert" else (0.3, "balanced")
    assert model.config.tanhmax_settings == TanhMaxSettings(polarity, shift=shift)
    assert model.config.tanhmax_refitted_polarity == {"polarity": polarity, "shift": shift, "layers": None, "heads": None}
    assert not differ(run(softmax, inputs_for(family)), want, by=1e-4)
    assert differ(run(model, inputs_for(family)), want, by=1e-3)
    with pytest.raises(ValueError, match=r"polarity 0\.0 was asked for, but the projections of this model were refitted to"):
        set_polarity(model, 0.0)


def test_a_balanced_shift_is_calibrated_for_any_family():
    data = [{"input_ids": text(5, 9).roll(shift)} for shift in range(4)]
    model = convert(tiny_model(transformers.BertModel), shift="balanced", polarity=0.3, calibrate=data)
    assert model.config.tanhmax_settings == TanhMaxSettings(0.3, shift="balanced")
    assert model.config.tanhmax_refitted_polarity["polarity"] == 0.3
    only = convert(tiny_model(transformers.LlamaModel), calibrate=data, refit=False, transfer_steps=2)
    assert only.config.tanhmax_settings == TanhMaxSettings(0.2, shift="balanced")
    assert not only.config.attention_bias


def test_half_precision_is_calibrated_too():
    data = [{"input_ids": text(5, 9).roll(shift)} for shift in range(4)]
    for cls, options in ((transformers.BertModel, {"transfer_steps": 2, "refit": True}), (transformers.LlamaForCausalLM, {})):
        model = convert(tiny_model(cls).bfloat16(), calibrate=data, **options)
        assert {value.dtype for value in model.parameters()} == {torch.bfloat16}


def test_what_cannot_be_calibrated(tmp_path):
    bert, data = tiny_model(transformers.BertModel), unlabelled("bert")
    llama = tiny_model(transformers.LlamaModel)
    name = saved(llama, tmp_path)
    (tmp_path / "model.safetensors").unlink()  # it is refused before weights are read
    for source in (llama, name):
        with pytest.raises(ValueError, match="a balanced shift balances every row by itself, so there is nothing to calibrate but output"):
            convert(source, calibrate=data, refit=False)
        with pytest.raises(ValueError, match="polarity 0 is softmax, so there is nothing to calibrate"):
            convert(source, calibrate=data, polarity=0.0)
        with pytest.raises(ValueError, match=r"polarity and balance are one number, but are 0\.3 and 0\.4; pass one of them"):
            convert(source, calibrate=data, polarity=0.3, balance=0.4)
    with pytest.raises(ValueError, match="a learned polarity starts close to softmax, so there is nothing to calibrate"):
        convert(bert, polarity="learned", calibrate=data)


@pytest.mark.parametrize("rotary", [False, True])
def test_a_polarity_above_0_without_calibration_is_warned_of_once(rotary, caplog):
    _warn_uncalibrated.cache_clear()
    cls = transformers.LlamaModel if rotary else transformers.BertModel
    convert(tiny_model(cls), polarity=0.0)
    convert(tiny_model(cls), polarity="learned")
    convert(tiny_model(cls), polarity=0.2, shift="balanced")
    assert "polarity" not in caplog.text
    for polarity in (0.5, 1.0):
        convert(tiny_model(cls), polarity=polarity)
    assert sum(record.name.startswith("hf_tanhmax") for record in caplog.records) == 1
    assert "an encoder loses some of its accuracy even when it is trained again, and a language model writes noise" in caplog.text
    wanted = 'calibrate=inputs, which takes shift="balanced" at polarity 0.2' if rotary else "calibrate=inputs, which aligns biases"
    assert wanted in caplog.text
