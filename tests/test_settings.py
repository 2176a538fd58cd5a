"""Settings cannot be wrong."""

import dataclasses

import pytest

from hf_tanhmax import TanhMaxSettings


def test_defaults_are_tanhmax_everywhere():
    settings = TanhMaxSettings()
    assert (settings.polarity, settings.layers, settings.heads, settings.learned) == (1.0, None, None, False)


def test_values_are_normalised():
    settings = TanhMaxSettings(polarity=1, layers=[2, 0], heads=range(3))
    assert settings == TanhMaxSettings(1.0, (0, 2), (0, 1, 2))
    assert TanhMaxSettings(polarity="learned").learned


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TanhMaxSettings().polarity = 0.5


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"polarity": -0.1}, ValueError, r"polarity must be in \[0, 1\].*-0.1"),
        ({"polarity": "signed"}, ValueError, "\"learned\", but is 'signed'"),
        ({"polarity": None}, TypeError, "polarity must be a number"),
        ({"layers": 3}, TypeError, "layers must be a list of indices or names or None, but is 3"),
        ({"layers": "01"}, TypeError, "layers must be a list"),
        ({"layers": []}, ValueError, "at least one"),
        ({"layers": [1, 1]}, ValueError, "names an index twice"),
        ({"heads": [-1]}, ValueError, "counted from 0, but holds -1"),
        ({"heads": [0.5]}, TypeError, "whole numbers, but holds 0.5"),
        ({"shift": "centred"}, ValueError, "shift must be None or \"balanced\", but is 'centred'"),
        ({"shift": 0.5}, ValueError, 'shift must be None or "balanced", but is 0.5'),
        ({"score_bias": "3"}, TypeError, "score_bias must be a number"),
        ({"score_bias": 1e3}, ValueError, "score_bias must be between"),
        ({"score_bias": float("nan")}, ValueError, "score_bias must be between"),
    ],
)
def test_bad_values(values, error, message):
    with pytest.raises(error, match=message):
        TanhMaxSettings(**values)


@pytest.mark.parametrize(
    ("settings", "layers", "words"),
    [
        ({}, 6, "TanhMax attention (polarity 1) in all 6 layers and all heads"),
        ({}, None, "TanhMax attention (polarity 1) in all layers and all heads"),
        ({"polarity": 0.0}, 6, "TanhMax attention at polarity 0, which computes softmax, in all 6 layers and all heads"),
        ({"polarity": 0.25}, 6, "attention of polarity 0.25, between softmax (0) and TanhMax (1), in all 6 layers and all heads"),
        ({"polarity": "learned"}, 6, "TanhMax attention whose polarity every head learned for itself, in all 6 layers and all heads"),
        ({"shift": "balanced"}, 6, "TanhMax attention with a balanced shift (polarity 1) in all 6 layers and all heads"),
        (
            {"shift": "balanced", "polarity": 0.2},
            None,
            "TanhMax attention with a balanced shift (polarity 0.2) in all layers and all heads",
        ),
        (
            {"shift": "balanced", "polarity": 0.0},
            None,
            "TanhMax attention with a balanced shift at polarity 0, which computes softmax, in all layers and all heads",
        ),
        (
            {"shift": "balanced", "polarity": "learned"},
            None,
            "TanhMax attention with a balanced shift whose polarity every head learned for itself, in all layers and all heads",
        ),
        ({"layers": [2, 0]}, 6, "TanhMax attention (polarity 1) in layers 0, 2 of 6 (the others are softmax) and all heads"),
        ({"layers": [2]}, None, "TanhMax attention (polarity 1) in layer 2 (the others are softmax) and all heads"),
        ({"heads": [1]}, 6, "TanhMax attention (polarity 1) in all 6 layers and head 1 of each (the others are softmax)"),
    ],
)
def test_in_words(settings, layers, words):
    assert TanhMaxSettings(**settings).describe(layers=layers) == words
