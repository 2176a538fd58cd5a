"""Images as grids of patches: names of patches, scores of pixels summed per patch, and scores of patches as a map of the image."""

import torch
from torch import Tensor

SPECIAL = "[CLS]"


def patch_grid(model_config: object, pixels: Tensor) -> tuple[int, int]:
    """Rows and columns of patches.

    Args:
        model_config: with `patch_size`, a number or height and width.
        pixels: `[batch, channels, height, width]`.

    Raises:
        ValueError: the config has no patch size.
    """
    size = getattr(model_config, "patch_size", None)
    if size is None:
        raise ValueError(f"{type(model_config).__name__} has no patch_size, so its positions cannot be placed in the picture")
    height, width = (size, size) if isinstance(size, int) else size
    return pixels.shape[-2] // height, pixels.shape[-1] // width


def patch_names(grid: tuple[int, int], positions: int) -> tuple[tuple[str, ...], tuple[int | None, ...], tuple[str, ...]]:
    """Tokens, words and word texts, as in `Explanation`, of the positions of an image; what comes before the patches is special.

    Raises:
        ValueError: fewer positions than patches.
    """
    rows, columns = grid
    extra = positions - rows * columns
    if extra < 0:
        raise ValueError(f"the model has {positions} positions for {rows} x {columns} patches; they must have been merged")
    names = tuple(f"{row}, {column}" for row in range(rows) for column in range(columns))
    special = tuple(SPECIAL if position == 0 else f"[{position}]" for position in range(extra))
    return special + names, (None,) * extra + tuple(range(len(names))), names


def sum_per_patch(pixels: Tensor, grid: tuple[int, int], positions: int) -> Tensor:
    """Scores of pixels `[height, width]` summed over each patch, `[positions]`; special positions get 0."""
    rows, columns = grid
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    patches = pixels[: rows * height, : columns * width].reshape(rows, height, columns, width).sum((1, 3)).flatten()
    return torch.cat([patches.new_zeros(positions - len(patches)), patches])


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
