"""Hooks on attention: what is recorded is what the model computes, other weights are those computed by hand, and nothing stays behind."""

import pytest
import torch
from families import BACKBONES, assert_same, inputs_for, run, softmax_twin, text, tiny_model

import hf_tanhmax
from hf_tanhmax.integration.hooks import replace_attention
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.interpret.attribution.hooks import random_weights, record_attention, shuffled_weights, zeroed_keys


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("twin", [False, True], ids=["tanhmax", "softmax"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_recorded_model_computes_the_same_with_padding_too(family, twin, implementation):
    model = tiny_model(BACKBONES[family])
    model = softmax_twin(model) if twin else model
    model.set_attn_implementation(implementation)
    inputs = inputs_for(family)
    want = run(model, inputs)
    with record_attention(model, [0, 1, 2]) as records:
        have = run(model, inputs)
    assert_same(have, want)
    for record in records:
        assert record.signed != twin
        assert record.values.shape[1] == record.weights.shape[1]
        torch.testing.assert_close((record.weights @ record.values).transpose(1, 2), record.outputs, atol=1e-6, rtol=1e-5)


def test_values_are_repeated_for_the_heads_that_share_them():
    model = tiny_model(hf_tanhmax.TanhMaxLlamaModel)
    with record_attention(model, [1]) as records, torch.no_grad():
        model(input_ids=text(1, 5))
    torch.testing.assert_close(records[0].values[:, 0::2], records[0].values[:, 1::2])
    assert records[0].values.shape[1] == 4
    assert records[0].name == "layers.1.self_attn"


def test_configs_come_back_after_an_error():
    model = tiny_model(hf_tanhmax.TanhMaxBertModel)
    before = [module.config for module in attention_modules(model)]
    with pytest.raises(KeyError), record_attention(model, [0, 1]):
        raise KeyError
    assert all(module.config is config for module, config in zip(attention_modules(model), before, strict=True))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_recorded_weights_have_the_balanced_shift(implementation):
    model = tiny_model(hf_tanhmax.TanhMaxBertModel, tanhmax_shift="balanced", tanhmax_polarity=0.25, attn_implementation=implementation)
    with torch.no_grad(), record_attention(model, [0, 2]) as records:
        model(**inputs_for("bert"))
    for record in records:
        torch.testing.assert_close(record.weights.sum(-1), torch.full(record.weights.shape[:3], 0.75 / 1.25))
        assert (record.weights < 0).any()


def by_hand(positions):
    """Attention that forms the weights, sets columns of them to 0 and multiplies the values."""

    def attend(call):
        weights = call.compute_with_weights()[1].clone()
        for row, keys in enumerate(positions):
            weights[row, :, :, keys] = 0
        return (weights @ call.value_per_head).transpose(1, 2).contiguous(), weights

    return attend


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("twin", [False, True], ids=["tanhmax", "softmax"])
def test_zeroed_keys_are_columns_of_zeros_and_nothing_is_divided_again(family, twin):
    model = tiny_model(BACKBONES[family])
    model = softmax_twin(model) if twin else model
    modules, ids, positions = attention_modules(model)[1:], text(3, 6), [[2], [0, 4], []]
    with torch.no_grad():
        plain = model(input_ids=ids).last_hidden_state
        with replace_attention(modules, zeroed_keys(positions)):
            have = model(input_ids=ids).last_hidden_state
        with replace_attention(modules, by_hand(positions)):
            want = model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(have[2], plain[2], atol=1e-5, rtol=1e-4)
    assert (have[0] - plain[0]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_shuffled_weights_are_the_same_numbers_over_the_keys_that_are_seen(family):
    model, ids = tiny_model(BACKBONES[family]), text(2, 7)
    module, weights = attention_modules(model)[0], {}

    def keeping(seeds):
        def attend(call):
            output, weights["new"] = shuffled_weights(seeds)(call)
            return output, weights["new"]

        return attend

    with torch.no_grad():
        with record_attention(model, [0]) as records:
            model(input_ids=ids)
        with replace_attention([module], keeping([(0, 0, 0, 0), (0, 1, 0, 0)])):
            first = model(input_ids=ids).last_hidden_state
        new = weights["new"]
        with replace_attention([module], keeping([(0, 1, 0, 0), (0, 0, 0, 0)])):
            second = model(input_ids=ids.flip(0)).last_hidden_state
    torch.testing.assert_close(new.sort(-1).values, records[0].weights.sort(-1).values)
    assert not torch.equal(new, records[0].weights)
    if family == "llama":
        assert not new.triu(1).any()
    torch.testing.assert_close(first, second.flip(0))


@pytest.mark.parametrize("twin", [False, True], ids=["tanhmax", "softmax"])
def test_random_weights_are_normalised_as_the_layers_own(twin):
    model = tiny_model(BACKBONES["llama"])
    model = softmax_twin(model) if twin else model
    found = {}

    def attend(call):
        output, found["weights"] = random_weights([(0, 0), (0, 1)])(call)
        return output, found["weights"]

    with torch.no_grad(), replace_attention([attention_modules(model)[1]], attend):
        model(input_ids=text(1, 9).expand(2, -1))
    weights = found["weights"]
    assert not weights.triu(1).any()
    assert not torch.equal(weights[0], weights[1])
    if twin:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 9))
    else:
        assert bool((weights.abs().sum(-1) <= 1).all())
        assert bool((weights < 0).any())
