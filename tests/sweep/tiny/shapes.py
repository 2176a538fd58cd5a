"""Of model types, the inputs that the names of arguments do not tell."""

from collections.abc import Callable
from typing import Any

import torch


def ones(*shape: int, dtype: torch.dtype = torch.long) -> Callable[[Any], torch.Tensor]:
    """Ones of a shape, which follows the batch."""
    return lambda inputs: torch.ones(inputs.batch, *shape, dtype=dtype)


def rows(*row: Any) -> Callable[[Any], torch.Tensor]:
    """The same row for each example."""
    return lambda inputs: torch.tensor([row] * inputs.batch)


def below(size: int, *shape: int) -> Callable[[Any], torch.Tensor]:
    """Random whole numbers from 0 below a size."""
    return lambda inputs: torch.randint(0, size, (inputs.batch, *shape))


def places(rows_of_patches: int, columns: int) -> Callable[[Any], torch.Tensor]:
    """Column and row of each patch of an image."""
    return lambda inputs: torch.cartesian_prod(torch.arange(rows_of_patches), torch.arange(columns)).flip(-1).repeat(inputs.batch, 1, 1)


TILED = {"pixel_values": (2, 3, 32, 32), "image_sizes": rows(32, 32)}
MANY = {"pixel_values": (1, 3, 32, 32)}
GEMMA = {"pixel_values": (36, 192), "image_position_ids": places(6, 6), "pixel_position_ids": places(6, 6)}

# Of each type, what its arguments are: a shape after the batch, of random numbers; a function that makes the input; None to leave it out.
INPUTS: dict[str, dict[str, Any]] = {
    "audio-spectrogram-transformer": {"input_values": (24, 16)},
    "blip_2_qformer": {"encoder_hidden_states": (5, 32)},
    "clap": {"input_features": (1, 32, 16)},
    "clap_audio_model": {"input_features": (1, 32, 16)},
    "colmodernvbert": MANY,
    "colqwen2": {"pixel_values": (16, 384), "image_grid_thw": rows(1, 4, 4)},
    "dac": {"input_values": (1, 400)},
    "encodec": {"input_values": (1, 400)},
    "mimi": {"input_values": (1, 400)},
    "gemma4": GEMMA,
    "gemma4_vision": GEMMA,
    "granite_docling": MANY | {"pixel_attention_mask": ones(1, dtype=torch.bool)},
    "idefics2": MANY,
    "idefics3": MANY,
    "lfm2_vl": {"pixel_values": (16, 192), "spatial_shapes": rows(4, 4), "pixel_attention_mask": ones(16)},
    "llava_next": TILED,
    "llava_next_video": TILED,
    "llava_onevision": TILED,
    "mistral3": {"image_sizes": rows(32, 32)},
    "mistral_large4": {"image_sizes": rows(32, 32)},
    "mllama": {
        "pixel_values": (1, 4, 3, 32, 32),
        "aspect_ratio_ids": ones(1),
        "aspect_ratio_mask": ones(1, 4),
        "cross_attention_mask": ones(9, 1, 4),
    },
    "mllama_vision_model": {"pixel_values": (1, 4, 3, 32, 32), "aspect_ratio_ids": ones(1), "aspect_ratio_mask": ones(1, 4)},
    "modernvbert": MANY,
}
