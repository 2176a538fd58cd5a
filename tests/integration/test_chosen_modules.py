"""Which attention modules of a model are chosen: counted layers, self and cross attention, and what is not there."""

import pytest
import torch
import transformers
from families import run, text, tiny_config, tiny_model
from torch import nn

import hf_tanhmax
from hf_tanhmax import TanhMaxSettings, restore, tanhmax_on, use_tanhmax
from hf_tanhmax.integration.patching import ConfigView, attention_modules


def test_self_and_cross_attention_are_one_layer():
    config = tiny_config("bert", upstream=True, is_decoder=True, add_cross_attention=True, attn_implementation="eager")
    model = transformers.BertLMHeadModel(config)
    assert use_tanhmax(model, TanhMaxSettings(layers=[2])) == 2
    states = torch.randn(2, 5, config.hidden_size)
    found = run(model, {"input_ids": text(), "encoder_hidden_states": states}, output_attentions=True)
    for attentions in (found.attentions, found.cross_attentions):
        assert [bool((weights < 0).any()) for weights in attentions] == [False, False, True]


def test_encoder_and_decoder_layers_are_counted_through():
    model = transformers.BartModel(
        transformers.BartConfig(
            d_model=24,
            encoder_layers=2,
            decoder_layers=3,
            vocab_size=53,
            encoder_ffn_dim=5,
            decoder_ffn_dim=5,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
        )
    )
    assert use_tanhmax(model) == 2 + 3 * 2
    restore(model)
    assert use_tanhmax(model, TanhMaxSettings(layers=[1, 4])) == 1 + 2
    with pytest.raises(ValueError, match="there is no layer 5: 'bart' has 5 layers, counted from 0"):
        use_tanhmax(model, TanhMaxSettings(layers=[5]))


def test_unknown_layers_and_heads():
    model = tiny_model(transformers.LlamaModel)
    with pytest.raises(ValueError, match="there is no layer 3: 'llama' has 3 layers, counted from 0"):
        use_tanhmax(model, TanhMaxSettings(layers=[0, 3]))
    with pytest.raises(ValueError, match="there is no head 4: the chosen layers have 4 heads, counted from 0"):
        use_tanhmax(model, TanhMaxSettings(heads=[4]))
    with pytest.raises(ValueError, match="there is no layer 3"), tanhmax_on(model, layers=[3]):
        pass
    assert not any(isinstance(module.config, ConfigView) for module in attention_modules(model))


def test_models_without_attention():
    with pytest.raises(ValueError, match="'resnet' cannot compute TanhMax: it has no attention modules"):
        use_tanhmax(transformers.ResNetModel(transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])))
    with pytest.raises(
        ValueError, match=r"'resnet' cannot compute TanhMax: it has no attention modules that ask .* choose an architecture"
    ):
        hf_tanhmax.TanhMaxResNetModel(hf_tanhmax.TanhMaxResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]))
    with pytest.raises(ValueError, match="'Linear' cannot compute TanhMax: it has no attention modules"):
        use_tanhmax(nn.Linear(2, 3))
