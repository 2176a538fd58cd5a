"""A twin is explained beside its model, and refused where the two could not be compared."""

import pytest
import torch
from families import softmax_twin, text, tiny_model
from tiny_tokenizers import word_pieces

import hf_tanhmax
from hf_tanhmax.interpret import explain, explain_generation, load_explanation, save_explanation

BERT = hf_tanhmax.TanhMaxBertForSequenceClassification
FAST = ("weights", "contributions")


@pytest.fixture(scope="module")
def pair():
    model = tiny_model(BERT)
    return model, softmax_twin(model)


def test_the_twin_is_the_other_model_with_the_same_target(pair):
    model, twin = pair
    found = explain(model, {"input_ids": text(1, 5)}, 1, methods=FAST, twin=twin)
    with pytest.warns(UserWarning, match="computes softmax"):
        alone = explain(twin, {"input_ids": text(1, 5)}, 1, methods=FAST)
    torch.testing.assert_close(found.twin.weights, alone.weights)
    torch.testing.assert_close(found.twin.scores["contributions"], alone.scores["contributions"])
    assert (found.twin.target, found.twin.logit) == (1, alone.logit)
    assert not any("computes softmax" in note for note in found.twin.notes)  # that is what a softmax twin is there for
    assert found.twin.signed == (False,) * 3
    assert found.signed == (True,) * 3
    assert found.twin.twin is None


def test_the_predicted_target_is_that_of_the_model(pair):
    model, twin = pair
    found = explain(model, {"input_ids": text(1, 5)}, methods=FAST, twin=twin)
    assert found.twin.target == found.target


def test_of_a_generation():
    model = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM)
    found = explain_generation(model, None, {"input_ids": text(1, 5)}, methods=FAST, layers=[0, -1], twin=softmax_twin(model))
    assert (found.twin.layers, found.twin.position) == ((0, 2), 4)


def test_it_is_saved_along(pair, tmp_path):
    model, twin = pair
    found = explain(model, {"input_ids": text(1, 5)}, methods=FAST, twin=twin)
    save_explanation(found, tmp_path / "pair.safetensors")
    read = load_explanation(tmp_path / "pair.safetensors")
    for have, want in ((read, found), (read.twin, found.twin)):
        torch.testing.assert_close(have.weights, want.weights, rtol=0, atol=0)
        torch.testing.assert_close(have.scores, want.scores, rtol=0, atol=0)
        assert (have.logit, have.tokens, have.signed) == (want.logit, want.tokens, want.signed)
    assert read.twin.twin is None


def test_another_tokenizer_is_refused(pair):
    model, twin = pair
    own, other = word_pieces(), word_pieces()
    other.add_tokens(["zzz"])
    found = explain(model, "a good film", tokenizer=own, methods=FAST, twin=(twin, own))
    assert found.twin.tokens == found.tokens
    with pytest.raises(
        ValueError, match=r"the twin has another tokenizer, which reads \[CLS\] a zzz .* where the model reads \[CLS\] a \[UNK\]"
    ):
        explain(model, "a zzz", tokenizer=own, methods=FAST, twin=(twin, other))
    with pytest.raises(ValueError, match="the same tokens have other numbers in its vocabulary; give a twin of the same tokenizer"):
        explain(model, "a good film", tokenizer=own, methods=FAST, twin=(twin, other))
    with pytest.raises(ValueError, match=r"the twin knows 71 tokens and the model .*, so they have unequal tokenizers"):
        explain(model, {"input_ids": text(1, 5)}, methods=FAST, twin=tiny_model(BERT, vocab_size=71))


def test_another_shape_and_other_classes_are_refused(pair):
    model, _ = pair
    with pytest.raises(ValueError, match="the twin has 2 layers of attention and the model 3; give a twin of the same shape"):
        explain(model, {"input_ids": text(1, 5)}, methods=FAST, twin=tiny_model(BERT, num_hidden_layers=2))
    with pytest.raises(ValueError, match="the twin has 3 layers of 1 heads over 5 positions and the model 3 layers of 3 heads over 5"):
        explain(model, {"input_ids": text(1, 5)}, methods=FAST, twin=tiny_model(BERT, num_attention_heads=1))
    named = tiny_model(BERT, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    with pytest.raises(ValueError, match="target 1 is 'good' in the twin and 'LABEL_1' in the model; give a twin of the same classes"):
        explain(model, {"input_ids": text(1, 5)}, 1, methods=FAST, twin=named)


def test_what_is_no_twin(pair):
    for given in ("folder", (pair[1],), (1, 2)):
        with pytest.raises(TypeError, match="twin must be a model, or a model and its tokenizer, but is"):
            explain(pair[0], {"input_ids": text(1, 5)}, methods=FAST, twin=given)
