"""Fine-tuning of a classifier, the same for every way, and what is measured of it."""

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

import hf_tanhmax
from hf_tanhmax.training.annealing import polarity_at
from hf_tanhmax.training.health import attention_health

from .models import matrix_products_in_bfloat16, weight_decay_groups
from .plan import ClassifierTask, Plan, Way
from .rows import EVALUATION_BATCH, Batch, Rows

HEALTH_ROWS = 256


def fine_tune(model: PreTrainedModel, rows: Rows, task: ClassifierTask, way: Way, plan: Plan, seed: int) -> dict[str, float]:
    """Train a model; the same seed gives every way the same rows in the same order.

    Returns:
        `steps`, `train_loss` (mean over the steps), and `seconds` of processor time.
    """
    total = task.passes * (len(rows) // task.batch_size)
    ids = _keep_used_tokens(model, rows)
    optimizer = torch.optim.AdamW(weight_decay_groups(model, plan.weight_decay), lr=task.learning_rate, fused=True)
    warm = max(1, round(plan.warmup * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm, (total - step) / (total - warm)))
    set_seed(seed)
    model.train()
    started, step, losses = time.process_time(), 0, 0.0
    for epoch in range(task.passes):
        for inputs, labels in rows.training_batches(task.batch_size, seed, epoch):
            if way.polarity_schedule is not None:
                hf_tanhmax.set_polarity(model, polarity_at(step, total, end=way.polarity, schedule=way.polarity_schedule))  # type: ignore[arg-type]
            with matrix_products_in_bfloat16(plan):
                logits = model(**_renamed(inputs, ids)).logits.float()
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses, step = losses + loss.item(), step + 1
    if way.polarity_schedule is not None:
        hf_tanhmax.set_polarity(model, way.polarity)
    seconds = time.process_time() - started
    _bring_back_tokens(model, ids)
    return {"steps": total, "train_loss": losses / total, "seconds": seconds}


@torch.no_grad()
def evaluate(model: PreTrainedModel, rows: Rows) -> dict[str, Any]:
    """`accuracy` and `cross_entropy` in float32, and `right`: a 1 for every row that is classified right, else a 0, in one text."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda index: len(rows.inputs[index]))
    logits = torch.empty(len(rows), int(model.config.num_labels or 0))
    for first in range(0, len(order), EVALUATION_BATCH):
        indices = order[first : first + EVALUATION_BATCH]
        logits[indices] = model(**rows.batch(indices)).logits
    right = logits.argmax(-1) == rows.labels
    return {
        "accuracy": right.double().mean().item(),
        "cross_entropy": F.cross_entropy(logits, rows.labels).item(),
        "right": "".join(str(int(each)) for each in right.tolist()),
    }


@dataclass(frozen=True)
class _Tokens:
    """The whole embedding of a model that is trained with those of the used tokens alone; the others would get no gradient anyway."""

    used: Tensor
    whole: nn.Embedding


def _keep_used_tokens(model: PreTrainedModel, rows: Rows) -> _Tokens | None:
    if rows.padding is None:
        return None
    whole: Any = model.get_input_embeddings()
    used = torch.cat([*rows.inputs, torch.tensor([rows.padding])]).unique()
    few = nn.Embedding(len(used), whole.embedding_dim, padding_idx=int(torch.searchsorted(used, rows.padding)))
    few.weight.data.copy_(whole.weight.data[used])
    model.set_input_embeddings(few)
    return _Tokens(used, whole)


def _renamed(inputs: Batch, tokens: _Tokens | None) -> Batch:
    return inputs if tokens is None else {**inputs, "input_ids": torch.searchsorted(tokens.used, inputs["input_ids"])}


def _bring_back_tokens(model: PreTrainedModel, tokens: _Tokens | None) -> None:
    if tokens is not None:
        few: Any = model.get_input_embeddings()
        tokens.whole.weight.data[tokens.used] = few.weight.data
        model.set_input_embeddings(tokens.whole)


def signs(model: PreTrainedModel, rows: Rows) -> dict[str, Any]:
    """The package's own measure of attention health on validation rows, the same for every way and seed: `overall` and `layers`."""
    return attention_health(model, rows.chosen(HEALTH_ROWS, seed=0))
