"""The figure of a comparison has a panel for each measure, a mark for each model and method, and the numbers of its cells."""

import math

import pytest

from hf_tanhmax.interpret.faithfulness.comparison import ComparedModel, FaithfulnessComparison
from hf_tanhmax.interpret.viz.comparison_figure import plot_comparison


def comparison(measures=("mask_tau", "sufficiency", "permutation")):
    """Two models of three texts; one lacks a method, and one value is not defined."""
    models = (ComparedModel("one", "softmax", 2, {}, (0, 1, 1)), ComparedModel("other", "TanhMax", 2, {"rollout": "no"}, (0, 1, 0)))
    rows = {"weights": {0: (0.1, 0.2, 0.6)}, "rollout": {0: (0.4, 0.5, math.nan)}, "random": {0: (0.0, 0.1, 0.2), 1: (0.2, 0.0, 0.1)}}
    served = {"one": rows, "other": {name: rows[name] for name in ("weights", "random")}}
    values = {
        name: {measure: served[name] if measure != "permutation" else {"": {0: (1.0, 1.0, 1.0)}} for measure in measures} for name in served
    }
    return FaithfulnessComparison(models, ("weights", "rollout", "random"), measures, values, {"seeds": 2})


def test_panels_marks_and_numbers():
    figure = plot_comparison(comparison())
    panels = [panel for panel in figure.axes if panel.axison]
    assert [panel.get_title() for panel in panels] == ["mask tau", "sufficiency"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["weights", "rollout", "random"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one (softmax)", "other (TanhMax)"]
    one, other = panels[0].containers
    assert list(one.lines[0].get_xdata()) == pytest.approx([0.3, 0.45, 0.1])
    assert list(other.lines[0].get_xdata()) == pytest.approx([0.3, 0.1])
    assert [line.get_xdata()[0] for line in panels[0].lines if line.get_linestyle() == ":"] == pytest.approx([0.1, 0.1])


def test_it_is_written(tmp_path):
    for measures in (("mask_tau",), ("mask_tau", "sufficiency", "comprehensiveness", "deletion_auc")):
        plot_comparison(comparison(measures)).savefig(tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size > 5000
