"""Images: the recipe `vit/image_classification` with softmax and TanhMax, the same budget for both, several seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hf_tanhmax.errors import Interrupted, RecipeError
from hf_tanhmax.results import read_run
from hf_tanhmax.training.checkpoints import RESULTS
from hf_tanhmax.training.configuration.recipe import task_base
from hf_tanhmax.training.train import main

from .corpus import file_digest
from .ledger import Ledger

TASK = "vit/image_classification"
FULL = {
    "digits": {"num_train_epochs": "20", "learning_rate": "1e-3"},
    "cifar10": {"num_train_epochs": "6", "max_train_rows": "3000", "max_test_rows": "1000"},
}
FAST = {"digits": {"max_steps": "20"}, "cifar10": {"max_steps": "3", "max_train_rows": "200", "max_test_rows": "100"}}
CIFAR = {"patch_size": "4", "flip": "true", "learning_rate": "1e-3"}
TITLES = {"digits": "Digits (scikit-learn)", "cifar10": "CIFAR-10, a part of it"}


@dataclass(frozen=True)
class VisionCell:
    """One data set and attention.

    Attributes:
        data: "digits" or "cifar10".
        attention: "softmax" or "tanhmax".
        flags: of the recipe.
        folder: that holds `train.parquet` and `test.parquet`.
    """

    data: str
    attention: str
    flags: dict[str, str]
    folder: Path | None

    @property
    def name(self) -> str:
        """Of the cell's line in the results."""
        return f"vision--{self.data}--{self.attention}"

    def identity(self) -> dict[str, object]:
        """What decides the numbers of a seed."""
        files = {} if self.folder is None else {split: file_digest(path) for split, path in _files(self.folder).items()}
        own = {"kind": "vision", "set": self.data, "title": TITLES[self.data], "attention": self.attention}
        return own | {"flags": self.flags, "sha256": files}


def cells(folders: list[Path], *, fast: bool) -> list[VisionCell]:
    """Digits, and CIFAR-10 where one of the folders holds `cifar10/train.parquet` and `test.parquet`."""
    flags = FAST if fast else FULL
    place = next((folder / "cifar10" for folder in folders if all(path.is_file() for path in _files(folder / "cifar10").values())), None)
    found = [VisionCell("digits", attention, flags["digits"], None) for attention in ("softmax", "tanhmax")]
    if place is not None:
        found += [VisionCell("cifar10", attention, {**CIFAR, **flags["cifar10"]}, place) for attention in ("softmax", "tanhmax")]
    return found


def run_vision(cell: VisionCell, seeds: list[int], runs: Path, ledger: Ledger, tick: Callable[[int], None]) -> None:
    """Train the seeds that are missing by the recipe, each in a folder of `runs`, which it resumes from.

    Raises:
        RecipeError: the recipe could not run.
        Interrupted: the user stopped it.
    """
    for name in ledger.missing(map(str, seeds)):
        folder = runs / f"{cell.name}--seed{name}"
        files = {} if cell.folder is None else {f"{split}_file": str(path) for split, path in _files(cell.folder).items()}
        given = {**cell.flags, **files, "seed": name, "output_dir": str(folder), "results_dir": "null"}
        flags = [word for key, value in given.items() for word in (f"--{key}", value)]
        code = main([str(task_base(TASK).with_name(f"{cell.attention}.yaml")), *flags, "--resume"])
        if code == 130:
            raise Interrupted("the run of an image classifier; give the same command to go on")
        if code != 0:
            raise RecipeError(f"the recipe {TASK} did not finish; its error is above")
        result = read_run(folder / RESULTS)
        metrics, health = result["metrics"], (result["attention_health"] or {})["overall"]
        names = ("test_accuracy", "validation_accuracy", "train_loss", "steps")
        ledger.add(name, {**{key: metrics[key] for key in names}, "negative_mass": health["negative_mass"], "data": result["data"]})
        tick(1)


def _files(folder: Path) -> dict[str, Path]:
    return {split: folder / f"{split}.parquet" for split in ("train", "test")}
