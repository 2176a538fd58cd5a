"""Architectures that add a mask of their own or a position bias to the scores: hidden keys carry no weight, and polarity 0 is softmax.

Found in `transformers/models/*/modeling_*.py` by what is added near attention: -100, -1e4, -1e9, `finfo(..).min`, `position_bias`,
`relative_position_bias`. Those that compute softmax themselves are refused, and listed as such.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers
from families import NAIVE, assert_same, differ, run, text

from hf_tanhmax import TanhMaxSettings, restore, tanhmax_attention, use_tanhmax
from hf_tanhmax.integration import registration

HIDDEN = -20.0  # nothing that these add on purpose, with random weights, is this low

T5 = {"vocab_size": 53, "d_model": 24, "d_kv": 6, "d_ff": 13, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2}
LAYERS = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 13, "initializer_range": 0.3}
BEIT = {**LAYERS, "image_size": 15, "patch_size": 5}
SPEECH = {**LAYERS, "vocab_size": 53, "conv_depthwise_kernel_size": 3}
BERT_SPEECH = {**SPEECH, "feature_projection_input_dim": 10}
CONFORMER = {**SPEECH, "conv_dim": [8, 8], "conv_stride": [2, 2], "conv_kernel": [3, 3], "num_conv_pos_embedding_groups": 2}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [2], "num_heads": [2], "window_size": 4, "initializer_range": 0.3}
GRID = {"patch_size": 1, "image_size": 8, "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4}
CLAP = {"spec_size": 32, "num_mel_bins": 8, "patch_size": 4, "patch_stride": [4, 4], "window_size": 2, "patch_embeds_hidden_size": 8}
CLAP |= {"depths": [2, 2], "num_attention_heads": [2, 2], "hidden_size": 16}


def padding(length=7):
    mask = torch.ones(2, 11, dtype=torch.int64)
    mask[1, length:] = 0
    return mask


def inputs(kind):
    """Inputs of a kind, the same at every call."""
    generator = torch.Generator().manual_seed(11)
    words = {"input_ids": text(), "attention_mask": padding()}
    both = {**words, "decoder_input_ids": text()[:, :7]}
    waves = torch.ones(2, 64, dtype=torch.int64)
    waves[1, 40:] = 0
    return {
        "text": words,
        "text to text": both,
        "document": {**both, "bbox": torch.rand(2, 11, 4, generator=generator)},
        "page": {**words, "xpath_tags_seq": torch.zeros(2, 11, 50).long(), "xpath_subs_seq": torch.zeros(2, 11, 50).long()},
        "image 15": {"pixel_values": torch.randn(2, 3, 15, 15, generator=generator)},
        "image 16": {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)},
        "image 8": {"pixel_values": torch.randn(2, 3, 8, 8, generator=generator)},
        "sound": {"input_features": torch.randn(2, 1, 32, 8, generator=generator)},
        "frames": {"input_features": torch.randn(2, 11, 10, generator=generator), "attention_mask": padding()},
        # Blocks of 4 frames, of which none is all padding, as softmax would give that one equal shares, and TanhMax none.
        "wide frames": {"input_features": torch.randn(2, 11, 40, generator=generator), "attention_mask": padding(9)},
        "waves": {"input_values": torch.randn(2, 64, generator=generator), "attention_mask": waves},
    }[kind]


@dataclass(frozen=True)
class Architecture:
    """A tiny model, its inputs, and whether the lowest number that it adds hides a key (`hides`) or only fades it."""

    name: str
    cls: str
    values: dict[str, Any] = field(repr=False)
    inputs: str
    hides: bool = True

    def model(self, attn_implementation="eager"):
        torch.manual_seed(0)
        cls = getattr(transformers, self.cls, None)
        if cls is None:
            pytest.skip(f"this Transformers has no {self.cls}")
        return cls(cls.config_class(**self.values, attn_implementation=attn_implementation)).eval()


ASKING = [
    Architecture("Swin", "SwinModel", SWIN, "image 16"),
    Architecture("BEiT", "BeitModel", {**BEIT, "use_relative_position_bias": True}, "image 15", hides=False),
    Architecture("BEiT, shared", "BeitModel", {**BEIT, "use_shared_relative_position_bias": True}, "image 15", hides=False),
    Architecture("MarkupLM", "MarkupLMModel", {**LAYERS, "vocab_size": 53, "xpath_unit_hidden_size": 3}, "page"),
    Architecture("T5", "T5Model", T5, "text to text"),
    Architecture("mT5", "MT5Model", T5, "text to text"),
    Architecture("UMT5", "UMT5Model", T5, "text to text"),
    Architecture("Switch", "SwitchTransformersModel", {**T5, "num_experts": 2, "expert_capacity": 8}, "text to text"),
    Architecture("Pop2Piano", "Pop2PianoForConditionalGeneration", T5, "text to text"),
    Architecture("UDOP", "UdopModel", {**T5, "image_size": 8, "patch_size": 4}, "document"),
    Architecture(
        "Pix2Struct",
        "Pix2StructTextModel",
        {"vocab_size": 53, "hidden_size": 24, "d_kv": 6, "d_ff": 13, "num_heads": 4, "num_layers": 2, "initializer_range": 0.3},
        "text",
    ),
    Architecture(
        "Granite Speech", "GraniteSpeech5Encoder", {**LAYERS, "num_mel_bins": 10, "context_size": 4, "subsample_layers": []}, "wide frames"
    ),
    Architecture("Wav2Vec2-BERT, keys", "Wav2Vec2BertModel", {**BERT_SPEECH, "position_embeddings_type": "relative_key"}, "frames"),
    Architecture("Wav2Vec2-BERT", "Wav2Vec2BertModel", {**BERT_SPEECH, "position_embeddings_type": "relative"}, "frames"),
    Architecture("Wav2Vec2-Conformer", "Wav2Vec2ConformerModel", {**CONFORMER, "position_embeddings_type": "relative"}, "waves"),
]
BYPASSING = [
    Architecture("Swin v2", "Swinv2Model", SWIN, "image 16"),
    Architecture("Swin2SR", "Swin2SRModel", GRID, "image 8"),
    Architecture("Donut-Swin", "DonutSwinModel", GRID, "image 8"),
    Architecture("MaskFormer-Swin", "MaskFormerSwinModel", GRID, "image 8"),
    Architecture("CLAP", "ClapAudioModel", CLAP, "sound"),
    Architecture("Data2Vec", "Data2VecVisionModel", {**BEIT, "use_relative_position_bias": True}, "image 15"),
    Architecture("LongT5, local", "LongT5Model", {**T5, "local_radius": 3}, "text to text"),
    Architecture("LongT5", "LongT5Model", {**T5, "local_radius": 3, "encoder_attention_type": "transient-global"}, "text to text"),
]


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


@pytest.fixture
def calls(monkeypatch):
    """The additive mask of each call, where it hides a key, and the weights, all `[batch, heads, queries, keys]`."""
    found = []

    def recorded(query, key, value, **arguments):
        asked = {**arguments, "return_weights": True}
        _, weights = tanhmax_attention(query, key, value, **asked)
        mask, keep = arguments["additive_mask"], arguments["keep"]
        hidden = torch.zeros_like(weights, dtype=torch.bool) if keep is None else ~keep.expand_as(weights)
        found.append((mask, hidden if mask is None else hidden | (mask <= HIDDEN), weights))
        return tanhmax_attention(query, key, value, **arguments)

    monkeypatch.setattr(registration, "tanhmax_attention", recorded)
    return found


@named(ASKING)
def test_hidden_keys_carry_no_weight(case, calls):
    model = case.model()
    assert use_tanhmax(model) >= 2
    run(model, inputs(case.inputs))
    masks = [mask for mask, _, _ in calls if mask is not None]
    assert masks, "nothing was added, so nothing is tested"
    assert any(hidden.any() for _, hidden, _ in calls) is case.hides
    for _, hidden, weights in calls:
        assert weights.isfinite().all()
        assert weights[hidden].abs().sum() < 1e-6


@named(ASKING)
def test_polarity_0_is_the_unpatched_model_and_polarity_1_the_definition(case):
    model, given = case.model(), inputs(case.inputs)
    softmax = run(model, given)
    use_tanhmax(model, TanhMaxSettings(polarity=0.0))
    assert_same(run(model, given), softmax, atol=1e-5, rtol=1e-4)
    restore(model)
    use_tanhmax(model)
    signed = run(model, given)
    assert differ(signed, softmax)
    assert_same(signed, run(case.model(NAIVE), given), atol=1e-4, rtol=1e-3)


@named(ASKING)
def test_what_is_added_learns(case):
    """A position bias that is a parameter gets its gradient through the function: at polarity 0 that of the unpatched model."""
    model = case.model()
    learned = [item for name, item in model.named_parameters() if "relative_position_bias" in name or "relative_attention_bias" in name]
    if not learned:
        pytest.skip("what it adds has no parameters of its own")

    def gradients():
        output = next(item for item in model(**inputs(case.inputs)).values() if isinstance(item, torch.Tensor))
        uneven = torch.linspace(0.0, 50.0, output.numel()).sin().view_as(output)  # the sum of squares of what is normed is no loss
        return torch.autograd.grad((output * uneven).sum(), learned, allow_unused=True)

    expected = gradients()
    use_tanhmax(model, TanhMaxSettings(polarity=0.0))
    for found, stock in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, stock, rtol=1e-3, atol=1e-4 * (0.0 if stock is None else stock.abs().max().item()))
    restore(model)
    use_tanhmax(model)
    assert all(item.abs().sum() > 0 for item in gradients() if item is not None)


@named(BYPASSING)
def test_what_computes_softmax_itself_is_refused(case):
    try:
        assert use_tanhmax(case.model()) >= 1, "no refusal: it asks the attention interface now"
    except ValueError as refusal:
        assert "compute softmax themselves" in str(refusal) or "would stay softmax" in str(refusal)  # noqa: PT017
