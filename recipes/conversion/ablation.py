"""Whether fine-tuned models that `run` kept use their negative weights: `ablate_negatives` on the test rows, a line per model.

python -m recipes.conversion ablation --data DIR --weights minilm=DIR [--tasks ...] [--ways ...] [--seeds ...]
"""

import argparse
from typing import Any

from hf_tanhmax.interpret import ablate_negatives
from hf_tanhmax.provenance import git_commit, hardware, versions
from hf_tanhmax.results import read_lines

from ..command_line import Parser, exit_codes
from .plan import Plan, read_plan
from .rows import EVALUATION_BATCH, Batch, Rows, read_rows
from .run import add_line, add_places, check_places, kept_model

INTERVENTIONS = ("negatives_masked", "negatives_spread", "negatives_permuted", "made_positive")
FILE = "ablation.jsonl"


@exit_codes(resumable=True)
def main(arguments: list[str]) -> int:
    """Ablate what is missing; 0 if it went well, 2 if something given cannot work."""
    plan = read_plan()
    parser = Parser(prog="python -m recipes.conversion ablation", description=__doc__)
    add_places(parser, plan)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    chosen = parser.parse_args(arguments)
    check_places(chosen)
    for name in chosen.tasks:
        _run(plan, name, chosen)
    return 0


def labelled_batches(rows: Rows) -> list[Batch]:
    """All rows, of similar length together, with their labels."""
    order = sorted(range(len(rows)), key=lambda index: len(rows.inputs[index]))
    parts = [order[first : first + EVALUATION_BATCH] for first in range(0, len(order), EVALUATION_BATCH)]
    return [rows.batch(part) | {"labels": rows.labels[part]} for part in parts]


def _run(plan: Plan, name: str, chosen: argparse.Namespace) -> None:
    task, path = plan.tasks[name], chosen.results / FILE
    batches = labelled_batches(read_rows(task, chosen.data, chosen.weights[task.model])["test"])
    for seed in chosen.seeds:
        for way in (plan.ways[each] for each in chosen.ways if not plan.ways[each].softmax):
            lines: Any = read_lines(path) if path.is_file() else []
            if [name, way.name, seed] in [[line["task"], line["way"], line["seed"]] for line in lines]:
                continue
            model = kept_model(task, way.name, seed, chosen.work)
            found = ablate_negatives(model, batches, interventions=INTERVENTIONS, batch_size=EVALUATION_BATCH, progress=False)
            origin = {"versions": versions(), "git": git_commit(), "hardware": hardware()}
            add_line(path, {"task": name, "way": way.name, "seed": seed, "ablation": found.to_dict(), **origin})
            print(f"{name}, {way.name}, seed {seed}: {found.describe()}", flush=True)
