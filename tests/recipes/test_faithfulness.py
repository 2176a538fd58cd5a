"""The recipe that trains models alike and compares their explanations, with tiny models; and the tables of its results."""

import json

import pytest

from hf_tanhmax.errors import Interrupted

recipe = pytest.importorskip("recipes.faithfulness", reason="needs the extra recipes")

CELL = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 9, "seeds": 1, "spread": None}


def made(**changes):
    """A result of two models, of which one method is better of the second."""
    drawn = {**CELL, "seeds": 5, "spread": 0.01}
    cells = {
        name: {"attention_tau": {"weights": CELL, "random": drawn}, "sufficiency": {"weights": CELL}} for name in ("softmax", "tanhmax")
    }
    del cells["tanhmax"]["sufficiency"]["weights"]
    differences = {
        "tanhmax": {
            "attention_tau": {
                "weights": {"mean": 0.1, "low": 0.05, "high": 0.15, "n": 9},
                "random": {"mean": 1, "low": 1, "high": 1, "n": 9},
            },
            "sufficiency": {"rollout": {"mean": 0.1, "low": 0.05, "high": 0.15, "n": 9}},
        }
    }
    return {
        "family": "bert",
        "model": "minilm",
        "trained": {"softmax": {"metrics": {"test_accuracy": 0.83}}, "tanhmax": {"metrics": {"test_accuracy": 0.7951}}},
        "models": [{"name": "softmax", "unavailable": {}}, {"name": "tanhmax", "unavailable": {"attnlrp": "it needs softmax"}}],
        "methods": ["weights", "random"],
        "measures": ["attention_tau", "sufficiency"],
        "cells": cells,
        "differences": differences,
        "settings": {"texts": 9, "seeds": 5, "seconds": 600.0},
        "hardware": {"threads": 2},
        **changes,
    }


def test_the_table_says_what_was_measured():
    lines = recipe.summary(made(), markdown=True).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == ["method", "model", "attention tau ↑", "sufficiency ↓"]
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["weights", "softmax", "0.500 [0.400, 0.600]", "0.500 [0.400, 0.600]"]
    assert "0.500 [0.400, 0.600], seeds ±0.010" in lines[4]
    assert "* Not measured of tanhmax: attnlrp (it needs softmax)" in lines
    assert "* tanhmax more faithful than softmax, paired interval without 0: weights (attention tau)" in lines
    assert "* tanhmax less faithful than softmax, paired interval without 0: rollout (sufficiency)" in lines
    assert "* 10 minutes of measuring with 2 threads" in lines
    assert "* Test accuracy: softmax 83.0 %, tanhmax 79.5 %" in lines
    perplexities = {name: {"metrics": {"test_perplexity": 65.43}} for name in ("softmax", "tanhmax")}
    assert "* Test perplexity: softmax 65.4, tanhmax 65.4" in recipe.summary(made(trained=perplexities))


def test_results_are_rendered_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "FOLDER", tmp_path)
    assert recipe.rendered() == "Nothing was measured yet."
    (tmp_path / "bert-checkpoint.json").write_text(json.dumps(made()))
    (tmp_path / "vit-scratch.json").write_text(
        json.dumps(made(family="vit", model=None, flags=["--seed", "1", "--train_file", "texts/plays.txt"]))
    )
    assert "bert, from minilm, 9 test rows, 5 seeds:" in recipe.rendered()
    assert recipe.main(["vit", "--table"]) == 0
    printed = capsys.readouterr().out
    assert "vit, from scratch on plays.txt, 9 test rows, 5 seeds:" in printed
    assert "minilm" not in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bert", "--rows", "0"], "--rows must be at least 1, but is 0"),
        (["bert", "--seeds", "0"], "--seeds must be at least 1, but is 0"),
        (["bert", "--workers", "0"], "--workers must be at least 1, but is 0"),
        (["bert", "--epochs_of_mine", "3"], "epochs_of_mine"),
    ],
)
def test_what_cannot_be_measured(arguments, said, tmp_path, capsys):
    assert recipe.main([*arguments, "--runs", str(tmp_path), "--out", str(tmp_path / "a.json")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, Interrupted])
def test_a_run_that_is_stopped_says_so(stopped, tmp_path, capsys, monkeypatch):
    def _stop(_):
        raise stopped

    monkeypatch.setattr(recipe, "run_all", _stop)
    assert recipe.main(["bert", "--runs", str(tmp_path), "--out", str(tmp_path / "a.json")]) == 130
    assert capsys.readouterr().err == "stopped: what is finished is kept; the same command goes on from there\n"


def test_every_family_knows_what_its_variants_are_trained_with(tmp_path):
    for family in recipe.TASKS:
        for model, variants in ((None, recipe.SCRATCH), ("some/model", recipe.TRAINED)):
            options = recipe.argparse.Namespace(family=family, model=model, runs=tmp_path)
            found = recipe.recipes_of(options, ["--seed", "3"])
            assert tuple(found) == variants
            assert {made.config.seed for made in found.values()} == {3}
            assert len({made.output_dir for made in found.values()}) == len(variants)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "vit", "llama"])
def test_from_training_to_the_table(family, tmp_path, capsys):
    tiny = ["--max_steps", "2", "--hidden_size", "16", "--num_heads", "2", "--max_train_rows", "300", "--max_test_rows", "8"]
    tiny += ["--num_train_epochs", "1", "--logging_steps", "1", "--save_steps", "2", "--health_rows", "4", "--batch_size", "8"]
    given = [family, "--rows", "3", "--seeds", "2", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "found.json"), *tiny]
    assert recipe.main(given) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [model["name"] for model in found["models"]] == ["softmax", "tanhmax"]
    assert found["settings"]["texts"] == 3
    assert found["flags"] == tiny
    assert found["trained"]["tanhmax"]["data"]["rows"]["test"] > 0
    assert found["models"][1]["heads"]["texts"] == 3
    assert (tmp_path / "found.png").is_file()
    assert "weights" in capsys.readouterr().out
