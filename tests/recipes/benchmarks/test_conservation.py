"""The benchmark of conservation: a row per method that has a sum, for each model, and what cannot be measured is a sentence."""

import json

import pytest
from saved_models import save_model

from recipes.benchmarks import conservation


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for family in ("bert", "llama"):
        save_model(folder / family, family)
    return folder


def test_a_table_and_its_numbers(models, tmp_path, capsys):
    pytest.importorskip("captum")
    named = [f"--model={name}={models / 'bert'}" for name in ("one", "two")]
    assert conservation.main([*named, "--count", "2", "--out", str(tmp_path / "a.json")]) == 0
    result = json.loads((tmp_path / "a.json").read_text())
    summed = {"contributions", "input_x_gradient", "integrated_gradients", "alti_logit", "attnlrp", "occlusion", "kernel_shap"}
    for name in ("one", "two"):
        assert set(result["gap"][name]) == {*summed, conservation.CONSTANT}
        assert all(len(gaps) == 2 for gaps in result["gap"][name].values())
        assert max(abs(gap) for gap in result["gap"][name]["kernel_shap"]) < 1e-3
        assert max(abs(gap) for gap in result["gap"][name][conservation.CONSTANT]) < 1e-3  # a model without biases
    assert result["gap"]["one"] == result["gap"]["two"]
    assert "/" not in json.dumps([result["gap"], result["far"], result["processor_s"], result["classes"]])
    assert capsys.readouterr().out.count("\n") == 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "bert"], "--model takes NAME=FOLDER, but got 'bert'"),
        (["--model", "a={models}/llama"], "give classifiers of texts"),
        (["--model", "a={models}/none"], "error: "),
        (["--model", "a={models}/bert", "--data", "none.csv"], "none.csv"),
    ],
)
def test_what_cannot_be_measured(arguments, said, models, capsys):
    assert conservation.main([argument.format(models=models) for argument in arguments]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("error: ") == 1
