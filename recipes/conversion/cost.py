"""What each way costs in processor time: steps of all ways in turn, in one process, so that what else the machine does meets all alike.

    python -m recipes.conversion cost --data DIR --weights minilm=DIR [--tasks ...]

The extra cost is that of the conversion plus that of all training steps, over the training steps of softmax.
"""

import argparse
import statistics
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.provenance import git_commit, hardware, versions

from .models import converted, matrix_products_in_bfloat16, softmax_model, weight_decay_groups
from .plan import ClassifierTask, Plan, read_plan
from .rows import Batch, read_rows
from .run import add_line, add_places, check_places

ROUNDS = 12


def main(arguments: list[str]) -> int:
    """Measure and write `cost.jsonl`, a line per task and way; 2 if something given cannot work."""
    plan = read_plan()
    parser = argparse.ArgumentParser(prog="python -m recipes.conversion cost", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_places(parser, plan)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="steps of each way that are timed")
    chosen = parser.parse_args(arguments)
    try:
        check_places(chosen)
        for name in chosen.tasks:
            for line in measure(plan, plan.tasks[name], chosen):
                add_line(chosen.results / "cost.jsonl", line)
                print(
                    f"{name}, {line['way']}: {line['step_seconds']:.3f} s per step, {line['conversion_seconds']:.1f} s to convert",
                    flush=True,
                )
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(plan: Plan, task: ClassifierTask, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """For each way, the seconds of its conversion, and the median seconds of a training step beside those of softmax."""
    folder = chosen.weights[task.model]
    rows = read_rows(task, chosen.data, folder)
    classes = 1 + int(rows["train"].labels.max())
    models: dict[str, PreTrainedModel] = {}
    seconds: dict[str, float] = {}
    for name in chosen.ways:
        models[name], seconds[name], _ = converted(softmax_model(task, folder, classes, 0), plan.ways[name], plan, rows["train"], 0)
    optimizers = {
        name: torch.optim.AdamW(weight_decay_groups(model, plan.weight_decay), fused=True, lr=1e-5) for name, model in models.items()
    }
    batches = [batch for batch, _ in zip(rows["train"].training_batches(task.batch_size, 0, 0), range(chosen.rounds + 1), strict=False)]
    times: dict[str, list[float]] = {name: [] for name in models}
    for inputs, labels in batches:
        for name, model in models.items():
            started = time.process_time()
            _step(model, optimizers[name], inputs, labels, plan)
            times[name].append(time.process_time() - started)
    shared = {"task": task.name, "steps": task.passes * (len(rows["train"]) // task.batch_size), "rounds": chosen.rounds}
    origin = {"versions": versions(), "git": git_commit(), "hardware": hardware()}
    return [
        {**shared, "way": name, "step_seconds": statistics.median(times[name][1:]), "conversion_seconds": seconds[name], **origin}
        for name in models
    ]


def _step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, inputs: Batch, labels: Tensor, plan: Plan) -> None:
    model.train()
    with matrix_products_in_bfloat16(plan):
        logits = model(**inputs).logits.float()
    F.cross_entropy(logits, labels).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
