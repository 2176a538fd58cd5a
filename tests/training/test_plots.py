"""Figures of a run, and of several: they are drawn, and show what the results hold."""

import pytest

from hf_tanhmax.training.health import MEASURES
from hf_tanhmax.training.plots import comparison_figure, run_figures

LAYER = dict.fromkeys(MEASURES, 0.25)


@pytest.fixture
def result():
    """A result with the parts that figures read."""
    curve = [{"step": step, "overall": LAYER, "layers": [LAYER, LAYER]} for step in (0, 3)]
    metrics = {"train_loss_curve": [[1, 0.5], [2, 0.25]], "validation_curve": [[2, 0.5]]}
    named = {"recipe": "bert--text_classification", "variant": "tanhmax", "seed": 0, "attention": "TanhMax", "main_metric": "accuracy"}
    return named | {"metrics": metrics, "polarity_curve": [], "health_curve": curve}


def test_a_run_has_two_figures(result, tmp_path):
    for path in run_figures(result, tmp_path / "figures"):
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "start"), [("runs.png", b"\x89PNG"), ("runs.svg", b"<?xml")])
def test_several_runs_have_one(name, start, tmp_path):
    comparison_figure([("softmax", [0.5, 0.75]), ("tanhmax", [0.5])], "test accuracy", tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
