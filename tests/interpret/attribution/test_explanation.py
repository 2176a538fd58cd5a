"""What can be asked of an explanation."""

import pytest
import torch
from families import text, tiny_model

import hf_tanhmax
from hf_tanhmax.interpret import explain


@pytest.fixture(scope="module")
def found():
    return explain(tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification), {"input_ids": text(1, 5)}, methods=("contributions",))


def test_oriented_weights_are_raw_ones_times_the_sign_of_their_head(found):
    for layer in range(3):
        for head in range(3):
            torch.testing.assert_close(found.oriented[layer, head], found.weights[layer, head] * found.orientation[layer, head])


def test_scores_are_added_up_over_a_word(found):
    import dataclasses

    merged = dataclasses.replace(found, words=(None, 0, 0, 1, None), word_texts=("one", "two"))
    scores = found.scores["contributions"]
    torch.testing.assert_close(merged.by_word("contributions"), torch.stack([scores[1] + scores[2], scores[3]]))


def test_scores_that_were_not_computed_are_refused(found):
    with pytest.raises(ValueError, match='no scores named "rollout"; this explanation has contributions'):
        found.by_word("rollout")
