"""What was measured, as a table: ways as rows, tasks as columns.

python -m recipes.conversion table [--results DIR]
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.results import read_lines, table

from .plan import RESULTS, read_plan

Lines = list[dict[str, Any]]


def main(arguments: list[str]) -> int:
    """Print the table; 2 if there are no results."""
    parser = argparse.ArgumentParser(prog="python -m recipes.conversion table", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--markdown", action="store_true", help="for a document")
    chosen = parser.parse_args(arguments)
    try:
        print(rendered(chosen.results, markdown=chosen.markdown))
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def rendered(folder: Path = RESULTS, *, markdown: bool = True) -> str:
    """Test accuracy with and without fine-tuning, negative mass, and cost of every way on every task that was measured.

    Raises:
        RecipeError: no results in the folder, or a file that cannot be read.
    """
    plan = read_plan()
    measured = {name: read_results(path) for name in plan.tasks if (path := folder / f"{name}.jsonl").is_file()}
    if not measured:
        raise RecipeError(f"there are no results in {folder}; python -m recipes.conversion run makes them")
    header = ["way", *(f"{plan.tasks[name].title}, {kind}" for name in measured for kind in ("tuned", "as is", "negative", "cost"))]
    rows = [[way.title, *(cell for lines in measured.values() for cell in _cells(lines, way.name))] for way in plan.ways.values()]
    return table(header, [row for row in rows if set(row[1:]) != {"-"}], markdown=markdown)


def read_results(path: Path) -> Lines:
    """The lines of a task.

    Raises:
        RecipeError: it cannot be read, or holds something else.
    """
    try:
        lines: Any = read_lines(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read {path}: {error}") from error
    if not all(isinstance(line, dict) and {"way", "tuned", "seed", "test", "signs"} <= line.keys() for line in lines):
        raise RecipeError(f"{path} is not a result of recipes.conversion")
    return lines


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean over seeds; None of one value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _cells(lines: Lines, way: str) -> list[str]:
    tuned, untuned = ([line for line in lines if line["way"] == way and line["tuned"] is kind] for kind in (True, False))
    accuracies = [_mean(some, lambda line: 100 * line["test"]["accuracy"], "{:.1f}") for some in (tuned, untuned)]
    mass = _mean(tuned, lambda line: line["signs"]["overall"]["negative_mass"], "{:.2f}", spread=False)
    return [*accuracies, mass, _cost(lines, tuned)]


def _mean(lines: Iterable[dict[str, Any]], value: Callable[[dict[str, Any]], float], form: str, *, spread: bool = True) -> str:
    values = [value(line) for line in lines]
    if not values:
        return "-"
    error = standard_error(values) if spread else None
    return form.format(statistics.fmean(values)) + (f" ± {form.format(error)}" if error is not None else "")


def _cost(lines: Lines, tuned: Lines) -> str:
    """Processor time beyond that of softmax with the same seeds, conversion and training together."""
    softmax = {line["seed"]: _seconds(line) for line in lines if line["way"] == "softmax" and line["tuned"]}
    pairs = [(_seconds(line), softmax[line["seed"]]) for line in tuned if line["seed"] in softmax]
    if not pairs or tuned[0]["way"] == "softmax":
        return "-"
    return f"{100 * (sum(own for own, _ in pairs) / sum(other for _, other in pairs) - 1):+.0f} %"


def _seconds(line: dict[str, Any]) -> float:
    return line["conversion"]["seconds"] + line["training"]["seconds"]
