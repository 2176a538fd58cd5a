"""Originals put back: biases that a refit added go, those that were there stay, and names may have a head's prefix or not."""

import pytest
import torch
import transformers
from families import BACKBONES, tiny_model
from safetensors.torch import save_file

import hf_tanhmax
from hf_tanhmax.conversion.originals import add_biases, put_back, read_originals
from hf_tanhmax.integration.patching import attention_modules


def outputs(model):
    return {
        name: value.detach().clone() for name, value in model.named_parameters() if "o_proj" in name or "attention.output.dense" in name
    }


@pytest.mark.parametrize("family", BACKBONES)
def test_biases_come_and_go_where_there_were_none(family):
    model = tiny_model(BACKBONES[family])
    before, originals, config = dict(model.state_dict()), outputs(model), model.config.to_dict()
    add_biases(model, attention_modules(model))
    added = model.state_dict().keys() - before.keys()
    assert len(added) == (12 if family == "llama" else 0)
    assert not any(model.state_dict()[name].any() for name in added)
    for value in outputs(model):
        model.get_parameter(value).data.add_(1)
    put_back(model, originals)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.to_dict() == config


def test_originals_of_other_projections_take_no_biases_away():
    model = tiny_model(BACKBONES["bert"])
    names = {name: value.detach().clone() for name, value in model.named_parameters() if ".query.weight" in name}
    put_back(model, names)
    assert all(module.query.bias is not None for module in attention_modules(model))


@pytest.mark.parametrize("saved", [True, False])
def test_names_with_a_prefix_and_without(saved, tmp_path):
    plain, headed = tiny_model(BACKBONES["llama"]), tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM)

    def given(originals):
        if not saved:
            return originals
        save_file(originals, tmp_path / "originals.safetensors")
        return tmp_path / "originals.safetensors"

    assert read_originals(headed, given(outputs(plain))).keys() == outputs(headed).keys()
    assert read_originals(plain, given(outputs(headed))).keys() == outputs(plain).keys()
    with pytest.raises(ValueError, match=r"TanhMaxLlamaModel has no lm_head.weight of shape \(2, 3\); pass the originals of this model"):
        read_originals(plain, {"lm_head.weight": torch.ones(2, 3)})


def test_a_config_without_a_field_for_biases():
    model = transformers.Qwen2Model(
        transformers.Qwen2Config(vocab_size=53, hidden_size=24, num_attention_heads=4, num_hidden_layers=1, intermediate_size=13)
    )
    with pytest.raises(NotImplementedError, match="the output projection of Qwen2Attention has no bias, and its config no attention_bias"):
        add_biases(model, attention_modules(model))
