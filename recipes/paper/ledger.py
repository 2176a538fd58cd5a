"""Results on disk: one JSON file for each cell, which holds what was run and its runs by name, rewritten in one step after each run."""

import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.checkpoints import write_json
from hf_tanhmax.training.results import git_commit, hardware, versions

PACKAGES = ("numpy", "scipy", "scikit-learn")


class Ledger:
    """The runs of one cell. What the file holds already counts as done where it says the same identity; else it begins anew.

    Args:
        path: of the file.
        identity: what decides the numbers, other than the name of a run.

    Raises:
        RecipeError: the file is there and is not one that this class wrote.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))
        self.replaced = False
        self.runs: dict[str, Any] = {}
        if path.is_file():
            found = read_cell(path)
            if found["identity"] == self.identity:
                self.runs = found["runs"]
            else:
                self.replaced = True

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of the runs that are still to be done."""
        return [name for name in names if name not in self.runs]

    def add(self, name: str, run: dict[str, Any]) -> None:
        """Write the file with one more run, and what it was run with."""
        self.runs[name] = {**run, "versions": {**versions(), **{name: importlib.metadata.version(name) for name in PACKAGES}}}
        origin = {"git": git_commit(), "hardware": hardware()}
        ordered = dict(sorted(self.runs.items(), key=lambda item: (len(item[0]), item[0])))
        write_json(self.path, {"identity": self.identity, **origin, "runs": ordered})


def read_cell(path: Path) -> dict[str, Any]:
    """One file.

    Raises:
        RecipeError: it cannot be read, or is no result of the paper's runs.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read {path}: {error}; remove it to run its cell again") from error
    if not isinstance(found, dict) or not {"identity", "runs"} <= set(found):
        raise RecipeError(f"{path} is not a result of recipes.paper; remove it to run its cell again")
    return found


def read_cells(folder: Path) -> dict[str, dict[str, Any]]:
    """All files of a folder, by their stems, in the order of the alphabet.

    Raises:
        RecipeError: as `read_cell`.
    """
    return {path.stem: read_cell(path) for path in sorted(folder.glob("*.json"))}
