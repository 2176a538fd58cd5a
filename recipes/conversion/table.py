"""What was measured, as a table: ways as rows, tasks as columns.

python -m recipes.conversion table [--results DIR]
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.results import read_lines, table

from ..command_line import Parser, exit_codes
from .plan import RESULTS, Way, read_plan

Lines = list[dict[str, Any]]


@exit_codes()
def main(arguments: list[str]) -> int:
    """Print the table; 2 if there are no results."""
    parser = Parser(prog="python -m recipes.conversion table", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--markdown", action="store_true", help="for a document")
    chosen = parser.parse_args(arguments)
    print(rendered(chosen.results, markdown=chosen.markdown))
    if (chosen.results / "ablation.jsonl").is_file():
        print("\n" + ablated(chosen.results, markdown=chosen.markdown))
    return 0


def rendered(folder: Path = RESULTS, *, markdown: bool = True) -> str:
    """Test accuracy of softmax, and how far every way is from it on every measured task, fine-tuned and as converted; mass; cost.

    Differences are of the same seeds, with their standard error and the number of seeds.

    Raises:
        RecipeError: no results in the folder, or a file that cannot be read.
    """
    plan = read_plan()
    measured = {name: read_results(path) for name in plan.tasks if (path := folder / f"{name}.jsonl").is_file()}
    if not measured:
        raise RecipeError(f"there are no results in {folder}; python -m recipes.conversion run makes them")
    first = next(iter(measured))
    ratios = read_ratios(folder / "cost.jsonl", first)
    header = ["way", *(column for name in measured for column in (plan.tasks[name].title, "as is", "negative"))]
    rows = [
        [way.title, *(cell for lines in measured.values() for cell in _cells(lines, way.name)), _cost(measured[first], way, ratios)]
        for way in plan.ways.values()
    ]
    return table([*header, "extra cost"], [row for row in rows if set(row[1:]) != {"-"}], markdown=markdown)


def ablated(folder: Path = RESULTS, *, markdown: bool = True) -> str:
    """What fine-tuned models lose or win, in points of test accuracy, where their negative weights are changed; mean over seeds.

    Raises:
        RecipeError: as `read_results`.
    """
    plan = read_plan()
    groups: dict[tuple[str, str], Lines] = {}
    for line in _lines(folder / "ablation.jsonl", {"task", "way", "seed", "ablation"}):
        groups.setdefault((plan.tasks[line["task"]].title, plan.ways[line["way"]].title), []).append(line["ablation"]["effects"])
    names = list(dict.fromkeys(name for lines in groups.values() for effects in lines for name in effects))
    rows = [
        [task, way, *(_spread([100 * effects[name]["difference"] for effects in lines], "+") for name in names)]
        for (task, way), lines in groups.items()
    ]
    return table(["task", "way", *(name.replace("_", " ") for name in names)], rows, markdown=markdown)


def verdict(folder: Path = RESULTS) -> str:
    """What the results come to in three lines of Markdown: a text model, an image model, and what the negative weights are good for.

    Raises:
        RecipeError: as `read_results`.
    """
    sst2, cifar10 = (read_results(folder / f"{name}.jsonl") for name in ("sst2", "cifar10"))
    text, _, mass = _cells(sst2, "aligned_refitted")
    image = _cells(cifar10, "refitted")[0]
    softmax = [_cells(lines, "softmax")[0] for lines in (sst2, cifar10)]
    found = [line for line in _lines(folder / "ablation.jsonl", {"task", "way", "ablation"}) if line["task"] == "sst2"]
    effects = [line["ablation"]["effects"] for line in found if line["way"] == "aligned_refitted"]
    masked = _spread([100 * each["negatives_masked"]["difference"] for each in effects], "+")
    return "\n".join(
        (
            f"* **No gain by conversion**: test accuracy of MiniLM on SST-2, softmax {softmax[0]}, TanhMax {text}; of DINOv2-S on",
            f"  CIFAR-10, softmax {softmax[1]}, TanhMax {image}. In %, and points of difference: mean ± standard error (seeds).",
            f"* **Signs to look at**: {100 * float(mass):.0f} % of that MiniLM's attention weight is negative: what its heads subtract.",
            f"* **Not yet to rely on**: masking its negative keys changes its accuracy by {masked} points, so it does not use them.",
        )
    )


def read_ratios(path: Path, task: str) -> dict[str, float]:
    """The processor time of a training step of TanhMax and of balanced TanhMax over that of softmax, on a task.

    Raises:
        RecipeError: as `read_results`.
    """
    found = [line["step_seconds"] for line in _lines(path, {"task", "step_seconds"}) if line["task"] == task]
    return {kind: seconds / found[-1]["softmax"] for kind, seconds in found[-1].items()} if found else {}


def read_results(path: Path) -> Lines:
    """The lines of a task.

    Raises:
        RecipeError: it cannot be read, or holds something else.
    """
    return _lines(path, {"way", "tuned", "seed", "test", "signs"})


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean over seeds; None of one value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _lines(path: Path, keys: set[str]) -> Lines:
    if not path.is_file():
        return []
    try:
        lines: Any = read_lines(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read {path}: {error}") from error
    if not all(isinstance(line, dict) and keys <= line.keys() for line in lines):
        raise RecipeError(f"{path} is not a result of recipes.conversion")
    return lines


def _cells(lines: Lines, way: str) -> list[str]:
    softmax = {line["seed"]: _accuracy(line) for line in lines if line["way"] == "softmax" and line["tuned"]}
    if way == "softmax":
        return [_spread(list(softmax.values()), ""), "-", "0.00"] if softmax else ["-"] * 3
    cells = []
    for tuned in (True, False):
        found = [line for line in lines if line["way"] == way and line["tuned"] is tuned]
        cells.append(_spread([_accuracy(line) - softmax[line["seed"]] for line in found if line["seed"] in softmax], "+"))
    masses = [line["signs"]["overall"]["negative_mass"] for line in lines if line["way"] == way and line["tuned"]]
    return [*cells, f"{statistics.fmean(masses):.2f}" if masses else "-"]


def _accuracy(line: dict[str, Any]) -> float:
    return 100 * float(line["test"]["accuracy"])


def _spread(values: Sequence[float], sign: str) -> str:
    """Mean, standard error if there are several, and how many seeds."""
    if not values:
        return "-"
    error = standard_error(values)
    return f"{statistics.fmean(values):{sign}.1f}" + (f" ± {error:.1f}" if error is not None else "") + f" ({len(values)})"


def _cost(lines: Lines, way: Way, ratios: dict[str, float]) -> str:
    """Processor time beyond that of softmax: of the training steps, and of the conversion over them."""
    ratio = ratios.get(way.shift or "tanhmax")
    shares = [line["conversion"]["seconds"] / line["training"]["seconds"] for line in lines if line["way"] == way.name and line["tuned"]]
    if way.softmax or ratio is None or not shares:
        return "-"
    return f"{100 * (ratio * (1 + statistics.fmean(shares)) - 1):+.0f} %"
