"""Training of one model, and its metrics row by row; the same for every map."""

import statistics
import time
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, set_seed

from recipes.conversion.models import weight_decay_groups

from .data.batches import IGNORED, LABELS, Batch, TaskData
from .plan import CAUSAL, MASKED, Plan, Task

DIGITS = 4  # of what is kept of each row


def train(model: PreTrainedModel, task: Task, plan: Plan, data: TaskData, *, learning_rate: float, seed: int, title: str) -> dict[str, Any]:
    """Train a model; the seed decides rows and dropout.

    Returns:
        `steps`; `train_loss`, the mean of the last tenth of the steps; `curve`, validation loss after so many steps; `seconds` of processor
        time of all steps, and `step_seconds`, their median.
    """
    optimizer = optimizer_of(model, plan, learning_rate)
    warm = max(1, round(plan.warmup * task.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step, warm, task.steps))
    points = {round(task.steps * (number + 1) / plan.curve_points) for number in range(plan.curve_points)}
    losses, seconds, curve = [], [], []
    set_seed(seed)
    batches = islice(data.training(seed), task.steps)
    for step, batch in enumerate(tqdm(batches, desc=title, total=task.steps, unit="step", leave=False, disable=None)):
        model.train()
        started = time.process_time()
        loss = take_step(model, optimizer, batch, task, plan)
        schedule.step()
        seconds.append(time.process_time() - started)
        losses.append(loss.item())
        if step + 1 in points:
            with torch.random.fork_rng(devices=[]):
                curve.append([step + 1, round(evaluate(model, task, data.validation)["loss"], 6)])
    last = losses[-max(1, task.steps // 10) :]
    return {
        "steps": len(losses),
        "train_loss": statistics.fmean(last),
        "curve": curve,
        "seconds": round(sum(seconds), 2),
        "step_seconds": statistics.median(seconds),
    }


def optimizer_of(model: PreTrainedModel, plan: Plan, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW as the plan has it."""
    return torch.optim.AdamW(weight_decay_groups(model, plan.weight_decay), lr=learning_rate, fused=True)


def take_step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, batch: Batch, task: Task, plan: Plan) -> Tensor:
    """Train a model on a batch; returns the loss."""
    loss = trained_losses(model, batch, task).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def trained_losses(model: PreTrainedModel, batch: Batch, task: Task) -> Tensor:
    """`row_losses` of a model, [rows]. Of masked text only the words that are to be predicted get logits, which are one in seven."""
    labels = batch[LABELS]
    if task.kind != MASKED:
        return row_losses(model(**inputs_of(batch)).logits, labels, task)
    asked = labels != IGNORED
    hidden = model.base_model(**inputs_of(batch)).last_hidden_state
    head: Any = model.cls
    words = F.cross_entropy(head(hidden[asked]), labels[asked], reduction="none")
    return torch.zeros(labels.shape).masked_scatter(asked, words).sum(1) / asked.sum(1)


@torch.no_grad()
def evaluate(model: PreTrainedModel, task: Task, batches: list[Batch]) -> dict[str, Any]:
    """`loss`, the mean of `losses`, one per row; of a classifier also `accuracy`, and `right`, a 1 or a 0 for every row in one text."""
    model.eval()
    losses, right = [], []
    for batch in batches:
        logits = model(**inputs_of(batch)).logits
        losses.append(row_losses(logits, batch[LABELS], task))
        if task.classifies:
            right.append(logits.argmax(-1) == batch[LABELS])
    rows = torch.cat(losses).double()
    found: dict[str, Any] = {"loss": rows.mean().item(), "losses": [round(value, DIGITS) for value in rows.tolist()]}
    if right:
        answers = torch.cat(right)
        found |= {"accuracy": answers.double().mean().item(), "right": "".join(str(int(each)) for each in answers.tolist())}
    return found


def row_losses(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Cross-entropy of each row, [rows]; of words that are to be predicted the mean, which as many rows have as another."""
    if task.classifies:
        return F.cross_entropy(logits, labels, reduction="none")
    if task.kind == CAUSAL:
        logits, labels = logits[:, :-1], labels[:, 1:]
    words = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none").view(labels.shape)
    return words.sum(1) / (labels != IGNORED).sum(1)


def row_scores(model: PreTrainedModel, task: Task, batch: Batch) -> Tensor:
    """What the metric is the mean of, for each row; higher is better: 1 for a right answer and 0 for a wrong one, or less the loss."""
    logits = model(**inputs_of(batch)).logits
    if task.classifies:
        return (logits.argmax(-1) == batch[LABELS]).double()
    return -row_losses(logits, batch[LABELS], task).double()


def inputs_of(batch: Batch) -> Batch:
    """A batch without its labels."""
    return {name: value for name, value in batch.items() if name != LABELS}


def _factor(step: int, warm: int, steps: int) -> float:
    return min(1.0, (step + 1) / warm, (steps - step) / max(1, steps - warm))
