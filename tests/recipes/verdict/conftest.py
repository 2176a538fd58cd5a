"""A plan of tiny models and few steps, and lines as a run would write them."""

import json

import pytest
from transformers.utils import logging

from recipes.verdict.plan import read_plan
from recipes.verdict.results import cells_of

PLAN = """# A plan

```yaml
maps: [softmax, sign_softmax, differential]
seeds: [0, 1]
sweep_seed: 1000
learning_rates: [1.0e-3, 3.0e-3]
weight_decay: 0.01
warmup: 0.1
max_grad_norm: 1.0
dropout: 0.1
level: 0.05
curve_points: 2
measured_rows: 20
tasks:
  negation:
    kind: synthetic
    model: {layers: 1, width: 16, heads: 2, mlp: 40}
    steps: 4
    batch_size: 8
    distractors: [2, 4]
    length: 20
  vit_digits:
    kind: images
    model: {layers: 1, width: 16, heads: 2, mlp: 40}
    steps: 4
    batch_size: 8
    image_size: 8
    patch_size: 4
```
"""
ROWS = 40


@pytest.fixture(autouse=True)
def quiet():
    """Transformers says its generation settings whenever a decoder is made."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "PLAN.md"
    path.write_text(PLAN)
    return path


@pytest.fixture
def plan(plan_file):
    return read_plan(plan_file)


def effects(negative, positive, pattern):
    """What changing the weights costs, with intervals of 0.01 on either side."""
    costs = {"negatives_masked": negative, "positives_masked": positive, "negatives_permuted": pattern, "negatives_spread": 0.0}
    costs |= {"positives_renormalised": 0.0, "made_positive": 0.2}
    return {name: {"cost": cost, "low": cost - 0.01, "high": cost + 0.01} for name, cost in costs.items()}


def line_for(cell, plan, *, right=30, loss=0.5, seconds=0.1, curve=None, costs=(0.1, 0.1, 0.1), tau=0.2, sink=0.4):
    """A line of a cell: so many right answers of 40."""
    rate = cell.learning_rate or plan.learning_rates[0]
    found = {
        "task": cell.task.name,
        "map": cell.map_name,
        "learning_rate": rate,
        "seed": cell.seed,
        "plan": plan.digest,
        "parameters": 1000,
        "training": {"steps": 4, "curve": curve or [[2, 0.7], [4, 0.5]], "step_seconds": seconds},
        "validation": {"loss": loss + rate, "accuracy": 0.5},
        "seconds": 36.0,
    }
    if cell.learning_rate is None:
        parts = [str(number) for number in cell.task.distractors] or ["test"]
        answers = {"accuracy": right / ROWS, "right": "1" * right + "0" * (ROWS - right), "loss": loss, "losses": [loss] * ROWS}
        found["test"] = {part: {**answers, "bayes": 1.0 if cell.task.distractors else None} for part in parts}
        signs = {} if cell.map_name == "softmax" else {"as_is": 0.5, "rows": ROWS, "effects": effects(*costs)}
        found["measured"] = {
            "attention": {"negative_mass": 0.3, "two_signed": 0.5, "sink_share": sink},
            "signs": signs,
            "kurtosis": {"largest": 3.0, "last": 3.0},
            "quantised": {"float": {"loss": 0.5}, "int8": {"loss": 0.5}, "int4": {"loss": 0.6}},
            "collapse": {"whole": [1.0, 1.0], "attention_alone": [1.0, 0.5]},
            "faithfulness": {"tau": tau},
        }
    return found


@pytest.fixture
def write(tmp_path, plan):
    """Write lines of all cells of the plan; `changes` says by map and seed what is special about them, None that it is missing."""

    def _write(changes=lambda cell: {}):
        folder = tmp_path / "results"
        folder.mkdir(exist_ok=True)
        for task in plan.tasks.values():
            lines = [line_for(cell, plan, **special) for cell in cells_of(plan, task) if (special := changes(cell)) is not None]
            (folder / f"{task.name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return _write
