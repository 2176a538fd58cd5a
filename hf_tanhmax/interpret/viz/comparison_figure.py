"""A figure of models compared by the faithfulness of their explanations: a panel for each measure, a line for each method."""

from typing import TYPE_CHECKING

from ...choices import CONTROL
from ...errors import optional_package
from ..faithfulness.comparison import FaithfulnessComparison
from ..faithfulness.metrics import MEASURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS, MARKERS = ("#0f4a91", "#d8792c", "#4388cf", "#8d3f04", "#3b3f46", "#7a4b9c"), "os^Dv*"
COLUMNS = 3
BETTER = {"higher": "higher is more faithful", "lower": "lower is more faithful", "": ""}


def plot_comparison(comparison: FaithfulnessComparison) -> "Figure":
    """Means and intervals of every model, method and measure; a dotted line is what scores of chance reach.

    Args:
        comparison: of two models or more.

    Raises:
        ImportError: matplotlib is not installed.
    """
    module = optional_package("matplotlib.figure", "figures")
    measures = [name for name in comparison.measures if not MEASURES[name].of_model]
    columns = min(COLUMNS, max(1, len(measures)))
    rows = -(-len(measures) // columns) or 1
    height = 0.9 + 0.16 * len(comparison.methods) * max(2, len(comparison.models)) / 1.4
    figure = module.Figure(figsize=(3.6 * columns + 1.2, height * rows + 0.6), layout="constrained", facecolor="#ffffff")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for place, panel in enumerate(panels.flat):
        if place < len(measures):
            _draw(panel, comparison, measures[place])
        else:
            panel.set_axis_off()
    labels = [f"{model.name} ({model.kind})" for model in comparison.models]
    handles = panels.flat[0].get_legend_handles_labels()[0]
    figure.legend(handles, labels, loc="outside upper center", ncols=min(2, len(labels)), fontsize=8, frameon=False)
    return figure


def _draw(axes: "Axes", comparison: FaithfulnessComparison, measure: str) -> None:
    step = 0.7 / len(comparison.models)
    for place, model in enumerate(comparison.models):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        found = {method: comparison.cell(model.name, measure, method) for method in comparison.methods}
        chance = found.get(CONTROL)
        if chance is not None and chance.mean is not None:
            axes.axvline(chance.mean, color=colour, linestyle=":", linewidth=1)
        cells = [(line, cell) for line, cell in enumerate(found.values()) if cell is not None and cell.mean is not None]
        means = [cell.mean or 0.0 for _, cell in cells]
        low = [mean - (mean if cell.low is None else cell.low) for mean, (_, cell) in zip(means, cells, strict=True)]
        high = [(mean if cell.high is None else cell.high) - mean for mean, (_, cell) in zip(means, cells, strict=True)]
        heights = [line - 0.35 + step * (place + 0.5) for line, _ in cells]
        axes.errorbar(
            means, heights, xerr=(low, high), color=colour, marker=marker, markersize=4, linestyle="none", elinewidth=1, label=model.name
        )
    axes.set_yticks(range(len(comparison.methods)), [method.replace("_", " ") for method in comparison.methods], fontsize=8)
    axes.set_ylim(len(comparison.methods) - 0.4, -0.6)
    axes.set_title(MEASURES[measure].title, fontsize=9)
    axes.set_xlabel(BETTER[MEASURES[measure].better], fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#e3e5e8", linewidth=0.6)
    axes.set_axisbelow(True)
