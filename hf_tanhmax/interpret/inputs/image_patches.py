"""Images as grids of patches: names of patches, scores of pixels summed per patch, and scores of patches as a map of the image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

SPECIAL = "[CLS]"
# What processors have that show the model another part of a picture than the whole.
CUTS = ("do_center_crop", "do_pad", "crop_pct")


def vision_config(model_config: Any) -> Any:
    """The config of the part of a model that reads images, such as the vision tower of CLIP; of a model that is one part, its own."""
    if getattr(model_config, "patch_size", None) is not None:
        return model_config
    parts = [getattr(model_config, name, None) for name in getattr(model_config, "sub_configs", {})]
    return next((part for part in parts if getattr(part, "patch_size", None) is not None), model_config)


def seen_picture(image: "Image", processor: Any, pixels: Tensor) -> "Image":
    """A picture as the model sees it: itself, or where its processor cuts or pads it what became of it, without its normalisation.

    Args:
        image: in RGB.
        processor: the image processor, or one that joins it with others.
        pixels: `[1, channels, height, width]`, what the processor made of the picture.
    """
    from PIL import Image

    processor = getattr(processor, "image_processor", processor)
    if pixels.dim() != 4 or not any(getattr(processor, name, None) for name in CUTS):
        return image
    mean, std = (torch.tensor(getattr(processor, name)).view(-1, 1, 1) for name in ("image_mean", "image_std"))
    shown = (pixels[0].cpu().float() * std + mean) if getattr(processor, "do_normalize", True) else pixels[0].cpu().float()
    scaled = (shown * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(scaled.expand(3, -1, -1).permute(1, 2, 0).numpy())


def patch_grid(model_config: object, pixels: Tensor) -> tuple[int, int]:
    """Rows and columns of patches.

    Args:
        model_config: with `patch_size`, a number or height and width, or of a model with such a part.
        pixels: `[batch, channels, height, width]`.

    Raises:
        ValueError: the config has no patch size, or the pixels are not those of a picture.
    """
    if pixels.dim() != 4:
        raise ValueError(f"pixel_values must be one picture [1, channels, height, width], but have the shape {list(pixels.shape)}")
    size = getattr(vision_config(model_config), "patch_size", None)
    if size is None:
        raise ValueError(f"{type(model_config).__name__} has no patch_size, so its positions cannot be placed in the picture")
    height, width = (size, size) if isinstance(size, int) else size
    return pixels.shape[-2] // height, pixels.shape[-1] // width


def patch_names(
    grid: tuple[int, int], positions: int, places: Sequence[int]
) -> tuple[tuple[str, ...], tuple[int | None, ...], tuple[str, ...]]:
    """Tokens, words and word texts, as in `Explanation`, of the positions of an image; those that are no patches are special.

    Args:
        grid: rows and columns of patches.
        positions: how many there are.
        places: the positions of the patches, row by row.

    Raises:
        ValueError: fewer or more places than patches.
    """
    rows, columns = grid
    if len(places) != rows * columns or places[-1] >= positions:
        raise ValueError(
            f"the model has {positions} positions, {len(places)} of them of pixels, for {rows} x {columns} patches, so they cannot be "
            "placed in the picture; they must have been merged"
        )
    names = tuple(f"{row}, {column}" for row in range(rows) for column in range(columns))
    numbers = dict(zip(places, range(len(names)), strict=True))
    tokens = (
        names[numbers[position]] if position in numbers else SPECIAL if position == 0 else f"[{position}]" for position in range(positions)
    )
    return tuple(tokens), tuple(numbers.get(position) for position in range(positions)), names


def sum_per_patch(pixels: Tensor, grid: tuple[int, int], positions: int, places: Sequence[int]) -> Tensor:
    """Scores of pixels `[height, width]` summed over each patch, `[positions]`, at the places of the patches; others get 0."""
    rows, columns = grid
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    patches = pixels[: rows * height, : columns * width].reshape(rows, height, columns, width).sum((1, 3)).flatten()
    found = patches.new_zeros(positions)
    found[list(places)] = patches
    return found


def upsampled(scores: Tensor, grid: tuple[int, int], size: tuple[int, int], *, smooth: bool = True) -> Tensor:
    """Scores of patches as a map of the image.

    Args:
        scores: `[positions]` or `[patches]`; of positions, the last ones are the patches.
        grid: rows and columns of patches.
        size: height and width of the map, in pixels.
        smooth: bilinear; else every patch is one flat rectangle.

    Returns:
        `[height, width]`. Bilinear interpolation never leaves the range of the scores.

    Raises:
        ValueError: fewer scores than patches.
    """
    rows, columns = grid
    if len(scores) < rows * columns:
        raise ValueError(f"{len(scores)} scores cannot fill {rows} x {columns} patches")
    field = scores[-rows * columns :].reshape(1, 1, rows, columns).float()
    options = {"mode": "bilinear", "align_corners": False} if smooth else {"mode": "nearest-exact"}
    return torch.nn.functional.interpolate(field, size=size, **options)[0, 0]
