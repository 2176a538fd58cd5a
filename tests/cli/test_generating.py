"""Options that explanations of written tokens would leave out are refused before anything is loaded."""

import argparse
from pathlib import Path

import pytest

from hf_tanhmax.cli.generating import GENERATING, UNHEARD, WHOLE, check_generating

NOTHING = dict.fromkeys(("methods", "text_pair", "target", "position", "max_length", *UNHEARD))


def options(out="a.html", generate=2, whole=None, **changes):
    given = {"out": Path(out), "generate": generate, "whole_generation": whole, "text": ["a"], **NOTHING, **changes}
    return argparse.Namespace(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"whole": "input_x_gradient", "generate": None}, WHOLE),
        ({"whole": "input_x_gradient", "methods": ["alti"]}, WHOLE),
        ({"whole": "input_x_gradient", "out": "a.safetensors"}, WHOLE),
        ({"text": ["a", "b"]}, GENERATING),
        ({"position": 0}, GENERATING),
        ({"max_length": 4}, "--max-length does not go with --generate, as the text grows"),
        ({"whole": "input_x_gradient", "out": "a.json", "twin": "t"}, "--twin does not go with --whole-generation and .json"),
        ({"whole": "input_x_gradient", "out": "a.png", "layers": [7]}, "--layers does not go with --whole-generation and .png"),
        ({"out": "a.png", "picture": "heads"}, "of several tokens only --picture next can be drawn"),
        ({"out": "a.png", "head": [0, 1]}, "of several tokens only --picture next can be drawn"),
    ],
)
def test_what_would_not_be_heard(given, message):
    with pytest.raises(ValueError, match=f"^{message.replace('(', chr(92) + '(')[:60]}"):
        check_generating(options(**given))


def test_what_is_heard():
    for given in ({}, {"out": "a.png", "picture": "next"}, {"whole": "input_x_gradient", "twin": "t"}, {"generate": 1, "picture": "heads"}):
        check_generating(options(**given))
    check_generating(options(generate=None, max_length=4, position=1, text=["a", "b"]))
