"""The results of the sweep over all architectures (`tests/sweep/run.py`), as the tables of `hf_tanhmax/models/README.md`."""

import json
import re
from collections import Counter
from pathlib import Path

from hf_tanhmax.results import table

SWEEP = Path(__file__).parents[1] / "sweep"


def latest() -> dict:
    """The results with the newest Transformers."""
    return json.loads(max(SWEEP.glob("results-*.json"), key=_version).read_text())


def _version(path: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", path.stem)]


def counts(results: dict) -> Counter:
    """How many types came out how; `parts` are those that work once modules are accepted that stay softmax."""
    return Counter("parts" if entry.get("softmax_parts") else entry["outcome"] for entry in results["types"].values())


def levels() -> str:
    """What is asked of each architecture."""
    return table(["level", "what must hold"], [[name, what] for name, what in latest()["levels"].items()], markdown=True, align="none")


def summary() -> str:
    """The counts in a sentence or two, with the versions."""
    results = latest()
    found = counts(results)
    total = sum(found.values())
    return (
        f"Of the {total} model types of Transformers {results['transformers']} (torch {results['torch']}, CPU), {found['works']} work as "
        f"they are, {found['parts']} once it is accepted that some of their modules stay softmax, {found['refused']} are refused when they "
        f"are converted, and {found['failed']} fail. {found['untried']} are no models of their own, or were not tried, for a reason."
    )


def working() -> str:
    """What works: class, heads, what is special, levels."""
    rows = []
    for name, entry in latest()["types"].items():
        if entry["outcome"] == "works":
            heads = ", ".join(head.removeprefix("AutoModelFor").removeprefix("Auto") for head in entry["heads"]) or "by its name alone"
            rows.append([f"`{name}`", f"`TanhMax{entry['class']}`", heads, "; ".join(_special(entry)), _levels(entry["levels"])])
    return table(["model type", "class tried", "heads", "special", "levels passed"], rows, markdown=True, align="none")


def _special(entry: dict) -> list[str]:
    parts = entry.get("softmax_parts")
    return [*entry["special"], *([f"`softmax_parts={tuple(parts)}`"] if parts else [])]


def _levels(levels: dict[str, str]) -> str:
    return f"all but {', '.join(levels)}" if levels else "all"


def refused() -> str:
    """What is refused, with the sentence that says why."""
    return _reasons("refused", "the sentence")


def untried() -> str:
    """What was not tried, and why."""
    return _reasons("untried", "why")


def failed() -> str:
    """What is neither as it should be nor refused."""
    return _reasons("failed", "what") if counts(latest())["failed"] else "None."


def _reasons(outcome: str, header: str) -> str:
    """One row for each reason, with the types that have it."""
    found: dict[str, list[str]] = {}
    for name, entry in latest()["types"].items():
        if entry["outcome"] == outcome:
            reason = entry["reason"].replace(f"'tanhmax_{name}'", "TYPE").replace(f"'{name}'", "TYPE").replace("|", "\\|")
            found.setdefault(reason, []).append(f"`{name}`")
    rows = [[", ".join(names), reason] for reason, names in found.items()]
    return table(["model type", header], rows, markdown=True, align="none")
