"""Patches of images: names, sums and maps."""

import pytest
import torch
import transformers
from PIL import Image

from hf_tanhmax.interpret.inputs.image_patches import patch_grid, patch_names, seen_picture, sum_per_patch, upsampled


def test_the_grid_is_rows_by_columns():
    assert patch_grid(transformers.ViTConfig(patch_size=5), torch.zeros(1, 3, 10, 15)) == (2, 3)
    assert patch_grid(transformers.ViTConfig(patch_size=[5, 3]), torch.zeros(1, 3, 10, 15)) == (2, 5)
    with pytest.raises(ValueError, match="BertConfig has no patch_size"):
        patch_grid(transformers.BertConfig(), torch.zeros(1, 3, 10, 15))


def test_what_comes_before_the_patches_is_special():
    tokens, words, texts = patch_names((1, 2), 4, [2, 3])
    assert tokens == ("[CLS]", "[1]", "0, 0", "0, 1")
    assert words == (None, None, 0, 1)
    assert texts == ("0, 0", "0, 1")
    assert patch_names((1, 2), 4, [1, 2])[:2] == (("[CLS]", "0, 0", "0, 1", "[3]"), (None, 0, 1, None))  # detection tokens come last
    assert patch_names((1, 2), 2, [0, 1])[0] == ("0, 0", "0, 1")
    with pytest.raises(ValueError, match="1 positions, 1 of them of pixels, for 1 x 2 patches, so they cannot be placed in the picture"):
        patch_names((1, 2), 1, [0])


def test_a_film_is_refused():
    with pytest.raises(ValueError, match=r"must be one picture \[1, channels, height, width\], but have the shape \[1, 4, 3, 10, 15\]"):
        patch_grid(transformers.VideoMAEConfig(), torch.zeros(1, 4, 3, 10, 15))


def test_the_patches_of_a_tower():
    assert patch_grid(transformers.CLIPConfig(vision_config={"patch_size": 5}), torch.zeros(1, 3, 10, 15)) == (2, 3)


def test_what_a_processor_cuts_is_shown_as_the_model_sees_it():
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (0, 0, 10, 20))
    options = {"size": {"shortest_edge": 10}, "crop_size": {"height": 10, "width": 10}}
    for cuts in (True, False):
        processor = transformers.CLIPImageProcessorPil(do_center_crop=cuts, **options)
        shown = seen_picture(picture, processor, processor(images=picture, return_tensors="pt")["pixel_values"])
        assert shown.size == ((10, 10) if cuts else (40, 20))
        assert shown.getpixel((5, 5)) == ((255, 0, 0) if cuts else (0, 0, 255))


def test_pixels_are_added_up_in_each_patch():
    pixels = torch.arange(24.0).reshape(4, 6)
    found = sum_per_patch(pixels, (2, 2), 5, [1, 2, 3, 4])
    assert found.tolist() == [
        0,
        *(float(pixels[rows, columns].sum()) for rows in (slice(2), slice(2, 4)) for columns in (slice(3), slice(3, 6))),
    ]


def test_a_map_is_flat_or_smooth():
    scores = torch.tensor([9.0, 1.0, -1.0, 0.5, 2.0])
    flat = upsampled(scores, (2, 2), (4, 6), smooth=False)
    assert flat[0].tolist() == [1.0] * 3 + [-1.0] * 3
    assert flat[3].tolist() == [0.5] * 3 + [2.0] * 3
    smooth = upsampled(scores[1:], (2, 2), (40, 60))
    assert smooth.shape == (40, 60)
    assert (float(smooth.min()), float(smooth.max())) == (-1.0, 2.0)
    with pytest.raises(ValueError, match="5 scores cannot fill 3 x 2 patches"):
        upsampled(scores, (3, 2), (4, 6))
