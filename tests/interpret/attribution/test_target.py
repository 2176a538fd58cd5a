"""Which logit is meant."""

import pytest
import torch
from families import images, text, tiny_model
from tiny_tokenizers import word_pieces

import hf_tanhmax
from hf_tanhmax.interpret import explain, explain_generation

FAST = ("weights",)
NAMES = {"id2label": {0: "against", 1: "for"}, "label2id": {"against": 0, "for": 1}}


def classifier(**changes):
    return tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification, **{**NAMES, **changes})


def test_a_class_by_index_by_name_or_what_is_predicted():
    model, inputs = classifier(), {"input_ids": text(1, 5)}
    best = int(model(**inputs).logits.argmax())
    assert explain(model, inputs, 1, methods=FAST).target_name == "for"
    assert explain(model, inputs, "against", methods=FAST).target == 0
    assert explain(model, inputs, methods=FAST).target == best


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (2, ValueError, "target 2 is out of range: the model has 2 targets, 0 to 1"),
        (-1, ValueError, "target -1 is out of range"),
        ("neutral", ValueError, "the model has no class 'neutral'; it has against, for"),
        (True, TypeError, "target must be an index or a name, but is bool"),
        (1.0, TypeError, "target must be an index or a name, but is float"),
    ],
)
def test_a_target_that_does_not_exist_is_refused(target, error, message):
    with pytest.raises(error, match=message):
        explain(classifier(), {"input_ids": text(1, 5)}, target, methods=FAST)


def test_probability_of_one_output_and_of_labels_that_do_not_exclude_each_other_is_a_sigmoid():
    one = explain(classifier(num_labels=1, id2label={0: "score"}, label2id={"score": 0}), {"input_ids": text(1, 5)}, methods=FAST)
    several = explain(classifier(problem_type="multi_label_classification"), {"input_ids": text(1, 5)}, 0, methods=FAST)
    for found in (one, several):
        assert found.probability == pytest.approx(float(torch.tensor(found.logit).sigmoid()), abs=1e-6)


def test_the_only_mask_token_is_explained():
    tokenizer, model = word_pieces(), tiny_model(hf_tanhmax.TanhMaxBertForMaskedLM)
    found = explain(model, "a [MASK] film", "good", tokenizer=tokenizer, methods=FAST)
    assert (found.position, found.target, found.target_name) == (2, 6, "good")
    assert found.words == (None, 0, None, 1, None)
    ids = tokenizer("a [MASK] film", return_tensors="pt")
    assert found.logit == pytest.approx(float(model(**ids).logits[0, 2, 6].detach()), abs=1e-5)
    with pytest.raises(ValueError, match="'unwatchable' is 3 tokens, but a target is one"):
        explain(model, "a [MASK] film", "unwatchable", tokenizer=tokenizer, methods=FAST)


def test_a_position_must_be_given_where_it_is_not_plain():
    tokenizer, model = word_pieces(), tiny_model(hf_tanhmax.TanhMaxBertForTokenClassification, **NAMES)
    with pytest.raises(ValueError, match="has logits for each of 5 positions; give position="):
        explain(model, "a good film", tokenizer=tokenizer, methods=FAST)
    with pytest.raises(ValueError, match="no position 5: the input has 5 positions"):
        explain(model, "a good film", tokenizer=tokenizer, position=5, methods=FAST)
    found = explain(model, "a good film", "for", tokenizer=tokenizer, position=-2, methods=FAST)
    assert (found.position, found.target) == (3, 1)


def test_a_position_where_there_is_none_is_refused():
    with pytest.raises(ValueError, match="has one row of logits for the whole input; leave position None"):
        explain(classifier(), {"input_ids": text(1, 5)}, position=0, methods=FAST)


@pytest.mark.parametrize("cls", [hf_tanhmax.TanhMaxBertModel, hf_tanhmax.TanhMaxViTModel, hf_tanhmax.TanhMaxBertForQuestionAnswering])
def test_models_without_logits_are_refused(cls):
    inputs = {"pixel_values": images(1)} if "ViT" in cls.__name__ else {"input_ids": text(1, 5)}
    with pytest.raises(ValueError, match=f"{cls.__name__} returns no logits of classes or tokens"):
        explain(tiny_model(cls), inputs, methods=FAST)


def test_only_a_model_that_writes_has_a_next_token():
    with pytest.raises(ValueError, match="BertForSequenceClassification does not write texts"):
        explain_generation(classifier(), None, {"input_ids": text(1, 5)})
