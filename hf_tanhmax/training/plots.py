"""Figures of a run: losses and metrics over the steps, and the attention statistics of every layer."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import cast

import matplotlib
from matplotlib.figure import Figure

from ..ablation import NegativesAblation
from ..results import Run
from .health import MEASURES

Curve = list[list[float]]  # steps and values
COLOURS = ("#d8792c", "#0f4a91")
TITLES = {
    "negative_mass": "negative mass",
    "weight_sum": "sum of |w|",
    "sign_entropy": "sign entropy (bits)",
    "output_norm": "output norm / softmax start",
}


def run_figures(result: Run, folder: Path) -> list[Path]:
    """Draw `training.png` and `health.png` into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"training.png": _training(result), "health.png": _health(result)}
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=120)
    return [folder / name for name in figures]


def comparison_figure(lines: Sequence[tuple[str, Sequence[float]]], metric: str, path: Path) -> None:
    """Draw the runs of several variants beside each other.

    Args:
        lines: for each variant, its name and the metric of every seed.
        metric: what is measured.
        path: of the picture.
    """
    figure = Figure(figsize=(7, 1 + 0.4 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for place, (_, values) in enumerate(lines):
        axes.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.6)
        axes.plot([sum(values) / len(values)], [place], "|", color="black", markersize=18)
    axes.set(yticks=range(len(lines)), yticklabels=[name for name, _ in lines], xlabel=f"{metric} (a dot per seed, a bar for the mean)")
    axes.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def start_figure(runs: Sequence[tuple[str, Run]], ablation: NegativesAblation, path: Path) -> None:
    """Draw two runs beside each other: their training loss, their accuracy, and what the second loses without its negative weights.

    Args:
        runs: name and results, with outcomes of test rows.
        ablation: of the second.
        path: of the picture.
    """
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    loss, accuracy, change = figure.subplots(1, 3)
    for place, (name, run) in enumerate(runs):
        colour = COLOURS[place]
        steps, values = zip(*cast(Curve, run["metrics"]["train_loss_curve"]), strict=True)
        loss.plot(steps, values, color=colour, marker="o", markersize=4, label=name)
        right = [100 * float(value) for value in run["outcomes"]["test"].split()]
        error = stdev(right) / len(right) ** 0.5
        accuracy.errorbar([place], [fmean(right)], yerr=[error], fmt="o", color=colour, capsize=5)
    loss.set(title="training loss", xlabel="step")
    loss.legend(frameon=False)
    accuracy.set(title="test accuracy in %, ± one standard error", xlim=(-0.7, len(runs) - 0.3))
    accuracy.set_xticks(range(len(runs)), [name for name, _ in runs])
    for place, effect in enumerate(ablation.effects.values()):
        ends = [[100 * (effect.difference - effect.low)], [100 * (effect.high - effect.difference)]]
        change.errorbar([place], [100 * effect.difference], yerr=ends, fmt="o", color=COLOURS[1], capsize=5)
    change.axhline(0, color="grey", linewidth=0.8)
    change.set(title=f"{runs[1][0]}: change in points [95 %]", xlim=(-0.7, len(ablation.effects) - 0.3))
    change.set_xticks(range(len(ablation.effects)), [name.replace("_", "\n") for name in ablation.effects])
    figure.savefig(path, dpi=120)


def _training(result: Run) -> Figure:
    metrics = result["metrics"]
    curves = [
        ("training loss", cast(Curve, metrics["train_loss_curve"])),
        (f"validation {result['main_metric']}", cast(Curve, metrics["validation_curve"])),
        ("polarity", result["polarity_curve"]),
    ]
    panels = [(title, curve) for title, curve in curves if curve]
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, curve) in zip(axes[0], panels, strict=True):
        steps, values = zip(*curve, strict=True)
        axis.plot(steps, values, marker="o" if len(steps) < 12 else None)
        axis.set(title=title, xlabel="step")
    figure.suptitle(f"{result['recipe']}, {result['variant']}, seed {result['seed']}: {result['attention']}", fontsize=9)
    return figure


def _health(result: Run) -> Figure:
    curve = result["health_curve"]
    steps = [point["step"] for point in curve]
    layers = range(len(curve[0]["layers"]))
    colours = matplotlib.colormaps["viridis"]
    figure = Figure(figsize=(4 * len(MEASURES), 3), layout="constrained")
    axes = figure.subplots(1, len(MEASURES))
    for axis, measure in zip(axes, MEASURES, strict=True):
        for layer in layers:
            values = [point["layers"][layer][measure] for point in curve]
            axis.plot(steps, values, color=colours(layer / max(1, len(layers) - 1)), linewidth=1, label=f"layer {layer}")
        axis.plot(steps, [point["overall"][measure] for point in curve], color="black", linestyle="--", label="all")
        axis.set(title=TITLES[measure], xlabel="step")
    if len(layers) <= 12:
        axes[-1].legend(fontsize=6, ncols=2)
    figure.suptitle(f"Signed attention of {result['recipe']}, {result['variant']}, seed {result['seed']}; dark layers first", fontsize=9)
    return figure
