"""The blocks of the README that are rendered from results and tests: `python tests/readme.py` writes them."""

import json
from pathlib import Path

from supported_models import table

from recipes import benchmark, compare
from recipes.results import read_results

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "recipes" / "results"


def sst2():
    """The comparison of the runs on SST-2."""
    found = [read_results(path) for path in sorted((RESULTS / "sst2").glob("*.json"))]
    return compare.comparison(found, markdown=True)


def speed():
    """The attention benchmark."""
    return benchmark.report(json.loads((RESULTS / "attention-cpu.json").read_text()))


def accuracy():
    """The errors in half precision."""
    return benchmark.report(json.loads((RESULTS / "accuracy-cpu.json").read_text()))


BLOCKS = {"supported models": table, "sst2": sst2, "accuracy": accuracy, "benchmark": speed}


def rendered(text):
    """The README with every block rendered anew."""
    for name, render in BLOCKS.items():
        before, rest = text.split(f"<!-- {name} -->", 1)
        _, after = rest.split(f"<!-- /{name} -->", 1)
        text = f"{before}<!-- {name} -->\n{render()}\n<!-- /{name} -->{after}"
    return text


if __name__ == "__main__":
    README.write_text(rendered(README.read_text()))
