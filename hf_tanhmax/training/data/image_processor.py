"""Image processors of ViT that need Pillow and no torchvision."""

from typing import Any

from transformers import AutoImageProcessor

from ...errors import RecipeError, one_line


def build_image_processor(side: int) -> Any:
    """For a model from scratch: squares of `side` pixels, values from -1 to 1."""
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def load_image_processor(name: str, side: int | None) -> Any:
    """That of a checkpoint, set to squares of `side` pixels if that is not None.

    Raises:
        RecipeError: the checkpoint has none.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        raise RecipeError(f"{name!r} has no image processor: {one_line(error, 300)}") from error
    if side is not None:
        processor.size = {"height": side, "width": side}
        if getattr(processor, "crop_size", None) is not None:
            processor.crop_size = {"height": side, "width": side}
    return processor
