"""Classification of images: read, resized and augmented by Pillow and NumPy alone."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification, BaseImageProcessor, PreTrainedConfig, PreTrainedModel

from ...errors import RecipeError, one_line
from ..configuration.schema import ImageClassificationConfig
from ..data.rows import Splits, assembled, check_columns, check_labels, class_names, class_numbers, raw_splits, shown_names
from .task import Classification, Collator, Example, Fields

DIGITS_TEST_SHARE, DIGITS_SEED = 0.2, 42


class ImageClassification(Classification[BaseImageProcessor]):
    """ViT with a classifier over its first token."""

    config: ImageClassificationConfig
    auto_class: ClassVar = AutoModelForImageClassification
    peft_task = None
    column_names_kept = True

    def splits(self) -> Splits:
        """Rows with `image` (of Pillow) and `label`, a number below the number of names."""
        config = self.config
        raw = raw_splits(config, _digits)
        for split, rows in raw.items():
            check_columns(split, rows, config, ("image_column", "label_column"))
            self._check_images(split, rows)
            check_labels(split, rows, config)
        names = class_names(raw["train"], config.label_column)
        tables = {}
        for split, rows in raw.items():
            labels = class_numbers(split, rows, config.label_column, names)
            kept = rows.select_columns([config.image_column])
            kept = kept if config.image_column == "image" else kept.rename_column(config.image_column, "image")
            tables[split] = kept.add_column("label", labels, feature=Value("int64"))
        return assembled(config, tables, shown_names(config, names))

    def processor(self, splits: Splits) -> BaseImageProcessor:
        """The checkpoint's image processor, set to the size of the recipe; or a plain one."""
        config = self.config
        if config.model_name_or_path is not None:
            return load_image_processor(config.model_name_or_path, config.image_size)
        return build_image_processor(self._side(splits))

    def sizes(self, processor: BaseImageProcessor, splits: Splits) -> Fields:
        """Of a small ViT.

        Raises:
            RecipeError: patches that do not fill the image.
        """
        config, side = self.config, self._side(splits)
        if side % config.patch_size:
            raise RecipeError(f"patch_size must divide the {side} pixels of an image's side, but is {config.patch_size}")
        dropout = 0.1 if config.dropout is None else config.dropout
        return {
            "image_size": side,
            "patch_size": config.patch_size,
            "num_hidden_layers": config.num_layers,
            "hidden_size": config.hidden_size,
            "num_attention_heads": config.num_heads,
            "intermediate_size": 4 * config.hidden_size,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
        }

    def check_checkpoint(self, name: str, found: PreTrainedConfig) -> None:
        """Refuse an image size that the checkpoint's patches do not fill."""
        side, patch = self.config.image_size, getattr(found, "patch_size", None)
        if side and isinstance(patch, int) and side % patch:
            raise RecipeError(f"image_size is {side}, which the patches of {name}, {patch} pixels a side, do not fill")

    def adapt(self, model: PreTrainedModel) -> None:
        """Interpolate the position embeddings of a checkpoint that was made for images of another size."""
        side = self.config.image_size
        if side is None or model.config.image_size == side:
            return
        embeddings: Any = model.base_model.embeddings
        patches = (side // model.config.patch_size) ** 2 + 1
        with torch.no_grad():
            positions = embeddings.interpolate_pos_encoding(torch.empty(1, patches, model.config.hidden_size), side, side)
        embeddings.position_embeddings = torch.nn.Parameter(positions.clone())
        for holder in (embeddings, embeddings.patch_embeddings):
            if hasattr(holder, "image_size"):
                holder.image_size = (side, side)
        embeddings.patch_embeddings.num_patches = patches - 1
        model.config.image_size = side

    def examples(self, rows: Dataset, processor: BaseImageProcessor, *, training: bool) -> Dataset:
        """The rows themselves: images become numbers batch by batch, anew in every epoch."""
        return rows.rename_column("label", "labels")

    def lengths(self, rows: Dataset) -> list[int]:
        """All the same."""
        return [1] * len(rows)

    def collator(self, processor: BaseImageProcessor, *, training: bool) -> Collator:
        """Augments in training, resizes and normalises."""
        config = self.config
        augment = training and config.augmentation

        def collate(examples: list[Example]) -> Mapping[str, Tensor]:
            images = [example["image"].convert("RGB") for example in examples]
            if augment:
                images = [_augmented(image, config.crop_padding, config.flip) for image in images]
            batch = dict(processor(images=images, return_tensors="pt"))
            if "labels" in examples[0]:
                batch["labels"] = torch.tensor([example["labels"] for example in examples])
            return batch

        return collate

    def _side(self, splits: Splits) -> int:
        return self.config.image_size or max(splits.train[0]["image"].size)

    def _check_images(self, split: str, rows: Dataset) -> None:
        column = self.config.image_column
        feature = rows.features[column]
        if not isinstance(feature, Image):
            shown = repr(rows[0][column])
            raise RecipeError(
                f"column {column!r} (image_column) of the {split} data holds no images but {shown[:60]}{'...' if len(shown) > 60 else ''}; "
                "name the column of images, or give a folder with one sub-folder per class"
            )
        for number in range(len(rows)):
            try:
                found = rows[number][column]
            except (UnidentifiedImageError, OSError) as error:
                raise RecipeError(f"row {number + 1} of the {split} data holds an image that cannot be read: {error}") from error
            if found is None:
                raise RecipeError(f"row {number + 1} of the {split} data holds no image in {column!r} (image_column)")


def build_image_processor(side: int) -> BaseImageProcessor:
    """For a model from scratch: squares of `side` pixels, values from -1 to 1."""
    from transformers import ViTImageProcessorPil  # exists from Pillow alone, where torchvision is not installed

    return ViTImageProcessorPil(size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def load_image_processor(name: str, side: int | None) -> BaseImageProcessor:
    """That of a checkpoint, set to squares of `side` pixels if that is not None.

    Raises:
        RecipeError: the checkpoint has none.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        raise RecipeError(f"{name!r} has no image processor: {one_line(error)[:300]}") from error
    if side is not None:
        processor.size = {"height": side, "width": side}
        if getattr(processor, "crop_size", None) is not None:
            processor.crop_size = {"height": side, "width": side}
    return processor


def _augmented(image: Pillow.Image, padding: float, flip: bool) -> Pillow.Image:
    """A crop of the padded image at a random place, mirrored half the time if that is allowed; torch's generator decides."""
    width, height = image.size
    room = (round(padding * width), round(padding * height))
    left, top = (int(torch.randint(0, 2 * side + 1, ())) for side in room)
    padded = ImageOps.expand(image, (room[0], room[1], room[0], room[1]))
    cropped = padded.crop((left, top, left + width, top + height))
    return ImageOps.mirror(cropped) if flip and bool(torch.rand(()) < 0.5) else cropped


def _digits() -> dict[str, Dataset]:
    """scikit-learn's digits: 1,797 images of 8 x 8 pixels in ten classes, split once and for all."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    images = [Pillow.fromarray(np.clip(pixels * 16, 0, 255).astype(np.uint8)) for pixels in found.images]
    split = train_test_split(range(len(images)), test_size=DIGITS_TEST_SHARE, random_state=DIGITS_SEED, stratify=found.target)
    features = Features({"image": Image(), "label": Value("int64")})
    return {
        name: Dataset.from_dict(
            {"image": [images[row] for row in rows], "label": [int(found.target[row]) for row in rows]}, features=features
        )
        for name, rows in zip(("train", "test"), split, strict=True)
    }
