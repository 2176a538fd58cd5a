"""What a training step costs in processor time: steps of softmax, TanhMax and balanced TanhMax in turn, in one process.

    python -m recipes.conversion cost --data DIR --weights minilm=DIR [--tasks ...] [--rounds 12]

Whatever else the machine does meets all of them alike, which it does not when one is trained after another.
"""

import argparse
import statistics
import time
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

import hf_tanhmax
from hf_tanhmax.provenance import git_commit, hardware, versions

from ..command_line import Parser, exit_codes
from .models import matrix_products_in_bfloat16, softmax_model, weight_decay_groups
from .plan import ClassifierTask, Plan, read_plan
from .rows import Batch, read_rows
from .run import add_line, add_places, check_places

KINDS: dict[str, dict[str, Any]] = {"tanhmax": {"polarity": 1.0}, "balanced": {"polarity": 0.2, "shift": "balanced"}}


@exit_codes(resumable=True)
def main(arguments: list[str]) -> int:
    """Measure and write `cost.jsonl`, a line per task; 2 if something given cannot work."""
    plan = read_plan()
    parser = Parser(prog="python -m recipes.conversion cost", description=__doc__)
    add_places(parser, plan)
    parser.add_argument("--rounds", type=int, default=12, help="steps of each that are timed")
    chosen = parser.parse_args(arguments)
    check_places(chosen)
    for name in chosen.tasks:
        line = measure(plan, plan.tasks[name], chosen)
        add_line(chosen.results / "cost.jsonl", line)
        print(name, *(f"{kind} {seconds:.3f} s" for kind, seconds in line["step_seconds"].items()), flush=True)
    return 0


def measure(plan: Plan, task: ClassifierTask, chosen: argparse.Namespace) -> dict[str, Any]:
    """The median seconds of a training step of each kind, on the same batches."""
    folder = chosen.weights[task.model]
    rows = read_rows(task, chosen.data, folder)
    classes = 1 + int(rows["train"].labels.max())
    models = {"softmax": softmax_model(task, folder, classes, 0)}
    for kind, settings in KINDS.items():
        models[kind] = hf_tanhmax.convert(softmax_model(task, folder, classes, 0), **settings)
    optimizers = {kind: torch.optim.AdamW(weight_decay_groups(model, plan.weight_decay), fused=True) for kind, model in models.items()}
    times: dict[str, list[float]] = {kind: [] for kind in models}
    batches = rows["train"].training_batches(task.batch_size, 0, 0)
    for inputs, labels in islice(batches, chosen.rounds + 1):
        for kind, model in models.items():
            started = time.process_time()
            _step(model, optimizers[kind], inputs, labels, plan)
            times[kind].append(time.process_time() - started)
    seconds = {kind: statistics.median(each[1:]) for kind, each in times.items()}
    origin = {"versions": versions(), "git": git_commit(), "hardware": hardware()}
    return {"task": task.name, "rounds": chosen.rounds, "step_seconds": seconds, **origin}


def _step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, inputs: Batch, labels: Tensor, plan: Plan) -> None:
    model.train()
    with matrix_products_in_bfloat16(plan):
        logits = model(**inputs).logits.float()
    F.cross_entropy(logits, labels).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
