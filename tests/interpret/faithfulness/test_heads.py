"""Logits without a head, of a model that adds its heads up, and of models of each family."""

import json

import numpy
import pytest
import torch
from bag_of_words import bag_of_words
from families import images, softmax_twin, text, tiny_model

import hf_tanhmax
from hf_tanhmax.integration.hooks import replace_attention
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.interpret import ablate_heads
from hf_tanhmax.interpret.ablation.interventions import intervention

WORTH = torch.linspace(-2, 3, 53)


def batches(*lengths):
    return [{"input_ids": text(1, 23)[:, start : start + length]} for start, length in enumerate(lengths)]


def test_heads_of_a_bag_of_words_add_up_to_its_logit():
    inputs = batches(7, 5, 7)
    found = ablate_heads(bag_of_words(WORTH), None, inputs, targets=[1, 1, 1], batch_size=4, progress=False)
    means = numpy.array([float(WORTH[one["input_ids"]].mean()) for one in inputs])
    numpy.testing.assert_allclose(found.logits, means, rtol=1e-5)
    numpy.testing.assert_allclose(found.without_head[:, 0], -means[:, None] * [0.75, 0.25], rtol=1e-4)
    assert not found.without_negatives.any()
    assert found.signed == ((False, False),)


def test_negative_weights_of_heads_add_up_to_those_of_the_model():
    model, (one,) = bag_of_words(WORTH, sharpness=2.0, polarity=1.0), batches(7)
    found = ablate_heads(model, None, [one], targets=[1], progress=False)
    with torch.no_grad(), replace_attention(attention_modules(model), intervention("negatives_zeroed", [(0,)])):
        without = float(model(**one).logits[0, 1])
    assert found.signed == ((True, True),)
    assert (abs(found.without_negatives) > 1e-3).all()
    assert found.without_negatives.sum() == pytest.approx(without - found.logits[0], rel=1e-4)
    assert found.without_head.sum() == pytest.approx(-found.logits[0], rel=1e-4)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "LlamaForCausalLM", "ViTForImageClassification"])
@pytest.mark.parametrize("twin", [False, True], ids=["tanhmax", "softmax"])
def test_the_batch_size_and_the_company_change_nothing(name, twin):
    cls = getattr(hf_tanhmax, f"TanhMax{name}")
    model = softmax_twin(tiny_model(cls)) if twin else tiny_model(cls)
    pictures = "ViT" in name
    inputs = [{"pixel_values": picture[None]} for picture in images(2)] if pictures else batches(6, 5, 6)
    together = ablate_heads(model, None, inputs, batch_size=8, progress=False)
    alone = ablate_heads(model, None, inputs[-1:], batch_size=1, progress=False)
    numpy.testing.assert_allclose(together.without_head[-1], alone.without_head[0], atol=1e-5)
    numpy.testing.assert_allclose(together.without_negatives[-1], alone.without_negatives[0], atol=1e-5)
    assert together.without_head.any(0).all()
    assert together.without_negatives.any() == (not twin)


def test_only_the_layers_that_were_named():
    model, inputs = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification), batches(6)
    whole, last = (ablate_heads(model, None, inputs, layers=layers, progress=False) for layers in (None, -1))
    assert last.layers == (2,)
    numpy.testing.assert_allclose(last.without_head[:, 0], whole.without_head[:, 2], atol=1e-6)


def test_the_table_shows_the_heads_that_matter_most_and_json_all():
    found = ablate_heads(bag_of_words(WORTH, sharpness=2.0, polarity=1.0), None, batches(7, 6), targets=[1, 1], progress=False)
    lines = found.table(shown=1).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith(f"| 0.{int(abs(found.without_head.mean(0)[0]).argmax())}")
    assert "| - " in ablate_heads(bag_of_words(WORTH), None, batches(7), progress=False).table()
    read = json.loads(json.dumps(found.to_dict()))
    numpy.testing.assert_allclose(read["without_negatives"], found.without_negatives, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": []}, "texts must be a list of at least one text"),
        ({"targets": [0, 1]}, "there are 2 targets for 1 texts"),
        ({"targets": [9]}, "text 0: target 9 is out of range"),
        ({"layers": 7}, "there is no layer 7"),
    ],
)
def test_what_cannot_be_measured(changes, message):
    with pytest.raises(ValueError, match=message):
        ablate_heads(bag_of_words(WORTH), None, **{"texts": batches(4), "progress": False, **changes})
