"""Rows of a task: texts as token ids, images as pixels, and batches of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer

from hf_tanhmax.training.tasks.image_classification import load_image_processor
from hf_tanhmax.training.trainer import LengthSampler

from .plan import ClassifierTask

VALIDATION_SHARE = 0.1
SPLIT_SEED = 0
EVALUATION_BATCH = 64
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Rows:
    """Rows of one split.

    Attributes:
        inputs: token ids, or pixels `[3, height, width]`, for each row.
        labels: `[rows]`.
        padding: the token that fills up shorter texts; None for images.
    """

    inputs: list[Tensor]
    labels: Tensor
    padding: int | None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text; of images all are the same."""
        return [len(each) for each in self.inputs]

    def batch(self, indices: list[int]) -> Batch:
        """What the model takes for some of the rows, without labels."""
        chosen = [self.inputs[index] for index in indices]
        if self.padding is None:
            return {"pixel_values": torch.stack(chosen)}
        ids = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=self.padding)
        lengths = torch.tensor([len(each) for each in chosen])
        return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}

    def training_batches(self, size: int, seed: int, epoch: int) -> Iterator[tuple[Batch, Tensor]]:
        """Full batches of rows of similar length, in an order that seed and epoch decide, with their labels."""
        sampler = LengthSampler(self.lengths, batch_size=size, seed=seed)
        sampler.set_epoch(epoch)
        order = list(sampler)
        for first in range(0, len(order) - size + 1, size):
            indices = order[first : first + size]
            yield self.batch(indices), self.labels[indices]

    def chosen(self, count: int, seed: int, *, batch_size: int = EVALUATION_BATCH) -> list[Batch]:
        """Batches of some rows of similar length, without labels, for calibration and measurements."""
        picked = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count].tolist()
        picked.sort(key=lambda index: len(self.inputs[index]))
        return [self.batch(picked[first : first + batch_size]) for first in range(0, len(picked), batch_size)]

    def part(self, indices: list[int]) -> "Rows":
        """Some of the rows."""
        return Rows([self.inputs[index] for index in indices], self.labels[indices], self.padding)


def read_rows(task: ClassifierTask, data: Path, model: Path) -> dict[str, Rows]:
    """The rows for `train`, `validation` and `test`.

    Args:
        task: says which files.
        data: the folder that they are in.
        model: the checkpoint, whose tokenizer or image processor reads them.
    """
    train = _read(data / task.train, task, model, shuffled=True, count=task.max_train_rows)
    if task.validation is None:
        held = round(VALIDATION_SHARE * len(train))
        validation, train = train.part(list(range(len(train) - held, len(train)))), train.part(list(range(len(train) - held)))
    else:
        validation = _read(data / task.validation, task, model)
    test = _read(data / task.test, task, model, shuffled=task.max_test_rows is not None, count=task.max_test_rows)
    return {"train": train, "validation": validation, "test": test}


def _read(path: Path, task: ClassifierTask, model: Path, *, shuffled: bool = False, count: int | None = None) -> Rows:
    reader: Any = Dataset.from_csv if path.suffix == ".csv" else Dataset.from_parquet
    table = reader(str(path))
    if shuffled:
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
        table = table.select(order[:count])
    labels = torch.tensor(table["label"])
    if task.image_size is not None:
        processor = load_image_processor(str(model), task.image_size)
        images = [each.convert("RGB") for each in table["image"]]
        return Rows(list(torch.as_tensor(processor(images=images, return_tensors="pt")["pixel_values"])), labels, None)
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [text or "" for text in table["text"]]
    ids = tokenizer(texts, truncation=True, max_length=task.max_length)["input_ids"]
    return Rows([torch.tensor(each) for each in ids], labels, tokenizer.pad_token_id)
