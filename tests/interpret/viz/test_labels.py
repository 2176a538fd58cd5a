"""Words of pictures: every letter of a token can be seen, targets and heads are named."""

import pytest
from made_explanations import made

from hf_tanhmax.interpret.viz.labels import head_in_words, model_in_words, score_name, seen, target_in_words


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
def test_every_letter_is_seen(token, shown):
    assert seen(token) == shown


def test_names():
    explanation = made(target_name="a\nb")
    assert target_in_words(explanation) == "“a↵b” (probability 0.938, logit 2.25)"
    assert head_in_words(explanation, 0, 0) == "layer 0, head 0"
    assert head_in_words(explanation, 0, 1) == "layer 0, head 1 (one-signed)"
    assert head_in_words(explanation, 1, 2) == "layer 1, head 2 (softmax)"
    assert model_in_words(made(model_name="owner/name")) == "owner/name"
    assert model_in_words(made(model_name="/home/me/runs/my-model")) == "my-model"
    assert model_in_words(made(model_name="")) == ""
    assert score_name("rollout") == "signed rollout"
    assert score_name("my_own") == "my own"
