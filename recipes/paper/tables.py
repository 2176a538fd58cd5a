"""The numbers of the report, from the results on disk: as published, reproduced as published, run correctly, and the conclusion."""

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import yaml

from hf_tanhmax.results import is_number, mean_and_deviation

from .ledger import Cell, CellRun
from .signs import KINDS

PUBLISHED = Path(__file__).parent / "published.yaml"
ATTENTIONS = ("softmax", "tanhmax")
NAMES = {"softmax": "softmax", "tanhmax": "TanhMax", "tanh": "tanh"}
NOT_RUN, MISSING = "not run: data not at hand", "-"
HOLDS, AS_PUBLISHED, NOT_FOUND = "holds", "only as published", "not found"
Cells = dict[str, Cell]


class Row(TypedDict, total=False):
    """A figure of the paper: its title, where its value is in a result, how it is written, and the published pairs by data set."""

    key: str
    title: str
    percent: bool
    sign: str
    published: dict[str, list[float]]


class Published(TypedDict):
    """What the paper prints, and how far a measurement may be from it."""

    sets: list[str]
    tolerance: dict[str, float]
    rows: list[Row]
    collapse: dict[str, float]
    erasure_tau: list[float]


class Gain(TypedDict):
    """TanhMax's accuracy beside softmax's under one protocol, in words, and their difference in points."""

    protocol: str
    softmax: str
    tanhmax: str
    shown: str
    p: str
    difference: float
    significant: bool


@dataclass(frozen=True)
class Line:
    """One line of a data set's table, all in words but the values.

    Attributes:
        title: what is measured.
        attention: whose.
        published: the paper's figure.
        again: run as the published code runs.
        right: run right with the paper's settings.
        common: run right with the settings that the validation split chose.
        verdict: `HOLDS` where the published figure is within the spread of the right run, `AS_PUBLISHED` where it is only within that
            of the run as published, else `NOT_FOUND`.
    """

    title: str
    attention: str
    published: str
    again: str
    right: str
    common: str
    verdict: str


def published() -> Published:
    """The paper's figures."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def runs_of(cells: Cells, data_set: str, protocol: str, attention: str) -> list[CellRun]:
    """The seeds of a text cell; none where it was not run."""
    cell = cells.get(f"text--{data_set}--{protocol}--{attention}")
    return [] if cell is None else list(cell["runs"].values())


def value_of(run: CellRun, key: str, *, oriented: bool = False) -> float | None:
    """A number of a run by its path, turned by the run's orientation if asked for."""
    found: object = run
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return float(found) * (run["signs"]["orientation"] if oriented else 1.0) if is_number(found) else None


def values_of(runs: Sequence[CellRun], key: str, *, oriented: bool = False) -> list[float]:
    """The number of every run that has one."""
    found = (value_of(run, key, oriented=oriented) for run in runs)
    return [value for value in found if value is not None]


def spread(values: Sequence[float], *, percent: bool = False, digits: int = 3) -> str:
    """Mean and standard deviation over seeds in words."""
    mean, deviation = mean_and_deviation(values)
    if mean is None:
        return MISSING
    factor, digits = (100, 1) if percent else (1, digits)
    shown = _number(mean * factor, digits)
    return f"{shown} (1 seed)" if deviation is None else f"{shown} ± {_number(deviation * factor, digits)}"


def lines(cells: Cells, data_set: str, facts: Published) -> list[Line]:
    """The table of one data set."""
    found = []
    there = any(runs_of(cells, data_set, "paper", attention) for attention in ATTENTIONS)
    for row in facts["rows"]:
        for place, attention in enumerate(ATTENTIONS):
            figure = row["published"][data_set][place]
            percent, oriented = row.get("percent", False), row.get("sign") == "free" and attention != "softmax"
            shown = f"{figure:.2f}" if percent else _number(figure, 3)
            if not there:
                found.append(Line(row["title"], NAMES[attention], shown, NOT_RUN, NOT_RUN, NOT_RUN, MISSING))
                continue
            leaky = f"leaky_{row['key']}" if row["key"].endswith("accuracy") else row["key"]
            again = values_of(runs_of(cells, data_set, "published", attention), leaky, oriented=oriented)
            right, common = (
                values_of(runs_of(cells, data_set, protocol, attention), row["key"], oriented=oriented) for protocol in ("paper", "common")
            )
            tolerance = facts["tolerance"]["percent" if percent else "other"]
            verdict = _verdict(figure / (100 if percent else 1), again, right, tolerance)
            first, second, third = (spread(values, percent=percent) for values in (again, right, common))
            found.append(Line(row["title"], NAMES[attention], shown, first, second, third, verdict))
    return found


def sign_lines(cells: Cells, data_set: str) -> list[list[str]]:
    """For each protocol and attention: seeds, those by solution, positive weights on positive words, separation, oriented erasure."""
    found = []
    for protocol in ("paper", "common"):
        for attention in NAMES:
            runs = runs_of(cells, data_set, protocol, attention)
            if not runs:
                continue
            kinds = [run["signs"]["kind"] for run in runs]
            upright = sum(run["signs"]["orientation"] > 0 for run in runs)
            found.append(
                [
                    f"{NAMES[attention]}, {protocol} settings",
                    str(len(runs)),
                    ", ".join(f"{kinds.count(kind)} {kind}" for kind in KINDS if kind in kinds),
                    f"{upright} of {len(runs)}" if attention != "softmax" else MISSING,
                    spread(values_of(runs, "separation_auc")),
                    *(
                        spread(values_of(runs, f"tau.{name}.mean", oriented=attention != "softmax"))
                        for name in ("erasure", "input_erasure")
                    ),
                    spread(values_of(runs, "tau.absolute_input_erasure.mean")),
                    spread(values_of(runs, "signs.agreement")),
                ]
            )
    return found


def gains(cells: Cells, data_set: str) -> list[Gain]:
    """TanhMax's test accuracy less softmax's, in points, honest and leaky, with Welch's t-test over the seeds."""
    found: list[Gain] = []
    for protocol, key in (("published", "leaky_test_accuracy"), ("paper", "test_accuracy"), ("common", "test_accuracy")):
        softmax, tanhmax = (values_of(runs_of(cells, data_set, protocol, attention), key) for attention in ATTENTIONS)
        if not softmax or not tanhmax:
            continue
        difference = 100 * (statistics.fmean(tanhmax) - statistics.fmean(softmax))
        p = _welch(softmax, tanhmax)
        found.append(
            {
                "protocol": protocol,
                "softmax": spread(softmax, percent=True),
                "tanhmax": spread(tanhmax, percent=True),
                "difference": difference,
                "shown": f"{difference:+.1f}",
                "p": _p(p),
                "significant": p is not None and p < 0.05,
            }
        )
    return found


def grid_lines(cells: Cells, data_set: str) -> list[list[str]]:
    """The settings that the validation split chose, by attention."""
    found = []
    for attention in NAMES:
        cell = cells.get(f"text--{data_set}--common--{attention}")
        grid = cells.get(f"grid--{data_set}--{attention}")
        if cell is None or grid is None:
            continue
        identity = cell["identity"]
        best = max(value for run in grid["runs"].values() for _, value in run["validation_accuracy"])
        schedule = identity["schedule"]
        numbers = [f"{schedule['learning_rate']:g}", f"{identity['scale']:g}", str(schedule["epochs"]), f"{100 * best:.1f}"]
        found.append([NAMES[attention], str(len(grid["runs"])), *numbers])
    return found


def basin_lines(cells: Cells, data_set: str) -> list[list[str]]:
    """For each setting: seeds, how many found each solution, accuracy and oriented erasure tau."""
    found = []
    for name, cell in cells.items():
        if not name.startswith("basin--") or cell["identity"]["set"] != data_set:
            continue
        runs = list(cell["runs"].values())
        kinds = [run["signs"]["kind"] for run in runs]
        numbers = [f"{kinds.count(kind)} / {len(runs)}" for kind in KINDS]
        ends = [spread(values_of(runs, "test_accuracy"), percent=True), spread(values_of(runs, "oriented_erasure_tau"))]
        found.append([cell["identity"]["label"], *numbers, *ends])
    return sorted(found, key=lambda line: line[0] != "the paper's settings")


def collapse_lines(cells: Cells) -> list[list[str]]:
    """For each model, with and without skip connections and MLPs, softmax and TanhMax: the ratio by layer and the output's norm."""
    found = []
    for name, cell in cells.items():
        if not name.startswith("collapse--"):
            continue
        for number, curve in enumerate(next(iter(cell["runs"].values()))["curves"]):
            same = [run["curves"][number] for run in cell["runs"].values()]
            last = len(curve["ratio"]) - 1
            shown = sorted({0, 1, 2, last // 2, last})
            parts = ", ".join([("with" if curve["skip"] else "without") + " skips", ("with" if curve["mlp"] else "without") + " MLPs"])
            found.append(
                [
                    cell["identity"]["title"],
                    parts,
                    NAMES[curve["attention"]],
                    "; ".join(f"{layer}: {_short(statistics.fmean(one['ratio'][layer] for one in same))}" for layer in shown),
                    _short(statistics.fmean(one["attention_norm"][0] for one in same)),
                    _short(statistics.fmean(one["attention_norm"][-1] for one in same)),
                    _short(statistics.fmean(one["norm"][-1] for one in same)),
                ]
            )
    return found


def collapse_claim(cells: Cells, facts: Published) -> list[dict[str, str | float]]:
    """What was said of layer 2 of a 12-layer BERT at initialisation, attention alone, beside what is measured with both norms."""
    cell = cells.get("collapse--bert-init")
    if cell is None:
        return []
    found: list[dict[str, str | float]] = []
    for attention in ATTENTIONS:
        curves = [
            curve
            for run in cell["runs"].values()
            for curve in run["curves"]
            if curve["attention"] == attention and not curve["skip"] and not curve["mlp"]
        ]
        said = facts["collapse"][attention]
        ratios = [curve["ratio"] for curve in curves], [curve["composite_ratio"] for curve in curves]
        for words, layers in zip(("Frobenius", "composite"), ratios, strict=True):
            values = [ratio[2] for ratio in layers]
            close = abs(statistics.fmean(values) / said - 1) <= facts["tolerance"]["other"]
            verdict = "confirmed" if close else "corrected"
            found.append(
                {
                    "attention": NAMES[attention],
                    "norm": words,
                    "said": said,
                    "found": spread(values, digits=4),
                    "first": spread([ratio[1] for ratio in layers], digits=4),
                    "verdict": verdict,
                }
            )
    return found


def vision_lines(cells: Cells) -> list[list[str]]:
    """Test accuracy of the image classifiers by data set, and the difference."""
    found = []
    for name, cell in cells.items():
        if not name.startswith("vision--") or not name.endswith("--softmax"):
            continue
        twin = cells.get(name.replace("--softmax", "--tanhmax"))
        if twin is None:
            continue
        softmax, tanhmax = (values_of(list(one["runs"].values()), "test_accuracy") for one in (cell, twin))
        words = [spread(softmax, percent=True), spread(tanhmax, percent=True)]
        difference = 100 * (statistics.fmean(tanhmax) - statistics.fmean(softmax))
        found.append(
            [cell["identity"]["title"], f"{len(softmax)} / {len(tanhmax)}", *words, f"{difference:+.1f}", _p(_welch(softmax, tanhmax))]
        )
    return found


def _welch(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Two-sided p of Welch's t-test by SciPy; None where neither side varies."""
    from scipy.stats import ttest_ind

    varies = [len(values) > 1 and statistics.stdev(values) > 0 for values in (one, other)]
    if min(len(one), len(other)) < 2 or not any(varies):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a side that does not vary, which is no loss of precision here
        return float(ttest_ind(one, other, equal_var=False).pvalue)


def _p(value: float | None) -> str:
    return MISSING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _verdict(figure: float, again: Sequence[float], right: Sequence[float], tolerance: float) -> str:
    if _within(figure, right, tolerance):
        return HOLDS
    return AS_PUBLISHED if _within(figure, again, tolerance) else NOT_FOUND


def _within(figure: float, values: Sequence[float], tolerance: float) -> bool:
    if not values:
        return False
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return abs(figure - statistics.fmean(values)) <= max(2 * deviation, tolerance)


def _number(value: float, digits: int) -> str:
    return f"{value:.1e}" if value and abs(value) < 0.5 * 10**-digits else f"{value:.{digits}f}"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.0e}"
