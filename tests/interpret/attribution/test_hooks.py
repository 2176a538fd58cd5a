"""What is recorded is what the model computes, and nothing stays behind."""

import pytest
import torch
from families import BACKBONES, assert_same, inputs_for, run, softmax_twin, text, tiny_model

import hf_tanhmax
from hf_tanhmax.interpret.attribution.hooks import is_signed, recording, watched_forward, watching
from hf_tanhmax.patching import attention_modules


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("twin", [False, True], ids=["tanhmax", "softmax"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_recorded_model_computes_the_same_with_padding_too(family, twin, implementation):
    model = tiny_model(BACKBONES[family])
    model = softmax_twin(model) if twin else model
    model.set_attn_implementation(implementation)
    inputs = inputs_for(family)
    want = run(model, inputs)
    with recording(model, [0, 1, 2]) as records:
        have = run(model, inputs)
    assert_same(have, want)
    for record in records:
        assert record.signed != twin
        assert record.values.shape[1] == record.weights.shape[1]
        torch.testing.assert_close((record.weights @ record.values).transpose(1, 2), record.outputs, atol=1e-6, rtol=1e-5)


def test_values_are_repeated_for_the_heads_that_share_them():
    model = tiny_model(hf_tanhmax.TanhMaxLlamaModel)
    with recording(model, [1]) as records, torch.no_grad():
        model(input_ids=text(1, 5))
    torch.testing.assert_close(records[0].values[:, 0::2], records[0].values[:, 1::2])
    assert records[0].values.shape[1] == 4
    assert records[0].name == "layers.1.self_attn"


def test_configs_come_back_after_an_error():
    model = tiny_model(hf_tanhmax.TanhMaxBertModel)
    before = [module.config for module in attention_modules(model)]
    with pytest.raises(KeyError), recording(model, [0, 1]):
        raise KeyError
    assert all(module.config is config for module, config in zip(attention_modules(model), before, strict=True))


def test_the_name_is_for_watched_modules_only():
    model = softmax_twin(tiny_model(hf_tanhmax.TanhMaxBertModel))
    model.set_attn_implementation("tanhmax_watched")
    with pytest.raises(ValueError, match='"tanhmax_watched" is no attention implementation to choose'):
        model(input_ids=text(1, 5))
    assert watched_forward.__doc__


def test_modules_may_call_a_function_each():
    model, calls = tiny_model(hf_tanhmax.TanhMaxBertModel), []
    modules = attention_modules(model)

    def attend(name):
        def call(module, query, key, value, mask, **kwargs):
            calls.append(name)
            return torch.zeros_like(query).transpose(1, 2).contiguous(), None

        return call

    with watching(modules[:2], [attend("first"), attend("second")]), torch.no_grad():
        model(input_ids=text(1, 5))
    assert calls == ["first", "second"]


def test_signed_is_what_has_a_polarity_above_zero():
    def signed(**changes):
        return [is_signed(module.config) for module in attention_modules(tiny_model(hf_tanhmax.TanhMaxBertModel, **changes))]

    assert signed() == [True] * 3
    assert signed(tanhmax_polarity=0.0) == [False] * 3
    assert signed(tanhmax_polarity="learned") == [True] * 3
    assert signed(tanhmax_layers=[1]) == [False, True, False]
    assert [is_signed(module.config) for module in attention_modules(softmax_twin(tiny_model(hf_tanhmax.TanhMaxBertModel)))] == [False] * 3
