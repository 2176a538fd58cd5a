"""Where architectures keep their key, value and output projections: each can be aligned, or is refused in a sentence."""

import pytest
import torch
import transformers
from families import text, tiny_model
from transformers import AutoModel

import hf_tanhmax
from hf_tanhmax.conversion.gauge import align
from hf_tanhmax.conversion.projections import find_projections, modules_to_align
from hf_tanhmax.integration.patching import attention_modules

SMALL = {"vocab_size": 53, "hidden_size": 24, "intermediate_size": 13, "num_attention_heads": 3, "num_hidden_layers": 2}
TEXTS = {
    "roberta": SMALL,
    "electra": {**SMALL, "embedding_size": 24},
    "distilbert": {"vocab_size": 53, "dim": 24, "hidden_dim": 13, "n_heads": 3, "n_layers": 2},
    "clip_text_model": SMALL,
    "bart": {
        "vocab_size": 53,
        "d_model": 24,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 3,
        "decoder_attention_heads": 3,
        "encoder_ffn_dim": 13,
        "decoder_ffn_dim": 13,
    },
}


def architecture(kind, **changes):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**TEXTS.get(kind, SMALL), **changes})
    model = AutoModel.from_config(config).double().eval()
    for value in model.parameters():
        value.data.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("kind", TEXTS)
def test_other_architectures_are_aligned_too(kind):
    model, data = architecture(kind), {"input_ids": text(6, 9)}
    with torch.no_grad():
        before = model(**data).last_hidden_state
    report = align(model, [data])
    with torch.no_grad():
        torch.testing.assert_close(model(**data).last_hidden_state, before, atol=1e-9, rtol=1e-9)
    assert report.cosine_after > report.cosine_before
    assert len(report.residual) == len(attention_modules(model))


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("gpt2", r"GPT2Attention has no key projection of its own \(it joins it with others in c_attn\), so it cannot be aligned"),
        ("whisper", "the key projection of WhisperAttention has no bias"),
        ("qwen2", "Qwen2Attention rotates its keys by their positions"),
    ],
)
def test_those_that_cannot_be(kind, error):
    model = tiny_of(kind)
    with pytest.raises(NotImplementedError, match=error):
        align(model, [{"input_ids": text(6, 9)}])


def tiny_of(kind):
    small = {
        "gpt2": {"vocab_size": 53, "n_embd": 24, "n_head": 3, "n_layer": 1},
        "whisper": {"d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 3, "decoder_attention_heads": 3},
        "qwen2": {**SMALL, "num_key_value_heads": 3},
    }[kind]
    return AutoModel.from_config(transformers.AutoConfig.for_model(kind, **small))


def test_projections_that_are_no_plain_layers():
    class Adapter(torch.nn.Module):
        pass

    model = tiny_model(hf_tanhmax.TanhMaxBertModel)
    model.encoder.layer[1].attention.self.value = Adapter()
    with pytest.raises(
        NotImplementedError,
        match=r"the value projection of BertSelfAttention is of class Adapter and no nn\.Linear, so it cannot be aligned; merge",
    ):
        align(model, [{"input_ids": text(6, 9)}])


def test_weights_that_are_not_there():
    model = tiny_model(hf_tanhmax.TanhMaxBertModel)
    model.encoder.layer[0].attention.output.dense.to("meta")
    with pytest.raises(
        ValueError, match="the output projection of BertSelfAttention is not in memory, so it cannot be aligned; take the model whole"
    ):
        align(model, [{"input_ids": text(6, 9)}])
    with torch.no_grad():
        whole = tiny_model(hf_tanhmax.TanhMaxBertModel)
        whole.encoder.layer[0].attention.self.key.weight = torch.nn.Parameter(torch.zeros(21, 21, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"the key projection of BertSelfAttention is quantised \(torch.int8\)"):
        align(whole, [{"input_ids": text(6, 9)}])


def test_only_layers_that_compute_tanhmax_are_aligned():
    model = tiny_model(hf_tanhmax.TanhMaxBertModel, tanhmax_layers=[1])
    assert modules_to_align(model) == [attention_modules(model)[1]]
    assert modules_to_align(hf_tanhmax.to_softmax(model)) != []
    assert find_projections(model, modules_to_align(model))[0].name == "encoder.layer.1.attention.self"
