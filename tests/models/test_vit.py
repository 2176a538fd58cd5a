"""What ViT has beyond the other families: file names that differ from module names, a mask token, images of other sizes."""

import pytest
import torch
import transformers
from families import assert_same, images, inputs_for, run, softmax_twin, tiny_config, tiny_model
from safetensors.torch import load_file

from hf_tanhmax import TanhMaxViTConfig, TanhMaxViTForImageClassification, TanhMaxViTForMaskedImageModeling, TanhMaxViTModel


def test_model_type():
    assert TanhMaxViTConfig.model_type == "tanhmax_vit"
    assert tiny_config("vit").model_type == "tanhmax_vit"


@pytest.mark.parametrize("cls", [TanhMaxViTModel, TanhMaxViTForImageClassification, TanhMaxViTForMaskedImageModeling])
def test_files_hold_the_names_of_the_upstream_family(cls, tmp_path):
    model = tiny_model(cls)
    for name, each in (("ours", model), ("theirs", softmax_twin(model))):
        each.save_pretrained(tmp_path / name)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("mask_token", [True, False])
def test_mask_token(mask_token, tmp_path):
    model = TanhMaxViTModel(tiny_config("vit"), use_mask_token=mask_token).eval()
    model.save_pretrained(tmp_path)
    again, report = TanhMaxViTModel.from_pretrained(tmp_path, use_mask_token=mask_token, output_loading_info=True)
    assert not report["missing_keys"]
    assert (again.embeddings.mask_token is not None) == mask_token
    inputs = inputs_for("vit", "AutoModelForMaskedImageModeling" if mask_token else "AutoModel")
    assert_same(run(again, inputs), run(model, inputs), atol=1e-6, rtol=1e-5)


def test_images_of_another_size():
    model = tiny_model(TanhMaxViTModel)
    assert run(model, {"pixel_values": images(size=25)}, interpolate_pos_encoding=True).last_hidden_state.shape == (2, 26, 21)
    with pytest.raises(ValueError, match="doesn't match model"):
        run(model, {"pixel_values": images(size=25)})


def test_polarity_zero_is_vit():
    model = tiny_model(TanhMaxViTForImageClassification, tanhmax_polarity=0.0)
    assert_same(run(model, inputs_for("vit")), run(softmax_twin(model), inputs_for("vit")))


def test_native_heads_and_ours_read_each_other(tmp_path):
    model = tiny_model(TanhMaxViTForImageClassification)
    softmax_twin(model).save_pretrained(tmp_path / "theirs")
    ours, report = TanhMaxViTForImageClassification.from_pretrained(tmp_path / "theirs", config=model.config, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(run(ours, inputs_for("vit")), run(model, inputs_for("vit")), atol=1e-6, rtol=1e-5)
    model.save_pretrained(tmp_path / "ours")
    theirs, report = transformers.ViTForImageClassification.from_pretrained(
        tmp_path / "ours", config=tiny_config("vit", upstream=True), output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(run(theirs, inputs_for("vit")), run(softmax_twin(model), inputs_for("vit")))
