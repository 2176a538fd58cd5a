"""Cells of the plan, and their lines: `<task>.jsonl` in the folder of results."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.results import read_lines

from .plan import Plan, Task

Line = dict[str, Any]
Paces = dict[str, dict[str, float]]  # by task and map: the median time of a training step over softmax's
PACES = "pace.jsonl"
NAMED = {"task", "map", "learning_rate", "seed", "plan", "validation", "training"}


@dataclass(frozen=True)
class Cell:
    """One model to train.

    Attributes:
        task, map_name: what it is.
        learning_rate: None where the grid, which is run first, decides it.
        seed: of the sweep, or of the comparison.
    """

    task: Task
    map_name: str
    learning_rate: float | None
    seed: int

    def __str__(self) -> str:
        rate = "" if self.learning_rate is None else f", learning rate {self.learning_rate:g}"
        return f"{self.task.name}, {self.map_name}{rate}, seed {self.seed}"

    @property
    def name(self) -> str:
        """Of a file that belongs to it."""
        return "-".join(map(str, (self.task.name, self.map_name, self.learning_rate or "tuned", self.seed)))


def cells_of(plan: Plan, task: Task) -> list[Cell]:
    """All cells of a task: the grid, then seed by seed all maps."""
    grid = [Cell(task, name, rate, plan.sweep_seed) for name in plan.maps for rate in plan.learning_rates]
    return grid + [Cell(task, name, None, seed) for seed in plan.seeds for name in plan.maps]


def read_task(folder: Path, task: str) -> list[Line]:
    """The lines of a task; none where nothing has been run.

    Raises:
        RecipeError: the file holds something else.
    """
    path = folder / f"{task}.jsonl"
    if not path.is_file():
        return []
    try:
        lines = read_lines(path)
    except ValueError as error:
        raise RecipeError(f"{path.name} is not JSON: {error}") from error
    for line in lines:
        if not isinstance(line, dict) or not line.keys() >= NAMED:
            raise RecipeError(f"{path.name} holds a line that is no result of this recipe: {json.dumps(line)[:80]}")
    return [line for line in lines if isinstance(line, dict)]


def read_all(folder: Path, plan: Plan) -> dict[str, list[Line]]:
    """The lines of every task of the plan."""
    return {name: read_task(folder, name) for name in plan.tasks}


def read_paces(folder: Path, plan: Plan) -> Paces:
    """What `pace` has timed side by side, with this text of the plan and all its maps; empty where it has not run."""
    lines: list[Any] = read_lines(folder / PACES) if (folder / PACES).is_file() else []
    known = [line for line in lines if line["plan"] == plan.digest and set(line["maps"]) == set(plan.maps)]
    return {line["task"]: {name: found["ratio"][1] for name, found in line["maps"].items()} for line in known}


def line_of(lines: list[Line], cell: Cell, plan: Plan) -> Line | None:
    """The line of a cell, if it is there; where the learning rate was decided by the grid, of the rate that it decides now."""
    rate = cell.learning_rate if cell.learning_rate is not None else chosen_rate(lines, cell.map_name, plan)
    for line in lines:
        if (line["map"], line["seed"], line["learning_rate"]) == (cell.map_name, cell.seed, rate):
            return line
    return None


def chosen_rate(lines: list[Line], map_name: str, plan: Plan) -> float | None:
    """The learning rate that the grid decides, the smaller of equal ones; None while the grid is not complete.

    It is that of the smallest validation loss, or of the highest accuracy for tasks of `plan.by_accuracy`. A training that diverged is the
    worst.
    """
    amended = any(line["task"] in plan.by_accuracy for line in lines)
    return _best_rate(lines, map_name, plan, "accuracy" if amended else "loss")


def planned_rate(lines: list[Line], map_name: str, plan: Plan) -> float | None:
    """The learning rate that the plan without its amendments would have."""
    return _best_rate(lines, map_name, plan, "loss")


def _best_rate(lines: list[Line], map_name: str, plan: Plan, measure: str) -> float | None:
    grid = [line for line in lines if line["map"] == map_name and line["seed"] == plan.sweep_seed]
    found = {line["learning_rate"]: line["validation"] for line in grid}
    if not set(plan.learning_rates) <= set(found):
        return None

    def _badness(rate: float) -> tuple[float, float]:
        validation = found[rate]
        value = -validation["accuracy"] if measure == "accuracy" else validation["loss"]
        return (value if math.isfinite(validation["loss"]) else math.inf, rate)

    return min(plan.learning_rates, key=_badness)


def compared(lines: list[Line], plan: Plan) -> dict[str, dict[int, Line]]:
    """By map and seed, the lines of models that are compared, which are those at the chosen rate."""
    found: dict[str, dict[int, Line]] = {}
    for name in plan.maps:
        rate = chosen_rate(lines, name, plan)
        of_map = [line for line in lines if line["map"] == name and line["seed"] in plan.seeds and line["learning_rate"] == rate]
        found[name] = {line["seed"]: line for line in of_map}
    return found
