"""Altered attention against weights that are altered by hand."""

import pytest
import torch
from families import BACKBONES, softmax_twin, text, tiny_model

from hf_tanhmax.interpret.attribution.altered import deaf_to, random, shuffled
from hf_tanhmax.interpret.attribution.hooks import recording, repeated, watching
from hf_tanhmax.patching import attention_modules
from hf_tanhmax.registration import eager_forward


def by_hand(places):
    """Attention that forms the weights, sets columns of them to 0 and multiplies the values."""

    def attend(module, query, key, value, mask, **kwargs):
        weights = eager_forward(module, query, key, value, mask, **kwargs)[1].clone()
        for row, erased in enumerate(places):
            weights[row, :, :, erased] = 0
        return (weights @ repeated(value, query)).transpose(1, 2).contiguous(), weights

    return attend


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("twin", [False, True], ids=["tanhmax", "softmax"])
def test_deaf_attention_has_columns_of_zeros_and_divides_nothing_again(family, twin):
    model = tiny_model(BACKBONES[family])
    model = softmax_twin(model) if twin else model
    modules, ids, places = attention_modules(model)[1:], text(3, 6), [[2], [0, 4], []]
    with torch.no_grad():
        plain = model(input_ids=ids).last_hidden_state
        with watching(modules, deaf_to(places)):
            have = model(input_ids=ids).last_hidden_state
        with watching(modules, by_hand(places)):
            want = model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(have[2], plain[2], atol=1e-5, rtol=1e-4)
    assert (have[0] - plain[0]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_shuffled_weights_are_the_same_numbers_over_the_keys_that_are_seen(family):
    model, ids = tiny_model(BACKBONES[family]), text(2, 7)
    module, weights = attention_modules(model)[0], {}

    def keeping(seeds):
        attend = shuffled(seeds)

        def call(*arguments, **kwargs):
            output, weights["new"] = attend(*arguments, **kwargs)
            return output, weights["new"]

        return call

    with torch.no_grad():
        with recording(model, [0]) as records:
            model(input_ids=ids)
        with watching([module], keeping([(0, 0, 0, 0), (0, 1, 0, 0)])):
            first = model(input_ids=ids).last_hidden_state
        new = weights["new"]
        with watching([module], keeping([(0, 1, 0, 0), (0, 0, 0, 0)])):
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

    def call(*arguments, **kwargs):
        output, found["weights"] = random([(0, 0), (0, 1)])(*arguments, **kwargs)
        return output, found["weights"]

    with torch.no_grad(), watching([attention_modules(model)[1]], call):
        model(input_ids=text(1, 9).expand(2, -1))
    weights = found["weights"]
    assert not weights.triu(1).any()
    assert not torch.equal(weights[0], weights[1])
    if twin:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 9))
    else:
        assert bool((weights.abs().sum(-1) <= 1).all())
        assert bool((weights < 0).any())
