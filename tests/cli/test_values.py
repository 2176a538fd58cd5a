"""Words of options: what they stand for, and what is said of one that it cannot be."""

import argparse

import pytest

from hf_tanhmax.cli import values


@pytest.mark.parametrize(
    ("read", "text", "found"),
    [
        (values.polarity, "0.25", 0.25),
        (values.polarity, "learned", "learned"),
        (values.balance, "1", 1.0),
        (values.indices, "0,2", [0, 2]),
        (values.layers, "0,vision_model, layers.*.self_attn", [0, "vision_model", "layers.*.self_attn"]),
        (values.parts, "MultiheadAttention, vision_model.head", ["MultiheadAttention", "vision_model.head"]),
        (values.count, "7", 7),
        (values.names, "a, b,", ["a", "b"]),
    ],
)
def test_words(read, text, found):
    assert read(text) == found


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (values.polarity, "1.5", r'must be a number in \[0, 1\] or "learned", but is \'1.5\''),
        (values.balance, "0", r"must be a number in \(0, 1\], but is '0'"),
        (values.indices, "0,a", "must be whole numbers with commas between them"),
        (values.layers, "a,,b", "must be numbers or names with commas between them"),
        (values.parts, "a b", "must be numbers or names with commas between them"),
        (values.count, "0", "must be 1 or more, but is '0'"),
    ],
)
def test_words_that_cannot_be(read, text, said):
    with pytest.raises(argparse.ArgumentTypeError, match=said):
        read(text)
