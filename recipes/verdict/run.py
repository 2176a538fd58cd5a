"""Run what is missing of the plan, cell by cell: a cell is a model, trained and measured, and a line of `<task>.jsonl`.

    python -m recipes.verdict run --data DIR [--tasks ...] [--maps ...] [--seeds ...] [--most N]

The same command goes on where it stopped. Several processes may run it at the same time and share the work: each takes cells that no other
has taken. Cells whose learning rate is not decided yet wait for the grid. Ctrl-C ends it; the cell that was being trained is begun anew.
"""

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.provenance import git_commit, hardware, versions
from recipes.conversion.run import add_line

from ..command_line import Parser, exit_codes
from .data.batches import TaskData
from .data.load import load
from .maps.registry import parameters_of
from .measurements.measure import measure
from .models import build
from .plan import PLAN, RESULTS, Plan, Task, read_plan
from .results import Cell, Line, cells_of, chosen_rate, line_of, read_task
from .training import evaluate, train

SHORT = 60  # seconds, below which times are not given in minutes


@exit_codes(resumable=True)
def main(arguments: list[str]) -> int:
    """Run the cells; 0 if it went well, 2 if something given cannot work, 130 if it was stopped."""
    _run(_parsed(arguments))
    return 0


def add_places(parser: Parser) -> None:
    """The arguments that `run`, `status` and `report` have in common."""
    parser.add_argument("--plan", type=Path, default=PLAN, metavar="FILE")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")


def checked_data(folder: Path | None) -> None:
    """Refuse a folder that is not there."""
    if folder is not None and not folder.is_dir():
        raise RecipeError(f"--data {folder}: there is no such folder")


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m recipes.verdict run", description=__doc__)
    add_places(parser)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with sst2/, cifar10/, text/; generated rows need none")
    for name in ("tasks", "maps", "seeds"):
        parser.add_argument(f"--{name}", nargs="+", metavar="NAME" if name != "seeds" else "N", help="of the plan; default: all")
    parser.add_argument("--most", type=int, metavar="N", help="stop after so many cells")
    chosen = parser.parse_args(arguments)
    checked_data(chosen.data)
    if chosen.most is not None and chosen.most < 1:
        raise RecipeError(f"--most must be at least 1, but is {chosen.most}")
    return chosen


def _run(chosen: argparse.Namespace) -> None:
    plan = read_plan(chosen.plan)
    left = chosen.most
    for task in (plan.tasks[name] for name in some("tasks", chosen.tasks, list(plan.tasks))):
        wanted = [cell for cell in cells_of(plan, task) if _is_wanted(cell, chosen, plan)]
        done = _run_task(task, wanted, chosen, plan, left)
        left = None if left is None else left - done
        if left == 0:
            return


def some(kind: str, given: list[str] | None, known: list[str]) -> list[str]:
    """The given names, or all that are known; a name that is not is refused."""
    unknown = [each for each in given or [] if each not in known]
    if unknown:
        raise RecipeError(f"--{kind} {unknown[0]}: the plan has none of that name; it has {', '.join(known)}")
    return [each for each in known if given is None or each in given]


def _is_wanted(cell: Cell, chosen: argparse.Namespace, plan: Plan) -> bool:
    maps = some("maps", chosen.maps, list(plan.maps))
    seeds = some("seeds", chosen.seeds, [str(seed) for seed in plan.seeds])
    return cell.map_name in maps and (cell.learning_rate is not None or str(cell.seed) in seeds)


def _run_task(task: Task, wanted: list[Cell], chosen: argparse.Namespace, plan: Plan, most: int | None) -> int:
    """Cells of a task that nobody else has done or is doing; how many were done here."""
    data: TaskData | None = None
    done, total = 0, len(wanted)
    with tqdm(total=total, desc=task.name, unit="cell", disable=None) as bar:
        for cell in wanted:
            with _taken(cell, chosen.results) as mine:
                lines = read_task(chosen.results, task.name)
                rate = cell.learning_rate if cell.learning_rate is not None else chosen_rate(lines, cell.map_name, plan)
                if mine and rate is not None and line_of(lines, cell, plan) is None:
                    data = load(task, chosen.data) if data is None else data
                    started = time.perf_counter()
                    line = run_cell(cell, rate, data, plan)
                    add_line(chosen.results / f"{task.name}.jsonl", line)
                    print(_said(cell, line, time.perf_counter() - started), flush=True)
                    done += 1
            bar.update()
            if done == most:
                break
    return done


@contextmanager
def _taken(cell: Cell, folder: Path) -> Iterator[bool]:
    """Whether this process has the cell to itself; another process that ends, however it ends, gives its cells back."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{cell.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def run_cell(cell: Cell, rate: float, data: TaskData, plan: Plan) -> Line:
    """The line of a cell.

    Args:
        cell: to run.
        rate: its learning rate.
        data: of its task.
        plan: whose digest the line carries.
    """
    task = cell.task
    model = build(task, cell.map_name, data.words, data.classes, dropout=plan.dropout, seed=cell.seed)
    started = time.process_time()
    line: Line = {
        "task": task.name,
        "map": cell.map_name,
        "learning_rate": rate,
        "seed": cell.seed,
        "plan": plan.digest,
        "parameters": parameters_of(model),
        "training": train(model, task, plan, data, learning_rate=rate, seed=cell.seed, title=str(cell)),
        "validation": _without_rows(evaluate(model, task, data.validation)),
    }
    if cell.learning_rate is None:  # what chooses a rate never sees the test
        line["test"] = {part: {**evaluate(model, task, rows), "bayes": data.bayes.get(part)} for part, rows in data.test.items()}
        diverged = not math.isfinite(line["validation"]["loss"])
        line["measured"] = None if diverged else measure(model, cell.map_name, task, plan, data.validation)
    origin = {"data": data.origin, "versions": versions(), "git": git_commit(), "hardware": hardware()}
    return {**line, **origin, "seconds": round(time.process_time() - started, 1)}


def _without_rows(found: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in found.items() if name in ("loss", "accuracy")}


def _said(cell: Cell, line: Line, seconds: float) -> str:
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in line["validation"].items())
    tests = [f"test {part} {found.get('accuracy', found['loss']):.4f}" for part, found in line.get("test", {}).items()]
    took = f"{seconds:.0f} s" if seconds < SHORT else f"{seconds / SHORT:.1f} min"
    return f"{cell}: validation {', '.join([metrics, *tests])}, {took}"
