"""The levels of the sweep see what is wrong: each fails for a model that was spoilt in its way."""

import re

import pytest
import tiny
import torch
from definition import SPECIAL, oracle
from levels import DoesNotApply, Trial, exchanged, levels_of, run
from silence import softmaxes

import hf_tanhmax
from hf_tanhmax.integration.patching import attention_modules

pytestmark = pytest.mark.filterwarnings("ignore")  # of architectures, about their own settings


@pytest.fixture
def trial():
    model = tiny.tiny_model("mistral")
    found = Trial(model, tiny.tiny_inputs(model))
    found.converted = found.convert()
    return found


def stay_softmax(model, index=0):
    module = attention_modules(model)[index]
    module.config = tiny.tiny_model("mistral").config  # the model's own names TanhMax classes alone


def test_one_layer_that_stays_softmax(trial):
    stay_softmax(trial.converted)
    with pytest.raises(AssertionError, match="is off by"):
        trial.definition()
    with pytest.raises(AssertionError, match=r"softmax in MistralAttention\(.*scaled_dot_product"):
        trial.silent()


def test_every_layer_that_stays_softmax(trial):
    for index in range(len(attention_modules(trial.converted))):
        stay_softmax(trial.converted, index)
    with pytest.raises(AssertionError, match="no weight is negative"):
        trial.weights()


def test_a_polarity_that_is_not_read(trial, monkeypatch):
    monkeypatch.setattr(trial, "convert", lambda **settings: Trial.convert(trial))
    with pytest.raises(AssertionError, match="is off by"):
        trial.softmax()


def test_a_weight_that_is_not_saved(trial):
    trial.converted._keys_to_ignore_on_save = ["model.embed_tokens.weight"]
    with pytest.raises(AssertionError, match="weights changed"):
        trial.reloaded()


def test_a_mask_that_is_dropped(trial):
    for module in attention_modules(trial.converted):
        module.register_forward_pre_hook(lambda module, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True)
        module.is_causal = False
    with pytest.raises(AssertionError, match="is off by"):
        trial.padding()
    with pytest.raises(AssertionError, match="is off by"):
        trial.future()


def test_a_cache_that_is_spoilt(trial):
    def spoil(module, args, kwargs):
        cache = kwargs[hf_tanhmax.integration.serving.cache_argument(type(module).forward)]
        if cache is not None and cache.get_seq_length():
            cache.layers[0].values.mul_(1.1)

    attention_modules(trial.converted)[0].register_forward_pre_hook(spoil, with_kwargs=True)
    with pytest.raises(AssertionError, match=r"output 1 of .* is off by"):
        trial.generated()


def test_weights_that_do_not_come_back(trial, monkeypatch):
    monkeypatch.setattr(trial, "convert", lambda **settings: trial.converted)
    with torch.no_grad():
        trial.converted.lm_head.weight[0, 0] += 1
    with pytest.raises(AssertionError, match="weights changed"):
        trial.restored()


def test_a_learned_polarity_that_starts_elsewhere(trial, monkeypatch):
    monkeypatch.setattr(trial, "convert", lambda **settings: Trial.convert(trial, polarity="learned", score_bias=0.1))
    with pytest.raises(AssertionError, match="is off by"):
        trial.learned()


def test_an_image_has_no_padding_and_no_future():
    model = tiny.tiny_model("vit")
    found = Trial(model, tiny.tiny_inputs(model))
    for level, why in ((found.padding, "no padded text"), (found.future, "no text"), (found.generated, "no text to generate")):
        with pytest.raises(DoesNotApply, match=why):
            level()


def test_the_definition_notes_what_is_special():
    model = tiny.tiny_model("gemma2")
    SPECIAL.clear()
    run(oracle(model), tiny.tiny_inputs(model))
    assert {"sliding window", "softcap"} <= SPECIAL


def test_a_softmax_over_words_or_experts_is_none_of_attention():
    class Router(torch.nn.Module):
        def forward(self, scores):
            return scores.softmax(-1)

    assert softmaxes(Router(), {"scores": torch.ones(3, 5)}, lambda model, inputs: model(**inputs)) == []
    assert len(softmaxes(Router(), {"scores": torch.ones(2, 3, 5, 5)}, lambda model, inputs: model(**inputs))) == 1


def test_other_tokens_are_others():
    ids = torch.tensor([[5, 6, 7, 5, 9]])
    other = exchanged(ids)
    assert (other != ids).all()
    assert set(other.flatten().tolist()) <= {6, 7, 5, 9}


def test_a_refusal_is_one_sentence():
    found = levels_of("bloom")
    assert found["outcome"] == "refused"
    assert re.match("'bloom' cannot compute TanhMax: its BloomAttention compute softmax themselves", found["reason"])
