"""Colours of signed numbers: white at zero, both sides equally dark, told apart by eyes that miss a colour."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from hf_tanhmax.interpret.viz import colours

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour):
    channels = np.array(to_rgb(colour))
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lightness(colour):
    """CIE L*, from 0 to 100."""
    return 116 * np.cbrt(linear(colour) @ [0.2126, 0.7152, 0.0722]) - 16


def test_zero_is_exactly_white():
    found = colours.colour_map()
    assert found(0.5)[:3] == (1, 1, 1)
    assert found(0.49)[:3] != (1, 1, 1) != found(0.51)[:3]
    red, _, blue, _ = found(1.0)
    assert blue > red
    red, _, blue, _ = found(0.0)
    assert red > blue


@pytest.mark.parametrize(("positive", "negative"), [("POSITIVE", "NEGATIVE"), ("DARK_POSITIVE", "DARK_NEGATIVE")])
def test_both_sides_are_equally_dark(positive, negative):
    steps = [
        (lightness(left), lightness(right)) for left, right in zip(getattr(colours, positive), getattr(colours, negative), strict=True)
    ]
    assert all(abs(left - right) < 6 for left, right in steps)
    sizes = [left for left, _ in steps]
    assert sizes in (sorted(sizes), sorted(sizes, reverse=True))
    assert abs(sizes[0] - sizes[-1]) > 60


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_sides_are_told_apart(kind):
    """By hue alone, as their lightness is the same; red and green of the same lightness come much closer."""

    def apart(left, right):
        seen = [np.clip(np.array(BLINDNESS[kind]) @ linear(colour), 0, 1) ** (1 / 2.2) for colour in (left, right)]
        return np.abs(seen[0] - seen[1]).max()

    for positive, negative in zip(colours.POSITIVE[2:], colours.NEGATIVE[2:], strict=True):
        assert apart(positive, negative) > 0.25
