"""Train classifiers as the paper does: Adadelta on shuffled batches, tensors in memory; several seeds at once, which costs little more.

The seeds share no number. Each has a generator of its own for the order of the documents and the dropout, and Adadelta works element by
element, so a seed gives the same model, up to rounding, whatever seeds are trained beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .modeling import PaperClassifier, PaperConfig
from .row_adadelta import EPSILON, RHO, RowAdadelta

AfterEpoch = Callable[[int, Callable[[], list[PaperClassifier]]], object]


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
    config: PaperConfig, documents: Documents, schedule: Schedule, *, seeds: Sequence[int], after_epoch: AfterEpoch | None = None
) -> list[PaperClassifier]:
    """Classifiers trained from random weights, one for each seed, in evaluation mode.

    Args:
        config: of the classifiers.
        documents: to learn from.
        schedule: how.
        seeds: each decides the weights, the order of the documents and the dropout of one classifier.
        after_epoch: called after every epoch with its number, from 1, and a function that gives the classifiers as they are then.
    """
    models = [_initial(config, seed) for seed in seeds]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    stacked = {
        name: torch.stack([dict(model.named_parameters())[name].detach() for model in models]) for name, _ in models[0].named_parameters()
    }
    table = stacked["embeddings.weight"]
    others = [weight.requires_grad_() for weight in stacked.values() if weight is not table]
    optimizer = torch.optim.Adadelta(others, lr=schedule.learning_rate, rho=RHO, eps=EPSILON, foreach=True)
    row_optimizer = RowAdadelta(table, schedule.learning_rate)

    def current() -> list[PaperClassifier]:
        with torch.no_grad():
            for number, model in enumerate(models):
                for name, parameter in model.named_parameters():
                    parameter.copy_(stacked[name][number])
        return models

    for epoch in range(1, schedule.epochs + 1):
        orders = torch.stack([torch.randperm(len(documents), generator=generator) for generator in generators])
        for rows in orders.split(schedule.batch_size, dim=1):
            factors = torch.stack([_dropout(config, rows.shape[1], generator) for generator in generators])
            words, places = documents.input_ids[rows].unique(return_inverse=True)
            embeddings = table[:, words].requires_grad_()
            keep = models[0].keep(documents.input_ids[rows])
            logits = stacked_logits(models[0], stacked, embeddings, places, keep, factors)
            losses = binary_cross_entropy_with_logits(logits, documents.labels[rows].float(), reduction="none").mean(1)
            optimizer.zero_grad(set_to_none=True)
            (losses.sum() * schedule.loss_factor).backward()
            optimizer.step()
            row_optimizer.step(words, cast(Tensor, embeddings.grad))
        if after_epoch is not None:
            after_epoch(epoch, current)
    return current()


def stacked_logits(
    model: PaperClassifier, weights: dict[str, Tensor], embeddings: Tensor, places: Tensor, keep: Tensor, factors: Tensor
) -> Tensor:
    """Logits [S, B] of S classifiers, each for its own documents: `PaperClassifier.forward` with one more dimension in front.

    Args:
        model: one of them, for its config and activation.
        weights: their parameters by name, each [S, ...].
        embeddings: of the U words that occur, [S, U, E].
        places: the word at each position, as its place among those, [S, B, L].
        keep: which positions take part, [S, B, L].
        factors: what dropout multiplies the attended vectors by, [S, B, H].
    """
    config, size = model.config, model.config.hidden_size
    matrix = torch.cat([weights[f"{name}.weight"] for name in ("query", "key", "value")], dim=1)
    shift = torch.cat([weights[f"{name}.bias"] for name in ("query", "key", "value")], dim=1)
    query, key, value = torch.baddbmm(shift[:, None], embeddings, matrix.mT).split(size, dim=-1)
    if config.score_function == "dot":
        scores = (query * key).sum(-1) / config.scale
    else:
        scores = (torch.tanh(query + key) @ weights["score_vector"][..., None]).squeeze(-1)
    if config.score_bias is not None:
        scores = scores + weights["score_bias"][:, None]
    places = places + torch.arange(len(places))[:, None, None] * embeddings.shape[1]
    lookup = torch.nn.functional.embedding
    attention = model.activate(lookup(places, scores.reshape(-1, 1)).squeeze(-1), keep)
    context = (attention.unsqueeze(-2) @ lookup(places, value.reshape(-1, size))).squeeze(-2)
    return (context * factors @ weights["readout.weight"].mT).squeeze(-1) + weights["readout.bias"]


@torch.no_grad()
def accuracy(model: PaperClassifier, documents: Documents) -> float:
    """Share of documents on the right side of 0, without dropout."""
    batches = zip(documents.input_ids.split(1000), documents.labels.split(1000), strict=True)
    right = [((model(ids).logits > 0) == (labels == 1)).sum() for ids, labels in batches]
    return float(torch.stack(right).sum()) / len(documents)


def _initial(config: PaperConfig, seed: int) -> PaperClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PaperClassifier(config).eval()


def _dropout(config: PaperConfig, documents: int, generator: torch.Generator) -> Tensor:
    kept = torch.rand(documents, config.hidden_size, generator=generator) >= config.readout_dropout
    return kept / (1 - config.readout_dropout)
