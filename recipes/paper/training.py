"""Train the classifier as the paper does: Adadelta on shuffled batches, tensors in memory, everything that is random told by the seed."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .modeling import PaperClassifier, PaperConfig


@dataclass(frozen=True)
class Documents:
    """Sentences as numbers.

    Attributes:
        input_ids: [N, L] int64, padded with 0 at the end.
        labels: [N] int64, 0 or 1.
    """

    input_ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> "Documents":
        """Some of them, by number."""
        return Documents(self.input_ids[rows], self.labels[rows])


@dataclass(frozen=True)
class Schedule:
    """How to train.

    Attributes:
        learning_rate: of Adadelta.
        epochs: passes over the documents.
        batch_size: documents a step.
        loss_factor: what the mean cross entropy is multiplied by. Adadelta divides by the size of the gradient, so this only says
            how small its epsilon is beside it; the published code has 100.
    """

    learning_rate: float
    epochs: int = 100
    batch_size: int = 100
    loss_factor: float = 100.0


def trained(
    config: PaperConfig,
    documents: Documents,
    schedule: Schedule,
    *,
    seed: int,
    after_epoch: Callable[[int, PaperClassifier], None] | None = None,
) -> PaperClassifier:
    """A classifier trained from random weights, in evaluation mode.

    Args:
        config: of the classifier.
        documents: to learn from.
        schedule: how.
        seed: of the weights, the order of the documents and the dropout.
        after_epoch: called after every epoch with its number, from 1, and the model in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PaperClassifier(config)
        optimizer = torch.optim.Adadelta(model.parameters(), lr=schedule.learning_rate, foreach=True)
        for epoch in range(1, schedule.epochs + 1):
            model.train()
            for rows in torch.randperm(len(documents)).split(schedule.batch_size):
                loss = model(documents.input_ids[rows], labels=documents.labels[rows]).loss * schedule.loss_factor
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            model.eval()
            if after_epoch is not None:
                after_epoch(epoch, model)
    return model.eval()


@torch.no_grad()
def accuracy(model: PaperClassifier, documents: Documents) -> float:
    """Share of documents on the right side of 0, without dropout."""
    batches = zip(documents.input_ids.split(1000), documents.labels.split(1000), strict=True)
    right = [((model(ids).logits > 0) == (labels == 1)).sum() for ids, labels in batches]
    return float(torch.stack(right).sum()) / len(documents)
