"""CIFAR-10, a part of it, and scikit-learn's digits: pixels between -1 and 1."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from hf_tanhmax.errors import RecipeError

from ..plan import Task
from .batches import LABELS, Batch, TaskData, in_batches
from .texts import digest

CIFAR_VALIDATION = 1000
DIGITS_TRAINING, DIGITS_VALIDATION = 1200, 197
SPLIT_SEED = 0
PIXELS = "pixel_values"


def digits(task: Task) -> TaskData:
    """1,797 images of 8 x 8 pixels in shades of grey."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(found.target))
    rows = {
        PIXELS: torch.tensor(found.images[order] / 8.0 - 1.0, dtype=torch.float32)[:, None],
        LABELS: torch.tensor(found.target[order], dtype=torch.int64),
    }
    cut = DIGITS_TRAINING + DIGITS_VALIDATION
    return _split(task, rows, (DIGITS_TRAINING, cut), None, {"source": "scikit-learn, digits"}, flip=False)


def cifar10(task: Task, folder: Path) -> TaskData:
    """The rows of `cifar10/train.parquet` and `cifar10/test.parquet`; training images may be mirrored."""
    files = {split: folder / "cifar10" / f"{split}.parquet" for split in ("train", "test")}
    origin: dict[str, object] = {split: digest(path) for split, path in files.items()}
    train, test = (_pixels(path) for path in files.values())
    order = torch.randperm(len(train[LABELS]), generator=torch.Generator().manual_seed(SPLIT_SEED))
    rows = {name: value[order] for name, value in train.items()}
    kept = len(order) - min(CIFAR_VALIDATION, len(order) // 5)
    return _split(task, rows, (kept, len(order)), test, origin, flip=True)


def _pixels(path: Path) -> Batch:
    table = Dataset.from_parquet(str(path))
    images = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in table["image"]]))
    return {PIXELS: images.permute(0, 3, 1, 2).float() / 127.5 - 1.0, LABELS: torch.tensor(table["label"])}


def _split(task: Task, rows: Batch, cuts: tuple[int, int], test: Batch | None, origin: dict[str, object], *, flip: bool) -> TaskData:
    """Training rows, validation rows and, after the second cut or from elsewhere, test rows."""
    train, validation, rest = ({name: value[start:end] for name, value in rows.items()} for start, end in _spans(cuts))
    side = train[PIXELS].shape[-1]
    if side != task.image_size:
        raise RecipeError(f"the images of {task.name} are {side} pixels wide, but the plan says {task.image_size}")
    if len(train[LABELS]) < task.batch_size:
        raise RecipeError(f"{task.name} has {len(train[LABELS])} training images, fewer than a batch of {task.batch_size}")

    def _training(seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            for chosen in torch.randperm(len(train[LABELS]), generator=generator).split(task.batch_size):
                if len(chosen) < task.batch_size:
                    continue
                pixels = train[PIXELS][chosen]
                mirrored = torch.rand(len(chosen), generator=generator) < 0.5 * flip
                yield {PIXELS: torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels), LABELS: train[LABELS][chosen]}

    classes = 1 + int(rows[LABELS].max())
    batches = in_batches(rest if test is None else test)
    return TaskData(train[PIXELS].shape[1], classes, _training, in_batches(validation), {"test": batches}, origin=origin)


def _spans(cuts: tuple[int, int]) -> tuple[tuple[int, int | None], ...]:
    return ((0, cuts[0]), (cuts[0], cuts[1]), (cuts[1], None))
