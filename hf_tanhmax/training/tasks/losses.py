"""Losses that do not depend on how a step is split into batches: a local sum, divided by the count over the whole step.

Args of each: outputs of the model, with logits; labels, -100 where nothing is learned; the number of labels of the step over all processes
and accumulated batches, None for those that are here.
"""

from collections.abc import Mapping

from torch import Tensor, nn

IGNORED = -100


def class_loss(outputs: Mapping[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross entropy of logits `[rows, classes]` and labels `[rows]`."""
    total = nn.functional.cross_entropy(outputs["logits"].float(), labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def token_loss(outputs: Mapping[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross entropy of logits `[rows, length, vocabulary]` and labels `[rows, length]` at the same places."""
    count = (labels != IGNORED).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    return token_losses(outputs["logits"], labels).sum() / count


def next_token_loss(outputs: Mapping[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross entropy where the logits at one place are for the label at the next; the first label of a row must be -100."""
    return token_loss({"logits": outputs["logits"][:, :-1]}, labels[:, 1:], num_items_in_batch)


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy `[rows, length]`, 0 where the label is -100."""
    return nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
