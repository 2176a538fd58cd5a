"""Calibration of any architecture: what is done by default, that it comes closer to softmax, and that it can be saved and undone."""

import copy

import pytest
import torch
import transformers
from supported_models import ARCHITECTURES, DECODER, ENCODER, IMAGE, Architecture

import hf_tanhmax
from hf_tanhmax import convert, set_polarity, to_softmax
from hf_tanhmax.conversion import calibrate
from hf_tanhmax.conversion.projections import why_not_aligned
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.integration.registration import SCORE_BIAS, heads_of

T5 = {"vocab_size": 53, "d_model": 24, "d_kv": 6, "d_ff": 13, "num_heads": 4, "num_layers": 2, "initializer_factor": 1.0}
OTHERS = (
    Architecture("ALBERT", "AlbertModel", {**ENCODER, "embedding_size": 24}),
    Architecture("BioGPT", "BioGptModel", {**ENCODER, "bos_token_id": 1, "eos_token_id": 2}),
    Architecture("CLIP text", "CLIPTextModel", {**ENCODER, "eos_token_id": 2}),
    Architecture("CLIP vision", "CLIPVisionModel", IMAGE, "image"),
    Architecture("Cohere", "CohereModel", DECODER),
    Architecture("ESM", "EsmModel", {**ENCODER, "position_embedding_type": "rotary", "pad_token_id": 0}),
    Architecture("Gemma", "GemmaModel", {**DECODER, "head_dim": 6}),
    Architecture("Granite", "GraniteModel", DECODER),
    Architecture("GPT-NeoX", "GPTNeoXModel", {**ENCODER, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 32}),
    Architecture("LLaMA for text", "LlamaForCausalLM", DECODER),
    Architecture("OLMo", "OlmoModel", DECODER),
    Architecture("OLMo 2", "Olmo2Model", DECODER),
    Architecture("StableLM", "StableLmModel", {**DECODER, "hidden_size": 32}),
    Architecture("T5 encoder", "T5EncoderModel", T5),
)
CASES = {case.name: case for case in (*ARCHITECTURES, *OTHERS)}
ALIGNED = (
    "BERT",
    "RoBERTa",
    "ELECTRA",
    "DistilBERT",
    "ALBERT",
    "ViT",
    "DeiT",
    "DINOv2",
    "CLIP",
    "CLIP text",
    "CLIP vision",
    "BART",
    "BioGPT",
)
REFITTED = (
    *("ModernBERT", "ESM", "LLaMA", "LLaMA for text", "Mistral", "Qwen2", "Qwen3", "Gemma", "Granite", "Phi-3", "SmolLM3", "OLMo"),
    *("GPT-NeoX", "Cohere", "StableLM", "T5 encoder"),
)
NOT_REFITTED = {
    "T5": r"decoder\.block\.0, decoder\.block\.1 has no single attention module of its own",
    "Whisper": r'has no single attention module of its own \(one list alone can be: convert with layers=\["encoder\.layers"\]\)',
    "GPT-2": "the output projection of GPT2Attention is of class Conv1D and no nn.Linear, so it cannot be refitted",
    "Gemma 2": "Gemma2DecoderLayer does more with its input than to add to it what the output projection returns",
    "Gemma 3": "Gemma3DecoderLayer does more with its input than to add to it what the output projection returns",
    "OLMo 2": "Olmo2DecoderLayer does more with its input than to add to it what the output projection returns",
}


def trained(name):
    """A softmax model whose biases are as arbitrary as training leaves them."""
    model, generator = CASES[name].model("eager" if name == "Gemma 2" else "sdpa"), torch.Generator().manual_seed(3)
    for key, value in model.named_parameters():
        if key.endswith("bias"):
            value.data.normal_(0, 0.7, generator=generator)
    return model


def batches(name, count=10):
    data = CASES[name].example()
    generator = torch.Generator().manual_seed(5)
    moved = []
    for shift in range(count):
        batch = {key: value.roll(shift, -1) if key.endswith("_ids") else value for key, value in data.items()}
        for key in ("pixel_values", "input_features"):
            if key in batch:
                batch[key] = torch.randn(batch[key].shape, generator=generator)
        moved.append(batch)
    return moved


@torch.no_grad()
def outputs(model, batch):
    """All that a model computes, as one vector: real tokens are most of it."""
    found = model.eval()(**batch)
    return torch.cat([value.double().flatten() for value in found.values() if isinstance(value, torch.Tensor)])


def distance(model, name, wanted):
    return float((outputs(model, batches(name)[-1]) - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", ALIGNED)
def test_key_biases_are_aligned(name):
    """Nothing else changes: at polarity 0 it is the softmax model, at polarity 1 it is closer to it than it was."""
    softmax = trained(name)
    wanted = outputs(softmax, batches(name)[-1])
    before = distance(convert(copy.deepcopy(softmax)), name, wanted)
    model = convert(softmax)
    calibrate(model, batches(name))
    assert distance(model, name, wanted) < before
    if softmax.main_input_name != "pixel_values":  # of those that read images the default is a balanced shift
        assert model.config.tanhmax_settings == convert(copy.deepcopy(softmax), calibrate=batches(name)).config.tanhmax_settings
    set_polarity(model, 0.0)
    assert distance(model, name, wanted) < 1e-5


@pytest.mark.parametrize("name", REFITTED)
def test_any_other_gets_a_balanced_shift_and_a_refit(name, tmp_path):
    """It is closer to softmax than the shift alone, the same to the bit once it is saved, and the softmax model stays as it was."""
    softmax = trained(name)
    state = {key: value.clone() for key, value in softmax.state_dict().items()}
    wanted = outputs(softmax, batches(name)[-1])
    model = convert(softmax, shift="balanced", polarity=0.2)
    before = distance(model, name, wanted)
    model = convert(softmax, calibrate=batches(name))  # which shares no projection with it
    assert model.config.tanhmax_settings == hf_tanhmax.TanhMaxSettings(0.2, shift="balanced")
    assert distance(model, name, wanted) < before
    model.save_pretrained(tmp_path)
    again, loaded = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(outputs(again, batches(name)[-1]), outputs(model, batches(name)[-1]))
    torch.testing.assert_close(dict(softmax.state_dict()), state, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["LLaMA for text", "Qwen2", "Phi-3", "GPT-NeoX", "T5 encoder"])
def test_a_refit_is_undone(name):
    softmax = trained(name)
    state = {key: value.clone() for key, value in softmax.state_dict().items()}
    made = convert(copy.deepcopy(softmax), shift="balanced", polarity=0.2)
    report = calibrate(made, batches(name))
    assert report.refit is not None
    assert report.not_refitted is None
    back = to_softmax(made, originals=report.originals)
    torch.testing.assert_close(dict(back.state_dict()), state, atol=0, rtol=0)


@pytest.mark.parametrize("name", NOT_REFITTED)
def test_where_nothing_can_be_fitted_the_shift_is_measured_alone(name):
    """By default nothing is refused that the shift alone can do, and the report says why; what was asked for is refused."""
    softmax = trained(name)
    model = convert(copy.deepcopy(softmax), shift="balanced", polarity=0.2)
    report = calibrate(model, batches(name))
    assert report.refit is None
    assert report.alignment is None
    with pytest.raises(NotImplementedError, match=NOT_REFITTED[name]):
        raise NotImplementedError(report.not_refitted)
    assert report.not_refitted in report.describe()
    assert report.quality.rows > 0
    with pytest.raises(NotImplementedError, match=NOT_REFITTED[name]):
        convert(softmax, calibrate=batches(name), refit=True)
    assert convert(softmax, calibrate=batches(name)).config.tanhmax_settings == hf_tanhmax.TanhMaxSettings(0.2, shift="balanced")


def test_part_of_a_model_of_several_parts():
    """With `layers` one tower alone is aligned or refitted: the other's weights are as they were, and it computes softmax."""
    clip = trained("CLIP")
    before = {key: value.clone() for key, value in clip.state_dict().items()}
    model = convert(clip, layers=["vision_model"], calibrate=batches("CLIP"))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith("vision_model.encoder.layers") and key.endswith("bias") for key in changed)
    whisper = trained("Whisper")
    wanted = outputs(whisper.encoder, {"input_features": batches("Whisper")[-1]["input_features"]})
    shifted = convert(copy.deepcopy(whisper), layers=["encoder"], shift="balanced", polarity=0.2)
    model = convert(whisper, layers=["encoder"], calibrate=batches("Whisper"))
    assert model.config.tanhmax_refitted_polarity["layers"] == ["encoder"]
    far, near = (
        (outputs(each.encoder, {"input_features": batches("Whisper")[-1]["input_features"]}) - wanted).norm() for each in (shifted, model)
    )
    assert near < far


def test_the_language_model_of_another(tmp_path):
    """Its cache is asked for by a config of its own; its biases are, too, and go again with the refit."""
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**DECODER),
        vision_config=transformers.CLIPVisionConfig(**IMAGE),
        image_token_id=3,
    )
    softmax = transformers.LlavaForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(5)
    data = [{"input_ids": torch.randint(4, 53, (6, 11), generator=generator)} for _ in range(20)]
    model = convert(copy.deepcopy(softmax), layers=["language_model"], shift="balanced", polarity=0.2)
    report = calibrate(model, data)
    assert report.refit.layers == ("model.language_model.layers.0", "model.language_model.layers.1")
    assert report.quality.kl_after < report.quality.kl_before
    assert model.config.text_config.attention_bias
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(outputs(again, data[0]), outputs(model, data[0]))
    back = to_softmax(model, originals=report.originals)
    torch.testing.assert_close(dict(back.state_dict()), dict(softmax.state_dict()), atol=0, rtol=0)
    assert not back.config.text_config.attention_bias


@pytest.mark.parametrize("layers", [["encoder"], [0, 1]], ids=["by name", "by number"])
def test_part_of_a_model_is_refitted_and_loaded(layers, tmp_path):
    """Two of four layers, which are not all although the config's `num_hidden_layers`, the encoder's, is 2."""
    model = convert(trained("Whisper"), layers=layers, calibrate=batches("Whisper"))
    assert model.config.tanhmax_refitted_polarity["layers"] == list(model.config.tanhmax_layers)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path)
    assert torch.equal(outputs(again, batches("Whisper")[0]), outputs(model, batches("Whisper")[0]))
    with pytest.raises(ValueError, match=r"polarity 0\.0 was asked for, but the projections of this model were refitted to polarity 0\.2"):
        set_polarity(again, 0.0)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("LLaMA", "LlamaAttention rotates its keys by their positions"),
        ("ESM", "EsmSelfAttention rotates its keys by their positions"),
        ("Whisper", "the key projection of WhisperAttention has no bias, which aligning changes"),
        ("Phi-3", "Phi3Attention rotates its keys by their positions"),
        ("GPT-2", r"GPT2Attention has no key projection of its own \(it joins it with others in c_attn\)"),
        ("T5", "the key projection of T5Attention has no bias"),
    ],
)
def test_why_a_model_cannot_be_aligned(name, why):
    with torch.device("meta"):
        model = CASES[name].model("sdpa")
    with pytest.raises(NotImplementedError, match=why):
        raise NotImplementedError(why_not_aligned(model))
    assert why_not_aligned(CASES["BERT"].model("sdpa")) is None


def test_keys_that_are_normalised_or_shared():
    model = CASES["BERT"].model("sdpa")
    module = attention_modules(model)[0]
    module.k_norm = torch.nn.LayerNorm(6)
    assert why_not_aligned(model).startswith("BertSelfAttention changes what its projections return (k_norm), so it cannot be aligned")
    module.k_norm = torch.nn.Identity()
    assert why_not_aligned(model) is None
    module.key = torch.nn.Linear(24, 12)
    assert why_not_aligned(model).startswith("query heads of BertSelfAttention share keys, so no key bias is one head's own")


def test_scores_that_are_capped():
    """So that aligning, which would be refused at the first batch, is not what is done by default."""
    if not hasattr(transformers, "VideoPrismVisionModel"):
        pytest.skip(f"Transformers {transformers.__version__} has no VideoPrism")
    kept = {**CASES["ViT"].values, "num_spatial_layers": 1, "num_temporal_layers": 1, "num_frames": 1}
    with torch.device("meta"):
        model = transformers.VideoPrismVisionModel(transformers.VideoPrismVisionConfig(**kept))
    assert why_not_aligned(model).startswith("VideoPrismAttention caps its scores, so a key bias is no constant of a row")
    for module in attention_modules(model):
        module.attn_logit_softcapping = None
    assert why_not_aligned(model) is None


@pytest.mark.parametrize("name", ["BERT", "DistilBERT", "GPT-2", "GPT-NeoX", "ModernBERT", "Phi-3", "T5", "BART", "CLIP"])
def test_heads_are_counted_as_attention_has_them(name):
    model = convert(trained(name), polarity="learned")
    outputs(model, batches(name)[0])  # which refuses score biases of another number
    assert all(getattr(module, SCORE_BIAS).shape == (4,) for module in attention_modules(model))


def test_a_decoder_may_have_another_number_of_heads():
    """Its config's `num_attention_heads` is the encoder's; DETR's modules say the size of a head alone."""
    values = {**CASES["BART"].values, "decoder_attention_heads": 2}
    model = transformers.BartModel(transformers.BartConfig(**values))
    assert {heads_of(module) for module in attention_modules(model.encoder)} == {4}
    assert {heads_of(module) for module in attention_modules(model.decoder)} == {2}
    config = transformers.ConditionalDetrConfig(
        d_model=24, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=2
    )
    from transformers.models.conditional_detr.modeling_conditional_detr import ConditionalDetrDecoderLayer

    with torch.device("meta"):
        layer = ConditionalDetrDecoderLayer(config)
    assert {heads_of(module) for module in attention_modules(layer)} == {2}


def test_a_module_that_does_not_say_how_many_heads_it_has():
    model = CASES["BERT"].model("sdpa")
    module = attention_modules(model)[0]
    del module.num_attention_heads
    module.config = transformers.PreTrainedConfig()
    with pytest.raises(ValueError, match="cannot tell how many heads BertSelfAttention has, as neither it nor its config says so by"):
        heads_of(module)
