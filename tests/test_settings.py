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
        (dict(polarity=-0.1), ValueError, r"polarity must be in \[0, 1\].*-0.1"),
        (dict(polarity="signed"), ValueError, "\"learned\", but is 'signed'"),
        (dict(polarity=None), TypeError, "polarity must be a number"),
        (dict(layers=3), TypeError, "layers must be a list of indices or None, but is 3"),
        (dict(layers="01"), TypeError, "layers must be a list"),
        (dict(layers=[]), ValueError, "at least one"),
        (dict(layers=[1, 1]), ValueError, "names an index twice"),
        (dict(heads=[-1]), ValueError, "counted from 0, but holds -1"),
        (dict(heads=[0.5]), TypeError, "whole numbers, but holds 0.5"),
        (dict(score_bias="3"), TypeError, "score_bias must be a number"),
        (dict(score_bias=1e3), ValueError, "score_bias must be between"),
        (dict(score_bias=float("nan")), ValueError, "score_bias must be between"),
    ],
)
def test_bad_values(values, error, message):
    with pytest.raises(error, match=message):
        TanhMaxSettings(**values)
