"""The learning rates of `hf-tanhmax start`, chosen on a sixth of its training rows that is held out; no test row is read.

    python -m recipes.first_run MODEL [--runs FOLDER] [--seeds 0]

MODEL is all-MiniLM-L6-v2, a folder or a name on the Hub. Softmax and TanhMax get each the rate with the lowest mean cross-entropy on the
held-out rows: accuracy on 200 rows has a standard error of three points. All numbers go to `recipes/results/first-run-rates.json`; put what
it chose into `RATES` of `hf_tanhmax/cli/start.py`. Runs that are finished are not repeated.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_tanhmax.cli import start
from hf_tanhmax.provenance import git_commit, hardware, versions
from hf_tanhmax.results import write_json
from hf_tanhmax.training.data import rows
from hf_tanhmax.training.run import run_all

from .command_line import Parser

FILE = Path(__file__).parent / "results" / "first-run-rates.json"
TRAIN = Path(rows.__file__).parent / "film_reviews" / "train.csv"
GRID = (1e-4, 2e-4, 3e-4)
MEASURE, SHOWN = "validation_cross_entropy", ("validation_cross_entropy", "validation_accuracy", "train_loss")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the grid, write its numbers and print what they choose."""
    parser = Parser(description="Choose the learning rates of hf-tanhmax start.")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--runs", type=Path, default=Path("runs/first-run"), metavar="FOLDER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N")
    options = parser.parse_args(arguments)
    found = []
    for seed in options.seeds:
        for rate in GRID:
            for variant in start.VARIANTS:
                found.append(_trained(variant, rate, seed, options))
    chosen = choose(found)
    about = {"versions": versions(), "git": git_commit(), "hardware": hardware()}
    write_json(FILE, {"chosen_by": MEASURE, "chosen": chosen, "runs": found, **about})
    print(*(f"{variant}: {rate:g}" for variant, rate in chosen.items()), sep="\n")
    return 0


def choose(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of each variant the rate whose held-out cross-entropy is the lowest, in the mean over seeds."""
    means: dict[str, dict[float, float]] = {}
    for variant, rate in {(run["variant"], run["learning_rate"]): None for run in found}:
        losses = [run[MEASURE] for run in found if (run["variant"], run["learning_rate"]) == (variant, rate)]
        means.setdefault(variant, {})[rate] = statistics.fmean(losses)
    return {variant: min(of_rates, key=of_rates.__getitem__) for variant, of_rates in means.items()}


def _trained(variant: str, rate: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    folder = options.runs / f"{variant}-{rate:g}-{seed}"
    held_out = {"dataset": "synthetic", "train_file": TRAIN, "validation_share": 1 / 6}  # the file takes the place of the data set
    run = run_all([start.recipe_of(variant, folder, options.model, learning_rate=rate, seed=seed, **held_out)])[0]
    return {
        "variant": variant,
        "learning_rate": rate,
        "seed": seed,
        "rows": run["data"]["rows"],
        **{name: run["metrics"][name] for name in SHOWN},
        "wall_time_s": run["wall_time_s"],
    }


if __name__ == "__main__":
    raise SystemExit(main())
