"""Results on disk: a `.jsonl` file for each study, a line for each cell, which holds what was run and its runs by name.

A file is rewritten in one step after each run, so a study that was interrupted goes on where it stopped.
"""

import json
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import TypedDict, TypeGuard, cast

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.provenance import Commit, Machine, git_commit, hardware, versions
from hf_tanhmax.results import Data, locked, read_lines, renamed, write_lines

PACKAGES = ("numpy", "scipy", "scikit-learn")


class Schedule(TypedDict):
    """How the classifiers of a cell were trained."""

    learning_rate: float
    epochs: int
    batch_size: int
    loss_factor: float


class Identity(TypedDict, total=False):
    """What decides the numbers of a cell, other than the name of a run; there are other keys beside these."""

    set: str
    attention: str
    title: str
    label: str
    scale: float
    schedule: Schedule
    data: Data
    flags: dict[str, object]


class SignsFound(TypedDict):
    """Which solution a run found."""

    orientation: float
    agreement: float
    negative_mass: float
    kind: str


class Curve(TypedDict):
    """Rank collapse of one attention over the layers."""

    attention: str
    skip: bool
    mlp: bool
    ratio: list[float]
    composite_ratio: list[float]
    attention_norm: list[float]
    norm: list[float]


class CellRun(TypedDict, total=False):
    """What the runs of the studies hold: each study has some of these keys, and others."""

    signs: SignsFound
    tau: dict[str, dict[str, list[int]]]
    scatter: dict[str, list[list[float]]]
    violin: dict[str, list[float]]
    learning_rate: float
    scale: float
    validation_accuracy: list[list[float]]
    curves: list[Curve]
    training_seconds: float
    versions: dict[str, str]


class Cell(TypedDict):
    """One line: the cell's name, which begins with the study's, what decides its numbers, where they come from, and its runs."""

    cell: str
    identity: Identity
    git: Commit | None
    hardware: Machine
    runs: dict[str, CellRun]


class Ledger:
    """The runs of one cell. What its line holds already counts as done where it says the same identity; else it begins anew.

    Args:
        folder: of the studies.
        name: of the cell.
        identity: what decides the numbers, other than the name of a run.

    Raises:
        RecipeError: the study's file is there and is not one that this class wrote.
    """

    def __init__(self, folder: Path, name: str, identity: Mapping[str, object]) -> None:
        self.path = folder / f"{name.split('--')[0]}.jsonl"
        self.name = name
        self.identity: Identity = json.loads(json.dumps(identity))
        found = next((cell for cell in read_study(self.path) if cell["cell"] == name), None) if self.path.is_file() else None
        self.replaced = found is not None and found["identity"] != self.identity
        self.runs: dict[str, CellRun] = {} if found is None or self.replaced else found["runs"]

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of the runs that are still to be done."""
        return [name for name in names if name not in self.runs]

    def add(self, name: str, run: Mapping[str, object]) -> None:
        """Write the cell's line with one more run, and what it was run with."""
        self.runs[name] = cast(CellRun, {**run, "versions": versions(PACKAGES)})
        runs = dict(sorted(self.runs.items(), key=lambda item: (len(item[0]), item[0])))
        own: Cell = {"cell": self.name, "identity": self.identity, "git": git_commit(), "hardware": hardware(), "runs": runs}
        with locked(self.path):
            cells = [cell for cell in (read_study(self.path) if self.path.is_file() else []) if cell["cell"] != self.name]
            cells.append(own)
            cells.sort(key=itemgetter("cell"))
            write_lines(self.path, cells)


def read_study(path: Path) -> list[Cell]:
    """The cells of one file.

    Raises:
        RecipeError: it cannot be read, or holds no results of the paper's runs.
    """
    try:
        found = read_lines(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read {path}: {error}; remove it to run its cells again") from error
    cells = [_with_new_names(line) for line in found if _is_cell(line)]
    if len(cells) < len(found):
        raise RecipeError(f"{path} is not a result of recipes.paper; remove it to run its cells again")
    return cells


def read_cells(folder: Path) -> dict[str, Cell]:
    """All cells of a folder, by their names, in the order of the alphabet.

    Raises:
        RecipeError: as `read_study`.
    """
    cells = [cell for path in folder.glob("*.jsonl") for cell in read_study(path)]
    return {cell["cell"]: cell for cell in sorted(cells, key=itemgetter("cell"))}


def _with_new_names(cell: Cell) -> Cell:
    flags = cell["identity"].get("flags")
    return cell if flags is None else {**cell, "identity": {**cell["identity"], "flags": renamed(flags)}}


def _is_cell(line: object) -> TypeGuard[Cell]:
    return isinstance(line, dict) and {"cell", "identity", "runs"} <= line.keys()
