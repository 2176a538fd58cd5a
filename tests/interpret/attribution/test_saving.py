"""An explanation comes back from its file as it was."""

import dataclasses

import numpy
import pytest
import torch
from families import images, text, tiny_model
from PIL import Image
from safetensors.torch import save_file

import hf_tanhmax
from hf_tanhmax.interpret import explain, load_explanation, save_explanation


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
        elif isinstance(want, torch.Tensor | dict):
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
