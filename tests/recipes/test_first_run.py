"""The choice of the first run's learning rates, and that what is shipped is what was chosen."""

import json

import pytest

start = pytest.importorskip("hf_tanhmax.cli.start", reason="needs the extra start")
first_run = pytest.importorskip("recipes.first_run", reason="needs the extra recipes")


def measured(variant, rate, loss, seed=0):
    return {"variant": variant, "learning_rate": rate, "seed": seed, "validation_cross_entropy": loss}


def test_each_variant_gets_the_rate_with_the_lowest_mean_loss():
    found = [
        measured("softmax", 1e-4, 0.5),
        measured("softmax", 2e-4, 0.2),
        measured("softmax", 1e-4, 0.1, 1),
        measured("softmax", 2e-4, 0.5, 1),
    ]
    assert first_run.choose([*found, measured("aligned", 3e-4, 0.9)]) == {"softmax": 1e-4, "aligned": 3e-4}


def test_only_training_rows_are_read_and_all_numbers_are_kept(tmp_path, monkeypatch, capsys):
    recipes = []

    def trained(given):
        recipes.extend(given)
        loss = {"softmax": 0.5, "aligned": 0.6}[given[0].variant] + given[0].config.learning_rate
        names = ("validation_cross_entropy", "validation_accuracy", "train_loss")
        return [{"data": {"rows": {"train": 1000, "validation": 200}}, "metrics": dict.fromkeys(names, loss), "wall_time_s": 1.0}]

    monkeypatch.setattr(first_run, "run_all", trained)
    monkeypatch.setattr(first_run, "FILE", tmp_path / "rates.json")
    assert first_run.main(["model", "--runs", str(tmp_path / "runs"), "--seeds", "0", "1"]) == 0
    assert capsys.readouterr().out == "softmax: 0.0001\naligned: 0.0001\n"
    kept = json.loads((tmp_path / "rates.json").read_text())
    assert kept["chosen"] == {"softmax": 1e-4, "aligned": 1e-4}
    assert len(kept["runs"]) == len(recipes) == 12
    assert {recipe.config.train_file for recipe in recipes} == {str(first_run.TRAIN)}
    assert {recipe.config.test_file for recipe in recipes} == {None}
    assert {recipe.config.seed for recipe in recipes} == {0, 1}


@pytest.mark.skipif(not first_run.FILE.is_file(), reason="the grid of learning rates was not measured yet")
def test_the_first_run_trains_with_what_was_chosen():
    assert json.loads(first_run.FILE.read_text())["chosen"] == start.RATES
