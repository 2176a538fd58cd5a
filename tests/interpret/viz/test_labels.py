"""Labels: white space and control characters of a token are visible, targets and heads are named."""

import pytest
from made_explanations import made

from hf_tanhmax.interpret.viz.labels import head_label, model_label, printable, score_label, target_label


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("film", "film"),
        (" film", " film"),
        ("\n", "↵"),
        ("a\tb", "a⇥b"),
        ("", "∅"),
        ("  ", "␣␣"),
        ("\u200b", "∅"),
        ("\x07", "�"),
        ("日本", "日本"),
    ],
)
def test_every_letter_is_printable(token, shown):
    assert printable(token) == shown


def test_names():
    explanation = made(target_name="a\nb")
    assert target_label(explanation) == "“a↵b” (probability 0.938, logit 2.25)"
    assert head_label(explanation, 0, 0) == "layer 0, head 0"
    assert head_label(explanation, 0, 1) == "layer 0, head 1 (one-signed)"
    assert head_label(explanation, 1, 2) == "layer 1, head 2 (softmax)"
    assert model_label(made(model_name="owner/name")) == "owner/name"
    assert model_label(made(model_name="/home/me/runs/my-model")) == "my-model"
    assert model_label(made(model_name="")) == ""
    assert score_label("rollout") == "signed rollout"
    assert score_label("my_own") == "my own"
