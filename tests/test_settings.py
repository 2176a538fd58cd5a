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
        ({"layers": 3}, TypeError, "layers must be a list of indices or None, but is 3"),
        ({"layers": "01"}, TypeError, "layers must be a list"),
        ({"layers": []}, ValueError, "at least one"),
        ({"layers": [1, 1]}, ValueError, "names an index twice"),
        ({"heads": [-1]}, ValueError, "counted from 0, but holds -1"),
        ({"heads": [0.5]}, TypeError, "whole numbers, but holds 0.5"),
        ({"score_bias": "3"}, TypeError, "score_bias must be a number"),
        ({"score_bias": 1e3}, ValueError, "score_bias must be between"),
        ({"score_bias": float("nan")}, ValueError, "score_bias must be between"),
    ],
)
def test_bad_values(values, error, message):
    with pytest.raises(error, match=message):
        TanhMaxSettings(**values)
