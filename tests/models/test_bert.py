"""What BERT has beyond the other families: decoding, cross attention, a pooler that may be absent."""

import pytest
import torch
from families import LAYERS, assert_same, inputs_for, naive_twin, run, softmax_twin, text, tiny_config, tiny_model

from hf_tanhmax import TanhMaxBertConfig, TanhMaxBertLMHeadModel, TanhMaxBertModel
from hf_tanhmax.integration.patching import attention_modules


def test_model_type():
    assert TanhMaxBertConfig.model_type == "tanhmax_bert"
    assert tiny_config("bert").model_type == "tanhmax_bert"


@pytest.mark.parametrize("pooler", [True, False])
def test_pooler(pooler, tmp_path):
    model = TanhMaxBertModel(tiny_config("bert"), add_pooling_layer=pooler).eval()
    assert (model.pooler is not None) == pooler
    found = run(model, inputs_for("bert"))
    assert (found.pooler_output is not None) == pooler
    model.save_pretrained(tmp_path)
    again, report = TanhMaxBertModel.from_pretrained(tmp_path, add_pooling_layer=pooler, output_loading_info=True)
    assert not report["missing_keys"]
    assert_same(run(again, inputs_for("bert")), found, atol=1e-6, rtol=1e-5)


def test_decoder_with_cross_attention():
    model = tiny_model(TanhMaxBertLMHeadModel, is_decoder=True, add_cross_attention=True, tanhmax_layers=[0, 2])
    assert len(attention_modules(model)) == 2 * LAYERS
    inputs = {"input_ids": text(), "encoder_hidden_states": torch.randn(2, 5, 21)}
    inputs["encoder_attention_mask"] = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    changed = inputs["encoder_hidden_states"].clone()
    changed[1, 2:] = 7.0
    assert_same(run(model, inputs), run(model, {**inputs, "encoder_hidden_states": changed}))
    whole = tiny_model(TanhMaxBertLMHeadModel, is_decoder=True, add_cross_attention=True)
    assert_same(run(whole, inputs), run(naive_twin(whole, is_decoder=True, add_cross_attention=True), inputs))
    weights = run(
        tiny_model(TanhMaxBertLMHeadModel, is_decoder=True, add_cross_attention=True, tanhmax_layers=[1], attn_implementation="eager"),
        inputs,
        output_attentions=True,
    )
    for attentions in (weights.attentions, weights.cross_attentions):
        assert [bool((each < 0).any()) for each in attentions] == [False, True, False]


def test_decoder_is_causal():
    model, tokens = tiny_model(TanhMaxBertLMHeadModel, is_decoder=True), text()
    changed = tokens.clone()
    changed[:, 6:] = 5
    torch.testing.assert_close(run(model, {"input_ids": tokens}).logits[:, :6], run(model, {"input_ids": changed}).logits[:, :6])


def test_padding_does_not_matter():
    model, inputs = tiny_model(TanhMaxBertModel), inputs_for("bert")
    found = run(model, inputs).last_hidden_state[1, :7]
    alone = run(model, {"input_ids": inputs["input_ids"][1:, :7]}).last_hidden_state[0]
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)


def test_polarity_zero_is_bert():
    model = tiny_model(TanhMaxBertModel, tanhmax_polarity=0.0)
    assert_same(run(model, inputs_for("bert")), run(softmax_twin(model), inputs_for("bert")))
