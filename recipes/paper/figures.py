"""Figures from the cells on disk, in colours that colour-blind readers can tell apart (Okabe and Ito), with markers that differ too."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .ledger import CellRun
from .signs import KINDS
from .tables import NAMES, Cells, runs_of

POLAR = {"positive": ("#D55E00", "+"), "negative": ("#0072B2", "."), "neutral": ("#999999", "x")}
ARMS = {"softmax": ("#0072B2", "-"), "tanhmax": ("#D55E00", "--")}
SOLUTIONS = dict(zip(KINDS, ("#D55E00", "#0072B2", "#F0E442", "#999999"), strict=True))
EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the largest |w| of a sentence, as in the paper's violins


def draw(cells: Cells, sets: dict[str, str], folder: Path) -> dict[str, list[str]]:
    """Draw everything that the cells hold.

    Args:
        cells: of the results.
        sets: title of each data set of text.
        folder: for the pictures.

    Returns:
        Names of the files, by data set, and under "basins" and "collapse".
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[str]] = {}
    for name, title in sets.items():
        if all(runs_of(cells, name, "paper", attention) for attention in ARMS):
            for kind, figure in (("coefficients", _scatter), ("tau", _histograms), ("permutation", _violins)):
                drawn.setdefault(name, []).append(_saved(figure(cells, name, title), folder / f"{name}-{kind}.png"))
        if any(key.startswith(f"basin--{name}--") for key in cells):
            drawn.setdefault("basins", []).append(_saved(_basins(cells, name, title), folder / f"{name}-basins.png"))
    if any(key.startswith("collapse--") for key in cells):
        drawn["collapse"] = [_saved(_collapse(cells), folder / "collapse.png")]
    return drawn


def _saved(figure: Figure, path: Path) -> str:
    figure.savefig(path, dpi=90, metadata={"Software": None})
    return path.name


def _scatter(cells: Cells, name: str, title: str) -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, attention in zip(axes, ARMS, strict=True):
        points = runs_of(cells, name, "paper", attention)[0]["scatter"]
        for polarity in ("neutral", "positive", "negative"):
            colour, marker = POLAR[polarity]
            axis.scatter(*points[polarity], c=colour, marker=marker, s=14, linewidths=0.8, label=polarity)
        axis.set(title=NAMES[attention], xlabel="mean score of a word", ylabel="mean weight")
        axis.axhline(0, color="black", linewidth=0.5)
        axis.legend(fontsize=7)
    figure.suptitle(f"{title}: words of the test documents, first seed", fontsize=10)
    return figure


def _histograms(cells: Cells, name: str, title: str) -> Figure:
    shown = {"gradient": "|w| and gradient", "erasure": "w and attention erasure", "input_erasure": "w and input erasure"}
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots(1, len(shown))
    for axis, (key, words) in zip(axes, shown.items(), strict=True):
        for attention, (colour, line) in ARMS.items():
            runs = runs_of(cells, name, "paper", attention)
            signed = key != "gradient" and attention != "softmax"
            counts = np.sum([_counts(run, key, oriented=signed) for run in runs], axis=0)
            edges = np.linspace(-1, 1, len(counts) + 1)
            axis.stairs(counts / max(1, counts.sum()), edges, color=colour, linestyle=line, label=NAMES[attention])
        axis.set(title=words, xlabel="Kendall's tau of a sentence", ylabel="share")
        axis.legend(fontsize=7)
    figure.suptitle(f"{title}: all seeds; TanhMax oriented where signed", fontsize=10)
    return figure


def _counts(run: CellRun, key: str, *, oriented: bool) -> np.ndarray:
    counts = np.array(run["tau"][key]["histogram"], dtype=float)
    return counts[::-1] if oriented and run["signs"]["orientation"] < 0 else counts


def _violins(cells: Cells, name: str, title: str) -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, attention in zip(axes, ARMS, strict=True):
        violin = runs_of(cells, name, "paper", attention)[0]["violin"]
        largest, change, label = (np.array(violin[key]) for key in ("largest_weight", "permutation", "label"))
        for group, (low, high) in enumerate(pairwise(EDGES)):
            for side, (value, colour) in enumerate(((0, POLAR["negative"][0]), (1, POLAR["positive"][0]))):
                chosen = change[(largest >= low) & (largest < high + (high == 1)) & (label == value)]
                if len(chosen) > 1 and np.ptp(chosen) > 0:
                    for body in axis.violinplot(chosen, [group + 0.3 * side - 0.15], widths=0.28, showextrema=False)["bodies"]:
                        body.set(facecolor=colour, alpha=0.4)
                axis.plot([group + 0.3 * side - 0.15] * len(chosen), chosen, (".", "+")[side], color=colour, markersize=3)
        axis.set_xticks(range(len(EDGES) - 1), [f"{low:g} to {high:g}" for low, high in pairwise(EDGES)])
        axis.set(title=NAMES[attention], xlabel="largest |w| of the sentence", ylabel="median |change of p|", ylim=(-0.02, 1.02))
    figure.suptitle(f"{title}: shuffled weights; left class 0, right class 1; first seed", fontsize=10)
    return figure


def _basins(cells: Cells, name: str, title: str) -> Figure:
    found = [cell for key, cell in cells.items() if key.startswith(f"basin--{name}--")]
    found.sort(key=lambda cell: cell["identity"]["label"] == "the paper's settings")
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(found)), layout="constrained")
    axis = figure.subplots()
    for place, cell in enumerate(found):
        left, kinds = 0.0, [run["signs"]["kind"] for run in cell["runs"].values()]
        for kind, colour in SOLUTIONS.items():
            share = kinds.count(kind) / len(kinds)
            axis.barh(place, share, left=left, color=colour, edgecolor="white", label=kind if place == 0 else None)
            left += share
    axis.set_yticks(range(len(found)), [cell["identity"]["label"] for cell in found], fontsize=8)
    axis.set(xlabel="share of seeds", xlim=(0, 1), title=f"{title}: which solution training finds")
    figure.legend(fontsize=7, ncols=4, loc="outside lower center")
    return figure


def _collapse(cells: Cells) -> Figure:
    found = [cell for key, cell in cells.items() if key.startswith("collapse--")]
    switches = [(True, True), (True, False), (False, True), (False, False)]
    figure = Figure(figsize=(11, 2.3 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), len(switches), squeeze=False)
    for row, cell in zip(axes, found, strict=True):
        for axis, (skip, mlp) in zip(row, switches, strict=True):
            for run in cell["runs"].values():
                for curve in run["curves"]:
                    if (curve["skip"], curve["mlp"]) == (skip, mlp):
                        colour, line = ARMS[curve["attention"]]
                        axis.plot(np.maximum(curve["ratio"], 1e-17), color=colour, linestyle=line, linewidth=1)
            axis.set(yscale="log", title=f"{'with' if skip else 'no'} skips, {'with' if mlp else 'no'} MLPs")
            axis.title.set_fontsize(8)
            axis.tick_params(labelsize=7)
        row[0].set_ylabel(cell["identity"]["title"].replace(", ", ",\n"), fontsize=7)
    handles = [axes[0][0].plot([], color=colour, linestyle=line, label=NAMES[name])[0] for name, (colour, line) in ARMS.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, fontsize=8)
    figure.supxlabel("layer", fontsize=9)
    figure.suptitle("||res(X)|| / ||X|| after each layer", fontsize=10)
    return figure
