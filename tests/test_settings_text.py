"""Settings in words: every kind of polarity, and which layers and heads."""

import pytest

from hf_tanhmax import TanhMaxSettings
from hf_tanhmax.settings_text import settings_in_words, some


@pytest.mark.parametrize(
    ("settings", "layers", "words"),
    [
        ({}, 6, "TanhMax attention (polarity 1) in all 6 layers and all heads"),
        ({}, None, "TanhMax attention (polarity 1) in all layers and all heads"),
        ({"polarity": 0.0}, 6, "TanhMax attention at polarity 0, which computes softmax, in all 6 layers and all heads"),
        ({"polarity": 0.25}, 6, "attention of polarity 0.25, between softmax (0) and TanhMax (1), in all 6 layers and all heads"),
        ({"polarity": "learned"}, 6, "TanhMax attention whose polarity every head learned for itself, in all 6 layers and all heads"),
        ({"layers": [2, 0]}, 6, "TanhMax attention (polarity 1) in layers 0, 2 of 6 (the others are softmax) and all heads"),
        ({"layers": [2]}, None, "TanhMax attention (polarity 1) in layer 2 (the others are softmax) and all heads"),
        ({"heads": [1]}, 6, "TanhMax attention (polarity 1) in all 6 layers and head 1 of each (the others are softmax)"),
    ],
)
def test_settings(settings, layers, words):
    assert settings_in_words(TanhMaxSettings(**settings), layers=layers) == words


@pytest.mark.parametrize(("names", "words"), [([], ""), ("ab", "a, b"), ("dcba", "a, b, c and 1 more")])
def test_some(names, words):
    assert some(names) == words
