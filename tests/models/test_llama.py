"""What LLaMA has beyond the other families: grouped keys, tied embeddings, heads that build their backbone through `AutoModel`."""

import pytest
import torch
from families import assert_same, inputs_for, naive_twin, run, softmax_twin, text, tiny_config, tiny_model
from safetensors.torch import load_file

from hf_tanhmax import (
    TanhMaxLlamaConfig,
    TanhMaxLlamaForCausalLM,
    TanhMaxLlamaForQuestionAnswering,
    TanhMaxLlamaForSequenceClassification,
    TanhMaxLlamaForTokenClassification,
    TanhMaxLlamaModel,
)


def test_model_type():
    assert TanhMaxLlamaConfig.model_type == "tanhmax_llama"
    assert tiny_config("llama").model_type == "tanhmax_llama"


@pytest.mark.parametrize(
    "cls", [TanhMaxLlamaForSequenceClassification, TanhMaxLlamaForQuestionAnswering, TanhMaxLlamaForTokenClassification]
)
def test_generic_heads_hold_our_backbone(cls):
    assert type(tiny_model(cls).base_model) is TanhMaxLlamaModel


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_keys(groups):
    model = tiny_model(TanhMaxLlamaModel, num_key_value_heads=groups)
    assert_same(run(model, inputs_for("llama")), run(naive_twin(model, num_key_value_heads=groups), inputs_for("llama")))


def test_tied_embeddings_are_written_once_and_tied_again(tmp_path):
    model = tiny_model(TanhMaxLlamaForCausalLM, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again, report = TanhMaxLlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert_same(run(again, inputs_for("llama")), run(model, inputs_for("llama")), atol=1e-6, rtol=1e-5)


def test_is_causal():
    model, tokens = tiny_model(TanhMaxLlamaForCausalLM), text()
    changed = tokens.clone()
    changed[:, 6:] = 5
    torch.testing.assert_close(run(model, {"input_ids": tokens}).logits[:, :6], run(model, {"input_ids": changed}).logits[:, :6])


def test_polarity_zero_is_llama():
    model = tiny_model(TanhMaxLlamaForCausalLM, tanhmax_polarity=0.0)
    assert_same(run(model, inputs_for("llama")), run(softmax_twin(model), inputs_for("llama")))
