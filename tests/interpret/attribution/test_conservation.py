"""What scores add up to is told beside what they should, in the explanation and in its notes."""

import pytest
import torch
from families import text, tiny_model

import hf_tanhmax
from hf_tanhmax.interpret import Conservation, explain

BERT = hf_tanhmax.TanhMaxBertForSequenceClassification


def test_a_sum_and_what_it_should_be():
    found = Conservation.of(torch.tensor([2.0, -1.0, 1.5]), 3.0)
    assert (found.total, found.expected, found.gap, found.size, found.is_far) == (2.5, 3.0, 0.5, 4.5, True)
    assert found.sentence("contributions") == (
        "contributions sum to 2.5 of the logit 3, which is too far from it to read them as shares of it"
    )
    close = Conservation.of(torch.tensor([2.0, -1.0, 1.6]), 3.0, "the change of the logit from the baseline")
    assert not close.is_far
    assert close.sentence("scores") == "scores sum to 2.6 of the change of the logit from the baseline 3"


def test_contributions_and_gradients_say_what_they_add_up_to():
    found = explain(tiny_model(BERT), {"input_ids": text(1, 7)}, 1, methods=("weights", "contributions", "input_x_gradient"))
    assert list(found.conservation) == ["contributions", "input_x_gradient"]
    for method, name in (("contributions", "contributions"), ("input_x_gradient", "input times gradient")):
        told = found.conservation[method]
        assert told.total == pytest.approx(float(found.scores[method].sum()), abs=1e-5)
        assert told.expected == found.logit
        assert told.is_far == any(note.startswith(f"{name} sum to") for note in found.notes)
    assert found.conservation["contributions"].is_far


def test_integrated_gradients_say_the_change_of_the_logit():
    pytest.importorskip("captum")
    model, ids = tiny_model(BERT), text(1, 6)
    found = explain(model, {"input_ids": ids}, 1, methods=("integrated_gradients",), steps=64).conservation["integrated_gradients"]
    with torch.no_grad():
        change = float((model(input_ids=ids).logits - model(input_ids=torch.zeros_like(ids)).logits)[0, 1])
    assert found.expected == pytest.approx(change, abs=1e-5)
    assert found.expected_is == "the change of the logit from the baseline"
    assert abs(found.gap) < 1e-2
