"""The blocks of the README that are rendered from results and tests: `python tests/readme.py` writes them."""

import functools
import json
from pathlib import Path

from supported_models import table

from recipes import benchmark, compare, polarity_scan
from recipes.results import read_runs

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "recipes" / "results"


def runs(name):
    """The comparison of the runs on one data set."""
    found = [run for path in sorted((RESULTS / name).glob("*.json")) for run in read_runs(path)]
    return compare.comparison(found, markdown=True)


def speed():
    """The attention benchmark."""
    return benchmark.report(json.loads((RESULTS / "attention-cpu.json").read_text()))


def accuracy():
    """The errors in half precision."""
    return benchmark.report(json.loads((RESULTS / "accuracy-cpu.json").read_text()))


def scan():
    """What polarity does to a decoder before training."""
    return polarity_scan.report(json.loads((RESULTS / "polarity-scan-smollm2.json").read_text()), markdown=True)


DATA = ("sst2", "20news", "cifar10", "cifar10-dinov2s", "tinyshakespeare")
BLOCKS = {
    "supported models": table,
    **{name: functools.partial(runs, name) for name in DATA},
    "scan": scan,
    "accuracy": accuracy,
    "benchmark": speed,
}


def rendered(text):
    """The README with every block rendered anew."""
    for name, render in BLOCKS.items():
        before, rest = text.split(f"<!-- {name} -->", 1)
        _, after = rest.split(f"<!-- /{name} -->", 1)
        text = f"{before}<!-- {name} -->\n{render()}\n<!-- /{name} -->{after}"
    return text


if __name__ == "__main__":
    README.write_text(rendered(README.read_text()))
