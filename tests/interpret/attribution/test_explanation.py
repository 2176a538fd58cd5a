"""An explanation: oriented weights, scores by word, and a file from which it comes back as it was."""

import dataclasses

import numpy
import pytest
import torch
from families import images, text, tiny_model
from PIL import Image
from safetensors.torch import save_file

import hf_tanhmax
from hf_tanhmax.interpret import explain, load_explanation, save_explanation


@pytest.fixture(scope="module")
def found():
    return explain(tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification), {"input_ids": text(1, 5)}, methods=("contributions",))


def test_oriented_weights_are_raw_ones_times_the_sign_of_their_head(found):
    for layer in range(3):
        for head in range(3):
            torch.testing.assert_close(found.oriented[layer, head], found.weights[layer, head] * found.orientation[layer, head])


def test_scores_are_added_up_over_a_word(found):
    merged = dataclasses.replace(found, words=(None, 0, 0, 1, None), word_texts=("one", "two"))
    scores = found.scores["contributions"]
    torch.testing.assert_close(merged.by_word("contributions"), torch.stack([scores[1] + scores[2], scores[3]]))


def test_scores_that_were_not_computed_are_refused(found):
    with pytest.raises(ValueError, match='no scores named "rollout"; this explanation has contributions'):
        found.by_word("rollout")


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_round_trip(tmp_path, family):
    if family == "bert":
        model, inputs = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification), {"input_ids": text(1, 5)}
    else:
        model, inputs = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification), {"pixel_values": images(1)}
    found = explain(model, inputs, methods=("contributions", "gradient"))
    if family == "vit":
        pixels = numpy.arange(4 * 6 * 3, dtype=numpy.uint8).reshape(4, 6, 3)
        found = dataclasses.replace(found, image=Image.fromarray(pixels))
    save_explanation(found, tmp_path / "one.safetensors")
    read = load_explanation(tmp_path / "one.safetensors")
    for field in dataclasses.fields(found):
        have, want = getattr(read, field.name), getattr(found, field.name)
        if field.name == "image" and want is not None:
            assert (numpy.asarray(have) == numpy.asarray(want)).all()
        elif isinstance(want, torch.Tensor) or field.name == "scores":
            torch.testing.assert_close(have, want, rtol=0, atol=0)
        else:
            assert have == want
    assert list(read.scores) == ["contributions", "gradient"]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_explanation(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no tensors at all")
    with pytest.raises(ValueError, match="is no safetensors file"):
        load_explanation(tmp_path / "text")
    save_file({"weights": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds no explanation; save_explanation writes them"):
        load_explanation(tmp_path / "model.safetensors")
