"""Models: the softmax checkpoint with a new head, and what each way makes of it."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, PreTrainedModel, set_seed

import hf_tanhmax
from hf_tanhmax.conversion.attention_transfer import transfer
from hf_tanhmax.conversion.gauge import align
from hf_tanhmax.conversion.refitting import refit
from hf_tanhmax.training.configuration.recipe import read_recipes, task_base
from hf_tanhmax.training.tasks import task_for

from .plan import ClassifierTask, Plan, Way
from .rows import Rows

DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")


def softmax_model(task: ClassifierTask, folder: Path, classes: int, seed: int) -> PreTrainedModel:
    """The checkpoint with a head of its own, whose first weights the seed decides."""
    set_seed(seed)
    auto: Any = AutoModelForSequenceClassification if task.image_size is None else AutoModelForImageClassification
    model = auto.from_pretrained(folder, num_labels=classes, dtype=torch.float32, **dict.fromkeys(DROPOUT, task.dropout))
    if task.image_size is not None and model.config.image_size != task.image_size:
        recipe = read_recipes([str(task_base("vit/image_classification").with_name("softmax.yaml")), "--image_size", str(task.image_size)])[
            0
        ]
        task_for(recipe.config).adapt(model)  # interpolates the position embeddings
    return model


def converted(model: PreTrainedModel, way: Way, plan: Plan, rows: Rows, seed: int) -> tuple[PreTrainedModel, float, dict[str, Any]]:
    """What a way makes of a softmax model before it is trained.

    Args:
        model: with softmax; its weights are used.
        way: to go.
        plan: what ways share.
        rows: to draw unlabelled inputs from, for ways that need some.
        seed: of that draw.

    Returns:
        The model, the processor time that it took, and what the steps of the conversion said of it.
    """
    if way.softmax:
        return model, 0.0, {}
    started = time.process_time()
    polarity = 0.0 if way.polarity_schedule is not None else way.polarity
    made = hf_tanhmax.convert(model, polarity=polarity, shift=way.shift)
    said: dict[str, Any] = {}
    if way.calibrate:
        said["alignment"] = align(made, rows.chosen(plan.calibration_rows, seed), balance=plan.balance)
    if way.transfer_steps:
        batches = rows.chosen(plan.transfer_batch * way.transfer_steps, seed, batch_size=plan.transfer_batch)
        said["transfer"] = transfer(made, batches, steps=way.transfer_steps, seed=seed)
    if way.refit:
        said["refit"] = refit(made, rows.chosen(plan.refit_rows, seed), ridge=plan.refit_ridge)
    seconds = time.process_time() - started
    return made, seconds, {name: _plain(report) for name, report in said.items()}


def matrix_products_in_bfloat16(plan: Plan) -> Any:
    """The context of training steps."""
    return torch.autocast("cpu", torch.bfloat16, enabled=plan.bfloat16)


def weight_decay_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameters for the optimizer: biases and norms do not decay."""
    parameters = list(model.parameters())
    return [
        {"params": [each for each in parameters if each.dim() > 1], "weight_decay": decay},
        {"params": [each for each in parameters if each.dim() <= 1], "weight_decay": 0.0},
    ]


def _plain(report: Any) -> dict[str, Any]:
    """A report without the tensors that lead back to softmax."""
    return {name: value for name, value in vars(report).items() if name != "originals"}
