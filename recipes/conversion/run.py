"""Run what is missing of the plan. A cell is a task, a way and a seed, with fine-tuning or without; it is a line of `<task>.jsonl`.

    python -m recipes.conversion run --data DIR --weights minilm=DIR dinov2s=DIR [--tasks ...] [--ways ...] [--seeds ...]

Cells whose line is there are left out, so the same command goes on where it stopped. Without fine-tuning means that the classifier that
softmax fine-tuning made is converted and read as it is, so those cells need the cell of softmax, whose model is kept in --work.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, PreTrainedModel

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.provenance import git_commit, hardware, versions
from hf_tanhmax.results import locked, read_lines, write_lines

from ..command_line import Parser, exit_codes
from .models import converted, softmax_model
from .plan import RESULTS, ClassifierTask, Plan, Way, read_plan
from .rows import Rows, read_rows
from .training import evaluate, fine_tune, signs

SWEEP_SEED = 1000  # of runs that choose hyperparameters


@dataclass(frozen=True)
class Cell:
    """One model to make and to read."""

    task: ClassifierTask
    way: Way
    seed: int
    tuned: bool

    @property
    def key(self) -> list[object]:
        """By which its line is found."""
        return [self.way.name, self.tuned, self.seed]

    def __str__(self) -> str:
        return f"{self.task.name}, {self.way.name}{'' if self.tuned else ' without fine-tuning'}, seed {self.seed}"


@exit_codes(resumable=True)
def main(arguments: list[str]) -> int:
    """Run the cells; 0 if it went well, 2 if something given cannot work."""
    _run(_parsed(arguments))
    return 0


def cells_of(plan: Plan, task: ClassifierTask, ways: list[str], seeds: list[int]) -> list[Cell]:
    """Those of a task, seed by seed; softmax comes first, and annealing is nothing without fine-tuning."""
    found = []
    for seed in seeds:
        for way in (plan.ways[name] for name in plan.ways if name in ways):
            found += [Cell(task, way, seed, tuned=True)]
            if not way.softmax and way.polarity_schedule is None:
                found += [Cell(task, way, seed, tuned=False)]
    return found


def add_places(parser: Parser, plan: Plan) -> None:
    """The arguments that say what to measure, with what, and where results go."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with sst2/, 20news/, cifar10/")
    parser.add_argument("--weights", nargs="+", required=True, metavar="NAME=DIR", help="softmax checkpoints: minilm, dinov2s")
    parser.add_argument("--tasks", nargs="+", choices=list(plan.tasks), default=list(plan.tasks))
    parser.add_argument("--ways", nargs="+", choices=list(plan.ways), default=list(plan.ways))
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--work", type=Path, default=Path("runs/conversion"), metavar="DIR", help="where fine-tuned models are kept")


def check_places(chosen: argparse.Namespace) -> None:
    """Make `weights` a mapping, and see that every folder is there.

    Raises:
        RecipeError: it is not.
    """
    chosen.weights = {name: Path(folder) for name, _, folder in (each.partition("=") for each in chosen.weights)}
    for folder in (chosen.data, *chosen.weights.values()):
        if not folder.is_dir():
            raise RecipeError(f"there is no folder {folder}")
    wanted = read_plan().tasks
    for name in chosen.tasks:
        if wanted[name].model not in chosen.weights:
            raise RecipeError(f"{name} needs weights: --weights {wanted[name].model}=DIR")


def add_line(path: Path, line: dict[str, Any]) -> None:
    """Add a line to a file that other processes may add to as well."""
    with locked(path):
        write_lines(path, [*(read_lines(path) if path.is_file() else []), line])


def _parsed(arguments: list[str]) -> argparse.Namespace:
    plan = read_plan()
    parser = Parser(prog="python -m recipes.conversion run", description=__doc__)
    add_places(parser, plan)
    parser.add_argument("--seeds", nargs="+", type=int, help="default: as many as the plan says, from 0")
    parser.add_argument("--most", type=int, metavar="N", help="stop after so many cells")
    parser.add_argument("--sweep", nargs="+", metavar="KEY=VALUE", help="train softmax with other keys of the task; no test row is read")
    chosen = parser.parse_args(arguments)
    chosen.plan = plan
    check_places(chosen)
    return chosen


def _run(chosen: argparse.Namespace) -> None:
    plan, left = chosen.plan, chosen.most
    for task in (plan.tasks[name] for name in chosen.tasks):
        if chosen.sweep:
            _sweep(task, chosen)
            continue
        path = chosen.results / f"{task.name}.jsonl"
        cells = cells_of(plan, task, chosen.ways, chosen.seeds or list(range(task.seeds)))
        missing = [cell for cell in cells if cell.key not in _done(path)][:left]
        rows = read_rows(task, chosen.data, chosen.weights[task.model]) if missing else {}
        for number, cell in enumerate(missing, start=1):
            started = time.perf_counter()
            line = measure(cell, rows, chosen)
            add_line(path, line)
            print(
                f"{number}/{len(missing)}  {cell}: test accuracy {100 * line['test']['accuracy']:.2f} %, negative mass "
                f"{line['signs']['overall']['negative_mass']:.3f}, {time.perf_counter() - started:.0f} s",
                flush=True,
            )
        left = None if left is None else left - len(missing)


def measure(cell: Cell, rows: Mapping[str, Rows], chosen: argparse.Namespace) -> dict[str, Any]:
    """The line of a cell: make its model, train it if that is asked for, keep it, and read the test rows."""
    task, plan = cell.task, chosen.plan
    if cell.tuned:
        model = softmax_model(task, chosen.weights[task.model], 1 + int(rows["train"].labels.max()), cell.seed)
    else:
        model = kept_model(task, "softmax", cell.seed, chosen.work)
    model, seconds, said = converted(model, cell.way, plan, rows["train"], cell.seed)
    training = fine_tune(model, rows["train"], task, cell.way, plan, cell.seed) if cell.tuned else None
    if cell.tuned:
        model.save_pretrained(chosen.work / task.name / cell.way.name / str(cell.seed))
    return {
        "way": cell.way.name,
        "tuned": cell.tuned,
        "seed": cell.seed,
        "test": evaluate(model, rows["test"]),
        "signs": signs(model, rows["validation"]),
        "conversion": {"seconds": round(seconds, 2), **said},
        "training": training,
        "rows": {name: len(each) for name, each in rows.items()},
        "settings": {"task": asdict(task), "way": asdict(cell.way)},
        "versions": versions(),
        "git": git_commit(),
        "hardware": hardware(),
    }


def kept_model(task: ClassifierTask, way: str, seed: int, work: Path) -> PreTrainedModel:
    """The classifier that fine-tuning by a way made.

    Raises:
        RecipeError: it is not there.
    """
    folder = work / task.name / way / str(seed)
    if not folder.is_dir():
        raise RecipeError(f"{folder} is not there: what fine-tuning made is wanted here; run {way} first")
    auto: Any = AutoModelForSequenceClassification if task.image_size is None else AutoModelForImageClassification
    return auto.from_pretrained(folder)


def _sweep(task: ClassifierTask, chosen: argparse.Namespace) -> None:
    values = {key: type(getattr(task, key))(float(value)) for key, _, value in (each.partition("=") for each in chosen.sweep)}
    changed = replace(task, **values)
    rows = read_rows(changed, chosen.data, chosen.weights[task.model])
    way = chosen.plan.ways["softmax"]
    model = softmax_model(changed, chosen.weights[task.model], 1 + int(rows["train"].labels.max()), SWEEP_SEED)
    training = fine_tune(model, rows["train"], changed, way, chosen.plan, SWEEP_SEED)
    found = evaluate(model, rows["validation"])
    line = {"task": task.name, **values, "accuracy": found["accuracy"], "cross_entropy": found["cross_entropy"], "training": training}
    add_line(chosen.results / "sweep.jsonl", line)
    print(line, flush=True)


def _done(path: Path) -> list[list[object]]:
    if not path.is_file():
        return []
    lines: list[Any] = read_lines(path)
    return [[line["way"], line["tuned"], line["seed"]] for line in lines]
