"""What the attention of a model computes, in sentences."""

import pytest
from families import tiny_model
from walked import WALKED

import hf_tanhmax
from hf_tanhmax.integration.summary import attention_summary, parts_summary, softmax_summary


def test_a_model_of_one_part():
    model = tiny_model(hf_tanhmax.TanhMaxBertModel, tanhmax_layers=[1])
    assert attention_summary(model) == "TanhMax attention (polarity 1) in layer 1 of 3 (the others are softmax) and all heads"
    assert parts_summary(model) == softmax_summary(model) == []


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (None, ["TanhMax in all 2 layers", "TanhMax in all 2 layers"]),
        ((0,), ["TanhMax in 1 of 2 layers, softmax in the others", "softmax in all 2 layers"]),
        (("vision_model",), ["softmax in all 2 layers", "TanhMax in all 2 layers"]),
        (("layers.0",), ["TanhMax in 1 of 2 layers, softmax in the others"] * 2),
    ],
)
def test_towers(layers, said):
    towers = ("text_model.encoder.layers", "vision_model.encoder.layers")
    assert parts_summary(WALKED["clip"].model(layers=layers)) == [f"{tower}: {words}" for tower, words in zip(towers, said, strict=True)]


def test_a_part_that_stays_softmax():
    found = softmax_summary(WALKED["siglip_vision"].model())
    assert found == ["MultiheadAttention (vision_model.head.attention) computes softmax by itself, whatever the settings are"]
