"""Run the replication and write its report.

    accelerate launch -m recipes.paper.run [--fast] [--data DIR ...] [--output DIR]

Every study is one file in OUTPUT/results with a line for each cell, written run by run; what is there already is not run again, so the same
command resumes.
The report is rendered from these files at the end, and by `--report` alone.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState

from hf_tanhmax.errors import RecipeError

from ..command_line import Parser, exit_codes
from . import collapse, text, vision
from .basins import basins, run_basin
from .corpus import Corpus
from .ledger import Ledger
from .settings import SETS, DataSet, read_sets
from .sources import load

PARTS = ("text", "basins", "collapse", "vision")
BASIN_SETS = ("20news", "synthetic_dot")
FAST_ROWS, FAST_EPOCHS = 300, 12
Work = Callable[[Ledger, text.Tick], None]  # does what is missing of a cell


@exit_codes(resumable=True)
def main(arguments: list[str]) -> int:
    """Run what was asked for; 0 if it went well, 2 if something given cannot work, 130 if it was stopped and can be resumed."""
    Replication(parsed(arguments)).run()
    return 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line.

    Raises:
        RecipeError: a flag or value that cannot work.
    """
    parser = Parser(prog="accelerate launch -m recipes.paper.run", description=__doc__, exit_on_error=False)
    parser.add_argument("--fast", action="store_true", help="small runs of everything, in minutes")
    parser.add_argument(
        "--data", nargs="+", type=Path, default=[], metavar="DIR", help="folders with sst2/, 20news/, ag_news/, imdb/, cifar10/"
    )
    parser.add_argument("--hub", action="store_true", help="take from the Hub what no folder has")
    parser.add_argument("--weights", nargs="+", default=[], metavar="FAMILY=DIR", help="trained models for rank collapse: bert, vit, llama")
    parser.add_argument("--output", type=Path, help="default: runs/paper, or runs/paper-fast")
    parser.add_argument("--settings", type=Path, default=SETS, metavar="DIR", help="YAML files, one for each data set")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="only these data sets of text")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these parts")
    parser.add_argument("--seeds", type=int, default=None, help="of each cell; default 5, fast 2")
    parser.add_argument("--basin-seeds", type=int, default=None, help="of each setting; default 10, fast 3")
    parser.add_argument("--report", action="store_true", help="only render the report again")
    try:
        given, unknown = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise RecipeError(str(error)) from error
    if unknown:
        raise RecipeError(f"unknown argument {unknown[0]!r}; see --help")
    for folder in given.data:
        if not folder.is_dir():
            raise RecipeError(f"--data {folder}: there is no such folder")
    for name in ("seeds", "basin_seeds"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise RecipeError(f"--{name.replace('_', '-')} must be at least 1, but is {value}")
    given.seeds = given.seeds or (2 if given.fast else 5)
    given.basin_seeds = given.basin_seeds or (3 if given.fast else 10)
    given.output = given.output or Path("runs") / ("paper-fast" if given.fast else "paper")
    given.weights = dict(_weights(word) for word in given.weights)
    return given


class Replication:
    """All cells of one command.

    Args:
        given: the parsed command line.

    Raises:
        RecipeError: settings or names that cannot work.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        if PartialState().num_processes > 1:
            raise RecipeError(f"the classifiers are tiny and run in one process, but {PartialState().num_processes} were launched")
        self.results = given.output / "results"
        self.sets = {name: self._sized(data_set) for name, data_set in read_sets(given.settings).items()}
        wrong = next((name for name in given.sets or [] if name not in self.sets), None)
        if wrong is not None:
            raise RecipeError(f"--sets {wrong}: there is no such data set; there are {', '.join(self.sets)}")
        self.seeds = list(range(given.seeds))

    def run(self) -> None:
        """Every part that was asked for, then the report."""
        from .report import write_report

        if not self.given.report:
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", str(torch.get_num_threads()))))
            torch.set_flush_denormal(True)  # Adadelta's averages of rare words shrink to nothing, slowly
            try:
                for part in self.given.parts:
                    getattr(self, f"_{part}")()
            finally:
                torch.set_flush_denormal(False)
        print(f"report: {write_report(self.given.output)}")

    def _text(self) -> None:
        for data_set in self._chosen():
            corpus = self._corpus(data_set)
            if corpus is None:
                continue
            for protocol in text.PROTOCOLS:
                for attention in data_set.attentions if protocol != "published" else ("softmax", "tanhmax"):
                    cell = (
                        self._grid(data_set, attention, corpus) if protocol == "common" else text.paper_cell(data_set, protocol, attention)
                    )
                    work = partial(text.run_text, cell, corpus, self.seeds)
                    self._work(cell.name, cell.identity(corpus), work, cell.epochs, [str(seed) for seed in self.seeds])

    def _grid(self, data_set: DataSet, attention: str, corpus: Corpus) -> text.TextCell:
        ledger = self._work(
            f"grid--{data_set.name}--{attention}",
            text.grid_identity(data_set, attention, corpus),
            partial(text.run_grid, data_set, attention, corpus),
            data_set.grid_epochs,
            text.grid_names(data_set),
        )
        return text.chosen_cell(data_set, attention, ledger.runs)

    def _basins(self) -> None:
        seeds = list(range(100, 100 + self.given.basin_seeds))
        for name in BASIN_SETS:
            data_set = self.sets.get(name)
            if data_set is None or data_set not in self._chosen():
                continue
            corpus = self._corpus(data_set)
            if corpus is None:
                continue
            for basin in basins(data_set):
                work = partial(run_basin, basin, corpus, seeds)
                self._work(basin.name, basin.identity(corpus), work, basin.cell.epochs, [str(seed) for seed in seeds])

    def _collapse(self) -> None:
        for cell in collapse.cells(self.given.weights, small=self.given.fast):
            work = partial(collapse.run_collapse, cell, self.seeds)
            self._work(cell.name, cell.identity(), work, 1, ["trained"] if cell.trained else [str(seed) for seed in self.seeds])

    def _vision(self) -> None:
        for cell in vision.cells(self.given.data, fast=self.given.fast):
            work = partial(vision.run_vision, cell, self.seeds, self.given.output / "runs")
            self._work(cell.name, cell.identity(), work, 1, [str(seed) for seed in self.seeds])

    def _work(self, name: str, identity: Mapping[str, object], work: Work, each: int, runs: list[str]) -> Ledger:
        """Do what is missing of one cell, with a bar that counts epochs, or runs where these are one step."""
        from tqdm.auto import tqdm

        ledger = Ledger(self.results, name, identity)
        missing = ledger.missing(runs)
        if ledger.replaced:
            print(f"{name}: the results that were there are of other settings or data; running it again")
        if missing:
            with tqdm(total=each * len(missing), desc=name, unit="epoch" if each > 1 else "run") as bar:
                work(ledger, bar.update)
        return ledger

    def _chosen(self) -> list[DataSet]:
        return [data_set for name, data_set in self.sets.items() if self.given.sets is None or name in self.given.sets]

    def _corpus(self, data_set: DataSet) -> Corpus | None:
        return load(data_set, self.given.data, hub=self.given.hub, most=FAST_ROWS if self.given.fast else None)

    def _sized(self, data_set: DataSet) -> DataSet:
        if not self.given.fast:
            return data_set
        return replace(
            data_set,
            epochs=FAST_EPOCHS,
            grid_epochs=FAST_EPOCHS // 2,
            basin_epochs=FAST_EPOCHS,
            basin_settings=4,
            grid_seeds=1,
            learning_rates=data_set.learning_rates[-1:],
            attentions=("softmax", "tanhmax"),
        )


def _weights(word: str) -> tuple[str, Path]:
    family, equals, folder = word.partition("=")
    if not equals:
        raise RecipeError(f"--weights wants FAMILY=DIR, but got {word!r}")
    return family, Path(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
