"""Rows of a task as batches: endless ones for training, the same ones for everybody for validation and test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

LABELS = "labels"
IGNORED = -100  # a token that is not to be predicted
EVALUATION_BATCH = 64
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TaskData:
    """The data of one task.

    Attributes:
        words: in the vocabulary; of images, channels.
        classes: of a classifier; 2 where there are none.
        training: endless batches, of a seed.
        validation: batches; order and rows are fixed.
        test: the same, by the name of the part; the first is that which the task is named after.
        bayes: by part, the accuracy of the best answer to each row, where it is known.
        origin: where the rows came from: digests of files, or settings of the generator.
    """

    words: int
    classes: int
    training: Callable[[int], Iterator[Batch]]
    validation: list[Batch]
    test: dict[str, list[Batch]]
    bayes: dict[str, float] = field(default_factory=dict)
    origin: dict[str, object] = field(default_factory=dict)


def in_batches(rows: Batch, size: int = EVALUATION_BATCH) -> list[Batch]:
    """Tensors of all rows, cut into batches; padding that a whole batch shares is cut off.

    Args:
        rows: with a first dimension of the rows.
        size: rows of a batch.
    """
    count = len(rows[LABELS])
    return [trimmed({name: value[first : first + size] for name, value in rows.items()}) for first in range(0, count, size)]


def trimmed(batch: Batch) -> Batch:
    """A batch without the columns at its end that are padding in every row; labels per row stay as they are."""
    mask = batch.get("attention_mask")
    if mask is None:
        return batch
    length = int(mask.any(0).nonzero().max()) + 1
    return {name: value[:, :length] if value.dim() == 2 else value for name, value in batch.items()}
