"""REPORT.md and its figures from the results on disk: nothing in it is typed, the same results give the same report."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hf_tanhmax.results import Data, table

from . import tables
from .figures import draw
from .ledger import read_cells
from .settings import SETS, read_sets
from .signs import AGREEMENT, MINORITY
from .tables import Cells, Gain, Published

TEMPLATE = "report.md.j2"
RESULTS, FIGURES, REPORT = "results", "figures", "REPORT.md"


@dataclass(frozen=True)
class SetReport:
    """All that the report says of one data set of text, in words; `there` where it was run."""

    name: str
    title: str
    there: bool
    lines: list[list[str]]
    verdicts: list[str]
    signs: list[list[str]]
    gains: list[Gain]
    grid: list[list[str]]
    seeds: list[int]
    figures: list[str]


def write_report(output: Path) -> Path:
    """Draw the figures and write the report of a folder's results; returns its path.

    Raises:
        RecipeError: a result that cannot be read.
    """
    cells = read_cells(output / RESULTS)
    draw(cells, {name: data_set.title for name, data_set in read_sets(SETS).items()}, output / FIGURES)
    path = output / REPORT
    path.write_text(rendered(cells, pictures(output / FIGURES)), encoding="utf-8")
    return path


def pictures(folder: Path) -> list[str]:
    """Names of the pictures in a folder."""
    return sorted(path.name for path in folder.glob("*.png"))


def rendered(cells: Cells, figures: list[str]) -> str:
    """The report.

    Args:
        cells: of the results.
        figures: names of the pictures beside it.
    """
    facts = tables.published()
    titles = {name: data_set.title for name, data_set in read_sets(SETS).items()}
    sets = [_set(cells, name, titles[name], facts, figures) for name in facts["sets"]]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters["table"] = _table
    return environment.get_template(TEMPLATE).render(
        sets=sets,
        run=[one for one in sets if one.there],
        absent=[one.title for one in sets if not one.there],
        verdicts=_counted(sets),
        solutions=erasure_by_solution(cells, facts["sets"]),
        basins=[(titles[name], tables.basin_lines(cells, name)) for name in facts["sets"] if tables.basin_lines(cells, name)],
        collapse=tables.collapse_lines(cells),
        claims=tables.collapse_claim(cells, facts),
        vision=tables.vision_lines(cells),
        figures=figures,
        rules={"agreement": AGREEMENT, "minority": MINORITY, "tolerance": facts["tolerance"]},
        expected=facts,
        origin=_origin(cells),
    )


def _set(cells: Cells, name: str, title: str, facts: Published, figures: list[str]) -> SetReport:
    lines = tables.lines(cells, name, facts)
    return SetReport(
        name=name,
        title=title,
        there=any(line.verdict != tables.MISSING for line in lines),
        lines=[list(vars(line).values()) for line in lines],
        verdicts=[line.verdict for line in lines],
        signs=tables.sign_lines(cells, name),
        gains=tables.gains(cells, name),
        grid=tables.grid_lines(cells, name),
        seeds=sorted({len(tables.runs_of(cells, name, "paper", attention)) for attention in tables.ATTENTIONS}),
        figures=[figure for figure in figures if figure.startswith(f"{name}-") and not figure.endswith("-basins.png")],
    )


def _counted(sets: Sequence[SetReport]) -> list[list[str]]:
    """How many of the published figures hold, by data set."""
    wanted = (tables.HOLDS, tables.AS_PUBLISHED, tables.NOT_FOUND)
    return [[one.title, *(str(one.verdicts.count(verdict)) for verdict in wanted)] for one in sets if one.there]


def erasure_by_solution(cells: Cells, names: list[str]) -> list[list[str]]:
    """Oriented erasure tau of TanhMax by the solution that was found, and softmax's, over all seeds with right settings."""
    found = []
    for kind in ("softmax", *tables.KINDS):
        attention = "softmax" if kind == "softmax" else "tanhmax"
        runs = [
            run
            for name in names
            for protocol in ("paper", "common")
            for run in tables.runs_of(cells, name, protocol, attention)
            if kind == "softmax" or run["signs"]["kind"] == kind
        ]
        if runs:
            taus = tables.values_of(runs, "tau.erasure.mean", oriented=kind != "softmax")
            extent = f"{min(taus):.2f} to {max(taus):.2f}" if taus else tables.MISSING
            aucs = tables.values_of(runs, "separation_auc")
            shown = "softmax" if kind == "softmax" else f"TanhMax, {kind}"
            found.append([shown, str(len(runs)), tables.spread(taus), extent, tables.spread(aucs)])
    return found


def _origin(cells: Cells) -> dict[str, object]:
    """Versions and machines that the numbers came from."""
    runs = [run for cell in cells.values() for run in cell["runs"].values()]
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run["versions"].items():
            versions.setdefault(name, set()).add(version)
    machines = {f"{cell['hardware']['platform']}, {cell['hardware']['cpus']} CPUs, {cell['hardware']['device']}" for cell in cells.values()}
    seconds = [run["training_seconds"] for run in runs if "training_seconds" in run]
    sources = {cell["identity"]["set"]: cell["identity"]["data"] for name, cell in cells.items() if name.startswith("text--")}
    return {
        "cells": len(cells),
        "runs": len(runs),
        "versions": [f"{name} {', '.join(sorted(found))}" for name, found in sorted(versions.items())],
        "machines": sorted(machines),
        "seconds": f"{statistics.fmean(seconds):.0f}" if seconds else tables.MISSING,
        "sources": [[name, _fingerprint(data)] for name, data in sorted(sources.items())],
    }


def _fingerprint(data: Data) -> str:
    digests: str | dict[str, str] = data.get("sha256", {})
    shown = {"": digests} if isinstance(digests, str) else digests  # the synthetic documents have one digest
    words = [f"{split} {digest[:12]}".strip() for split, digest in shown.items()]
    rows = [f"{count:,} {split}" for split, count in data.get("rows", {}).items()]
    return "; ".join(part for part in (", ".join(rows), "SHA-256 " + ", ".join(words) if words else "") if part)


def _table(rows: list[list[str]], *header: str) -> str:
    return table(header, rows, markdown=True, align="none")
