"""Size of pages of explanations, and how soon they can be used: 12 layers of 12 heads over random arrays, in Chromium.

python -m recipes.benchmarks.page [--lengths 128,512] [--rounds 5] [--out page.json]

Each page is opened anew in every round. *First paint* is the browser's first-contentful-paint; *usable* is when the strongest head is drawn
and answers to keys; *all heads* is when the small matrix of each head is drawn; *another head* is from choosing one to seeing it, while the
page is idle. Random weights have no zeros and no small numbers to spare, so no attention takes more room. Needs playwright and a Chromium.
"""

import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.interpret import Explanation, save_page
from hf_tanhmax.interpret.viz.page import LARGEST_PAGE
from hf_tanhmax.provenance import hardware, versions
from hf_tanhmax.results import table, write_json

from ..command_line import Parser, exit_codes

LAYERS, HEADS = 12, 12
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SHOWN = "() => document.documentElement.dataset.shown && performance.now()"
DRAWN = "() => document.documentElement.dataset.drawn && performance.now()"
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
CHOOSE = """async ([layer, head]) => {
    const start = performance.now();
    document.querySelector(`#heads button[data-layer="${layer}"][data-head="${head}"]`).click();
    const wanted = `/${layer}/${head}/`;
    while (!document.documentElement.dataset.shown.includes(wanted)) await new Promise((done) => requestAnimationFrame(done));
    return performance.now() - start;
}"""
COLUMNS = {"paint": "first paint, ms", "usable": "usable, ms", "drawn": "all heads, ms", "choice": "another head, ms"}


@exit_codes()
def main(arguments: list[str] | None = None) -> int:
    """Print the table; 2 if there is no browser."""
    parser = Parser(prog="python -m recipes.benchmarks.page", description=__doc__)
    parser.add_argument("--lengths", default="128,512", help="tokens of each page (default: 128,512)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each page is opened (default: 5)")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args(arguments)
    result = measured([int(length) for length in options.lengths.split(",")], options.rounds)
    print(report(result))
    if options.out is not None:
        write_json(options.out, result)
    return 0


def measured(lengths: Sequence[int], rounds: int, *, layers: int = LAYERS, heads: int = HEADS) -> dict[str, Any]:
    """Sizes and times of a page for each length; times in milliseconds, of every round.

    Args:
        lengths: tokens of each page.
        rounds: times that each is opened, in turn.
        layers: of each page.
        heads: of each layer.

    Raises:
        RecipeError: playwright or Chromium is not installed.
    """
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        raise RecipeError("there is no Chromium to open a page in; apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise RecipeError("playwright is not installed, which opens the pages; pip install playwright") from error
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        pages = {length: save_page(random_explanation(length, layers, heads), Path(folder) / f"{length}.html") for length in lengths}
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        rows: dict[int, list[dict[str, float]]] = {length: [] for length in lengths}
        for _ in range(rounds):
            for length, path in pages.items():
                rows[length].append(_opened(browser, path, layers, heads))
        version = browser.version
        browser.close()
        sizes = {length: path.stat().st_size for length, path in pages.items()}
    shown = [{"tokens": length, "layers": layers, "heads": heads, "bytes": sizes[length], "rounds": rows[length]} for length in lengths]
    return {"rows": shown, "largest": LARGEST_PAGE, "chromium": version, "versions": versions(), "hardware": hardware()}


def _opened(browser: Any, path: Path, layers: int, heads: int) -> dict[str, float]:
    """Times of one visit."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(path.as_uri())
    times = {"usable": float(page.wait_for_function(SHOWN).json_value()), "drawn": float(page.wait_for_function(DRAWN).json_value())}
    times["paint"] = float(page.evaluate(PAINT) or 0)
    times["choice"] = statistics.median(float(page.evaluate(CHOOSE, [layer, heads - 1])) for layer in range(layers))
    page.close()
    return times


def random_explanation(length: int, layers: int, heads: int) -> Explanation:
    """Uniform weights and normal contributions."""
    generator = torch.Generator().manual_seed(0)
    tokens = tuple(f"word{index}" for index in range(length))
    shape = (layers, heads, length, length)
    contributions = torch.randn(shape, generator=generator) / length
    return Explanation(
        family="bert",
        tokens=tokens,
        words=tuple(range(length)),
        word_texts=tokens,
        target=1,
        target_name="positive",
        logit=1.0,
        probability=0.75,
        position=0,
        layers=tuple(range(layers)),
        signed=(True,) * layers,
        weights=(torch.rand(shape, generator=generator) - 0.5) / length,
        orientation=torch.ones(layers, heads),
        one_signed=torch.zeros(layers, heads, dtype=torch.bool),
        contributions=contributions,
        scores={"contributions": contributions.sum((0, 1, 2))},
    )


def report(result: Mapping[str, Any], *, markdown: bool = False) -> str:
    """A table: the size, and of each time the median and the extremes of all rounds."""
    rows = []
    for row in result["rows"]:
        cells = []
        for name in COLUMNS:
            times = [visit[name] for visit in row["rounds"]]
            cells.append(f"{statistics.median(times):,.0f} [{min(times):,.0f}, {max(times):,.0f}]")
        rows.append([f"{row['tokens']} x {row['layers']} x {row['heads']}", f"{row['bytes'] / 1e6:.1f}", *cells])
    return table(["tokens x layers x heads", f"MB, at most {result['largest'] / 1e6:.0f}", *COLUMNS.values()], rows, markdown=markdown)


if __name__ == "__main__":
    sys.exit(main())
