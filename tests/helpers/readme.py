"""The blocks of the Markdown files that are rendered from results and tests: `python tests/helpers/readme.py` writes them."""

import functools
import json
from pathlib import Path

import goals
import predicted
import sweep_table
from made_cards import compared
from supported_models import table as supported_table

from hf_tanhmax.results import read_lines, table
from hf_tanhmax.training.configuration.recipe import VARIANTS
from recipes import faithfulness as compared_faithfulness
from recipes.benchmarks import conservation, cpu_operator, polarity_scan, ring, ring_plan
from recipes.benchmarks import export as export_benchmark
from recipes.benchmarks import faithfulness as faithfulness_speed
from recipes.benchmarks import page as page_benchmark
from recipes.benchmarks.attention import __main__ as benchmark
from recipes.benchmarks.serving import report as serving
from recipes.conversion import language_table, pattern
from recipes.conversion import table as conversion_table
from recipes.paper import report as paper_report
from recipes.paper import tables as paper_tables
from recipes.paper.ledger import read_cells
from recipes.paper.settings import read_sets
from recipes.verdict.plan import RESULTS as VERDICT_RESULTS
from recipes.verdict.plan import read_plan
from recipes.verdict.report import in_short
from recipes.verdict.results import read_all

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
# A block may stand in any of these files that exist, and stands in one of them.
DOCUMENTS = (
    "README.md",
    "hf_tanhmax/README.md",
    "hf_tanhmax/attention/README.md",
    "hf_tanhmax/attention/kernels/README.md",
    "hf_tanhmax/export/README.md",
    "hf_tanhmax/interpret/README.md",
    "hf_tanhmax/models/README.md",
    "hf_tanhmax/vllm/README.md",
    "recipes/README.md",
    "recipes/paper/README.md",
    "tests/README.md",
)
RESULTS = ROOT / "recipes" / "results"


def speed():
    """The attention benchmark."""
    return benchmark.report(json.loads((RESULTS / "attention-cpu.json").read_text()))


def operator():
    """The operator for CPUs beside stock softmax, and whole models."""
    return cpu_operator.report(json.loads((RESULTS / "cpu-operator.json").read_text()))


def accuracy():
    """The errors in half precision."""
    return benchmark.report(json.loads((RESULTS / "accuracy-cpu.json").read_text()))


def shared():
    """What a ring of processes costs."""
    return ring.report(json.loads((RESULTS / "ring" / "ring-cpu.json").read_text()))


def clocks():
    """Predicted clock cycles per score: of each kernel and head size the default, and the best of TanhMax and of softmax."""
    result = json.loads((RESULTS / "predicted-clocks-triton-3.9.json").read_text())
    chosen = []
    for kind in dict.fromkeys((each["kernel"], each["head_dim"], each["weights"]) for each in result["entries"]):
        rows = [each for each in result["entries"] if (each["kernel"], each["head_dim"], each["weights"]) == kind]
        best = min(rows, key=lambda each: (each["clocks"]["overlapped"], each["clocks"]["serial"]))
        chosen += [best] if kind[2] == "softmax" or best is rows[0] else [rows[0], best]
    return predicted.rendered(result | {"entries": chosen})


def scan():
    """What polarity does to a decoder before training."""
    return polarity_scan.report(json.loads((RESULTS / "polarity-scan-smollm2.json").read_text()), markdown=True)


def paper():
    """What the replication found, in short."""
    cells = read_cells(ROOT / "recipes" / "paper" / "results")
    facts = paper_tables.published()
    titles = {name: data_set.title for name, data_set in read_sets().items()}
    words = {"published": "leaky, as published", "paper": "the paper's settings", "common": "common grid"}
    accuracy = [
        [titles[name], words[gain["protocol"]], gain["softmax"], gain["tanhmax"], gain["shown"], gain["p"]]
        for name in ("sst", "20news")
        for gain in paper_tables.gains(cells, name)
    ]
    header = ["data", "how", "softmax, %", "TanhMax, %", "difference", "p"]
    solutions = ["attention", "runs", "oriented erasure tau", "smallest to largest", "AUC of words"]
    return "\n\n".join(
        (
            table(header, accuracy, markdown=True),
            table(solutions, paper_report.erasure_by_solution(cells, facts["sets"]), markdown=True),
        )
    )


def faithfulness_compared():
    """Models trained alike, softmax and TanhMax, by how faithful explanations of them are."""
    return compared_faithfulness.rendered(markdown=True)


def faithfulness_timed():
    """Batches against loops."""
    return faithfulness_speed.report(json.loads((RESULTS / "faithfulness-speed-cpu.json").read_text()), markdown=True)


def conserved():
    """What the scores of each method add up to."""
    return conservation.report(json.loads((RESULTS / "conservation.json").read_text()), markdown=True)


def page_speed():
    """Size of pages of explanations, and how soon they can be used."""
    return page_benchmark.report(json.loads((RESULTS / "page-chromium.json").read_text()), markdown=True)


def conversion():
    """What each way of conversion keeps of a classifier, and what it costs."""
    return conversion_table.rendered()


def verdict():
    """What the results come to, by conversion and from scratch."""
    plan = read_plan()
    scratch = in_short(plan, read_all(VERDICT_RESULTS, plan), "tanhmax")
    made = f"* **From scratch**, at equal budgets ([plan and report](recipes/verdict/REPORT.md)):\n  {scratch}"
    return f"{conversion_table.verdict()}\n{made}"


def sign_pattern():
    """What it costs to change which weights are negative, of models from scratch, on test rows."""
    lines = read_lines(RESULTS / "conversion" / pattern.FILE)
    return pattern.summary([line for line in lines if line["split"] == "test"])


def variants():
    """What each recipe is for."""
    return table(["variant", "for"], [[f"`{name}`", sentence] for name, sentence in VARIANTS.items()], markdown=True, align="none")


def export_speed():
    """Exported TanhMax beside exported softmax, of all runs."""
    runs = [json.loads(path.read_text()) for path in sorted((RESULTS / "export").glob("speed-*.json"))]
    rows = [row for run in runs for row in run["rows"]]
    return export_benchmark.speed_table({"rows": sorted(rows, key=lambda row: [*export_benchmark.FAMILIES].index(row["family"]))})


def export_int8():
    """What int8 weights cost in accuracy."""
    return export_benchmark.int8_table(json.loads((RESULTS / "export" / "int8-sst2.json").read_text()))


def export_int8_test() -> str:
    """The same on test rows."""
    return export_benchmark.int8_table(json.loads((RESULTS / "export" / "int8-sst2-test.json").read_text()))


DATA = ("sst2", "20news", "cifar10", "cifar10-dinov2s", "tinyshakespeare")
BLOCKS = {
    "supported models": supported_table,
    "levels": sweep_table.levels,
    "architectures counted": sweep_table.summary,
    "architectures that work": sweep_table.working,
    "architectures that are refused": sweep_table.refused,
    "architectures that were not tried": sweep_table.untried,
    "architectures that fail": sweep_table.failed,
    "variants": variants,
    **{name: functools.partial(compared, name) for name in DATA},
    "verdict": verdict,
    "conversion": conversion,
    "ablated": conversion_table.ablated,
    "language models": language_table.rendered,
    "sign pattern": sign_pattern,
    "scan": scan,
    "paper": paper,
    "faithfulness compared": faithfulness_compared,
    "faithfulness speed": faithfulness_timed,
    "conservation": conserved,
    "page speed": page_speed,
    "serving equality": serving.equality,
    "serving speed": serving.throughput,
    "serving load": serving.load,
    "predicted": clocks,
    "kernel goals": goals.rendered,
    "accuracy": accuracy,
    "benchmark": speed,
    "cpu operator": operator,
    "ring": shared,
    "ring plan": ring_plan.rendered,
    "export speed": export_speed,
    "export int8": export_int8,
    "export int8 test": export_int8_test,
}


def documents():
    """The text of each of the files that exist."""
    return {name: (ROOT / name).read_text() for name in DOCUMENTS if (ROOT / name).exists()}


def rendered(texts):
    """The texts with every block rendered anew; a block that stands in none of them, or twice, is a ValueError."""
    texts = dict(texts)
    for block, render in BLOCKS.items():
        start, end = f"<!-- {block} -->", f"<!-- /{block} -->"
        files = [name for name, text in texts.items() for _ in range(text.count(start))]
        if len(files) != 1:
            raise ValueError(f"the block {block!r} must stand in one of the files, once; it stands in {files or 'none'}")
        before, rest = texts[files[0]].split(start)
        _, after = rest.split(end, 1)
        texts[files[0]] = f"{before}{start}\n{render()}\n{end}{after}"
    return texts


if __name__ == "__main__":
    for file, text in rendered(documents()).items():
        (ROOT / file).write_text(text)
