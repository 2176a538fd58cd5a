"""Models of several parts: their settings are held by the root's config, and reach every part, or those that are named."""

import copy
import pickle

import pytest
import torch
import transformers
from families import run

import hf_tanhmax
from hf_tanhmax.integration.patching import ConfigView, attention_modules, softmax_parts

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 13}
PARTS = {"text_config": {**SIZES, "vocab_size": 50, "eos_token_id": 2}, "vision_config": {**SIZES, "image_size": 16, "patch_size": 8}}
TEXT, VISION, ALL = 2, 2, 4  # attention modules


def clip(**changes):
    torch.manual_seed(0)
    return transformers.CLIPModel(transformers.CLIPConfig(**PARTS, projection_dim=8, **changes)).eval()


def clip_inputs():
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(3, 50, (2, 7), generator=generator)
    return {"input_ids": tokens, "pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}


def t5():
    torch.manual_seed(0)
    sizes = {"d_model": 24, "d_kv": 8, "d_ff": 13, "num_layers": 2, "num_heads": 3, "vocab_size": 50, "decoder_start_token_id": 0}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).eval()


def polarities(model):
    return [module.config.tanhmax_polarity if isinstance(module.config, ConfigView) else 0.0 for module in attention_modules(model)]


def embeddings(model):
    found = run(model, clip_inputs())
    return found.text_embeds, found.image_embeds


def test_polarity_zero_is_softmax_in_every_part():
    softmax = clip()
    for wanted, found in zip(embeddings(softmax), embeddings(hf_tanhmax.convert(softmax, polarity=0.0)), strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_the_polarity_is_set_in_every_part_and_saved(tmp_path):
    model = hf_tanhmax.convert(clip(), polarity=1.0)
    before = embeddings(model)
    hf_tanhmax.set_polarity(model, 0.25)
    assert polarities(model) == [0.25] * ALL
    assert not any(torch.equal(one, other) for one, other in zip(before, embeddings(model), strict=True))
    model.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert polarities(again) == [0.25] * ALL
    assert all(torch.equal(one, other) for one, other in zip(embeddings(model), embeddings(again), strict=True))


@pytest.mark.parametrize(
    ("layers", "text", "vision"),
    [
        (["vision_model"], [0, 0], [1, 1]),
        (["text_model.*.layers.1"], [0, 1], [0, 0]),
        (["text_model.*.self_attn", 2], [1, 1], [1, 0]),
        (["layers.?"], [1, 1], [1, 1]),
        ([3], [0, 0], [0, 1]),
    ],
)
def test_layers_by_name(layers, text, vision, tmp_path):
    softmax = clip()
    model = hf_tanhmax.convert(softmax, layers=layers)
    assert polarities(model) == [*text, *vision]
    for tower, chosen in enumerate((text, vision)):
        assert torch.allclose(embeddings(softmax)[tower], embeddings(model)[tower], atol=1e-6) != any(chosen)
    model.save_pretrained(tmp_path)
    assert polarities(transformers.AutoModel.from_pretrained(tmp_path)) == [*text, *vision]


def test_a_name_of_no_layer():
    with pytest.raises(ValueError, match=r"no attention module of 'clip' is in 'audio_model': they are in text_model.*, vision_model"):
        hf_tanhmax.use_tanhmax(clip(), hf_tanhmax.TanhMaxSettings(layers=["audio_model"]))


def test_a_part_of_a_word_is_no_name():
    with pytest.raises(ValueError, match="no attention module of 'clip' is in 'vision'"):
        hf_tanhmax.convert(clip(), layers=["vision"])


def test_self_and_cross_attention_by_name():
    model = hf_tanhmax.convert(t5(), layers=["EncDecAttention"])
    chosen = [name for name, module in model.named_modules() if isinstance(getattr(module, "config", None), ConfigView)]
    assert chosen == [f"decoder.block.{layer}.layer.1.EncDecAttention" for layer in (0, 1)]


def test_an_encoder_decoder_keeps_one_polarity_in_both_stacks(tmp_path):
    """T5 gives each stack a copy of the config; the settings are still those of the root."""
    model = hf_tanhmax.convert(t5(), polarity=1.0)
    hf_tanhmax.set_polarity(model, 0.5)
    assert set(polarities(model)) == {0.5}
    assert model.config.tanhmax_polarity == 0.5
    assert set(polarities(copy.deepcopy(model))) == set(polarities(pickle.loads(pickle.dumps(model)))) == {0.5}
    model.save_pretrained(tmp_path)
    assert set(polarities(transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path))) == {0.5}


def test_a_copy_has_settings_of_its_own():
    model = hf_tanhmax.convert(clip(), polarity=1.0)
    twin = copy.deepcopy(model)
    hf_tanhmax.set_polarity(twin, 0.0)
    assert polarities(model) == [1.0] * ALL
    assert polarities(twin) == [0.0] * ALL


class Pooled(transformers.BertModel):
    """A model with a part that computes softmax by itself."""

    def __init__(self, config):
        super().__init__(config, add_pooling_layer=False)
        self.pooling = torch.nn.MultiheadAttention(config.hidden_size, 3)
        self.post_init()


def pooled():
    return Pooled(transformers.BertConfig(**SIZES, vocab_size=50))


def test_a_part_that_stays_softmax_is_refused_or_accepted_by_name():
    with pytest.raises(ValueError, match=r"part of 'bert' would stay softmax: Multihead.*softmax_parts=\('MultiheadAttention',\)"):
        hf_tanhmax.use_tanhmax(pooled())
    for accepted in ("MultiheadAttention", "pooling", "pool*"):
        assert hf_tanhmax.use_tanhmax(pooled(), hf_tanhmax.TanhMaxSettings(softmax_parts=[accepted])) == 2
    assert softmax_parts(pooled()) == {"MultiheadAttention": ["pooling"]}


def test_softmax_parts_that_are_not_there():
    settings = hf_tanhmax.TanhMaxSettings(softmax_parts=["resampler"])
    with pytest.raises(ValueError, match=r"softmax_parts names 'resampler', but there is no such part .*those of 'bert' are Multihead"):
        hf_tanhmax.use_tanhmax(pooled(), settings)
    with pytest.raises(ValueError, match="'clip' has none"):
        hf_tanhmax.convert(clip(), softmax_parts=["resampler"])


def bart(cls="BartForConditionalGeneration"):
    sizes = {"d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3, "decoder_attention_heads": 3}
    config = transformers.BartConfig(**sizes, encoder_ffn_dim=13, decoder_ffn_dim=13, vocab_size=50, max_position_embeddings=20)
    torch.manual_seed(0)
    return getattr(transformers, cls)(config).eval()


def test_a_part_alone_would_be_loaded_as_softmax_and_is_not_saved(tmp_path):
    model = hf_tanhmax.convert(clip())
    for whole in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(
            ValueError, match=r"this CLIPVision.* is a part of a TanhMaxCLIPModel, .* loaded as a softmax model: save the whole"
        ):
            whole.vision_model.save_pretrained(tmp_path)
    half = hf_tanhmax.convert(clip(), layers=["text_model"])
    half.vision_model.save_pretrained(tmp_path)  # which is softmax
    hf_tanhmax.TanhMaxBertModel(hf_tanhmax.TanhMaxBertConfig(**SIZES, vocab_size=50)).encoder  # noqa: B018


def test_layers_that_were_counted_are_those_for_another_head(tmp_path):
    """The first layer of BART is one of its encoder; of its causal head it would be one of the decoder."""
    model = hf_tanhmax.convert(bart(), layers=[0])
    assert list(model.config.tanhmax_layers) == ["encoder.layers.0"]
    model.save_pretrained(tmp_path)
    assert polarities(transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)) == polarities(model)
    with pytest.raises(ValueError, match="no attention module of 'bart' is in 'encoder"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_part_that_is_loaded_alone_has_the_settings_of_the_whole(tmp_path):
    hf_tanhmax.convert(clip(), polarity=0.25).save_pretrained(tmp_path)
    part = hf_tanhmax.TanhMaxCLIPVisionModel.from_pretrained(tmp_path)
    assert set(polarities(part)) == {0.25}


def test_parts_that_are_tanhmax_already_are_not_converted(tmp_path):
    whole = transformers.EncoderDecoderModel(
        transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
            *(hf_tanhmax.TanhMaxBertConfig(**SIZES, vocab_size=50) for _ in range(2))
        )
    )
    whole.save_pretrained(tmp_path)
    for source in (whole, str(tmp_path)):
        with pytest.raises(ValueError, match=r"the encoder of .* is a TanhMax model already \(tanhmax_bert\)"):
            hf_tanhmax.convert(source, polarity=0.5)


def test_what_is_frozen_stays_so():
    softmax = clip()
    softmax.text_model.requires_grad_(False)
    model = hf_tanhmax.convert(softmax, polarity=0.0)
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {
        name for name, value in softmax.named_parameters() if value.requires_grad
    }


def test_a_new_head_beside_the_parts_of_a_backbone(tmp_path, caplog):
    clip().save_pretrained(tmp_path)
    model = hf_tanhmax.convert(tmp_path, transformers.AutoModelForImageClassification, polarity=0.0)
    assert type(model).__name__ == "TanhMaxCLIPForImageClassification"
    assert "has no weights for classifier" in caplog.text


@pytest.mark.parametrize(
    ("thing", "name"), [(None, "NoneType"), (transformers.BertModel, "type"), (transformers.BertConfig(), "BertConfig")]
)
def test_things_that_are_no_model(thing, name):
    with pytest.raises(TypeError, match=f"convert takes a name, a folder or a live model of Transformers, but got {name}"):
        hf_tanhmax.convert(thing)
