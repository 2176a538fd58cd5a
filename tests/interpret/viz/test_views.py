"""Views are the tensors of the explanation."""

import pytest
import torch
from made_explanations import TOKENS, made

from hf_tanhmax.interpret.viz.views import colour_range, head_matrices, head_matrix, head_numbers, texts_and_scores


def test_views():
    explanation = made()
    assert head_matrices(explanation, "raw") is explanation.weights
    assert torch.equal(head_matrices(explanation, "oriented")[0, 2], explanation.weights[0, 2] * explanation.orientation[0, 2])
    assert torch.equal(head_matrix(explanation, 1, 2, "contributions"), explanation.contributions[1, 2])


def test_a_head_in_one_number():
    explanation = made()
    rows = explanation.weights.sum(-1)
    torch.testing.assert_close(head_numbers(explanation, "raw"), rows.mean(-1))
    torch.testing.assert_close(head_numbers(explanation, "raw")[-1], torch.ones(3))  # softmax
    torch.testing.assert_close(head_numbers(explanation, "contributions")[0, 1], explanation.contributions[0, 1].sum())
    assert (head_numbers(explanation, "raw")[:-1].abs() < 1).all()


def test_words_are_sums_of_their_tokens():
    explanation = made()
    texts, scores = texts_and_scores(explanation, "rollout", "words")
    assert texts == ["not", "funny", "at", "$all_"]
    assert scores[1] == pytest.approx(float(explanation.scores["rollout"][2:4].sum()))
    texts, scores = texts_and_scores(explanation, "rollout", "tokens")
    assert texts == list(TOKENS)
    assert scores == explanation.scores["rollout"].tolist()


def test_what_there_is_not():
    explanation = made()
    with pytest.raises(ValueError, match=r'there is no view "size"; there are raw, oriented, contributions'):
        head_matrices(explanation, "size")
    for layer, head in ((2, 0), (0, 3), (-1, 0)):
        with pytest.raises(ValueError, match=rf"there is no layer {layer}, head {head}: layers are 0 to 1 and heads 0 to 2"):
            head_matrix(explanation, layer, head, "raw")
    with pytest.raises(ValueError, match=r'scores are by "words" or by "tokens", not by "letters"'):
        texts_and_scores(explanation, "rollout", "letters")
    for unit in ("words", "tokens"):
        with pytest.raises(ValueError, match=r'there are no scores named "luck"; this explanation has weights, oriented'):
            texts_and_scores(explanation, "luck", unit)


def test_noise_is_pale():
    """Numbers in logits have full colour from an absolute size on; others from their own largest one; all are paler if no word is known."""
    explanation = made()
    for of, least in (("word", 0.5), ("patch", 0.1), ("head", 0.25), ("weight", 0.05)):
        assert colour_range(explanation, 1e-4, "contributions", of) == least
        assert colour_range(explanation, 2.0, "contributions", of) == 2.0
        assert colour_range(explanation, 1e-4, "oriented", of) == 1e-4
    assert colour_range(made(unknown=(1, 2, 3, 4, 5)), 1e-4, "integrated_gradients", "word") == 2.0
