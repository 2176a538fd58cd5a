"""A trained model measured again: the same numbers on the same rows, other numbers on other rows, and sentences for mistakes."""

import json

import pytest

from hf_tanhmax.results import RENAMED_KEYS
from hf_tanhmax.training.configuration.recipe import read_layers
from hf_tanhmax.training.evaluate import main, read_config


@pytest.mark.parametrize(("task", "metric"), [("bert/text_classification", "accuracy"), ("llama/causal_lm", "perplexity")])
def test_a_run_is_measured_again(task, metric, train, tmp_path, capsys):
    _, _, results = train("tanhmax", task=task)
    assert main([str(tmp_path / "run"), "--use_cpu", "true"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[metric] == pytest.approx(results["metrics"][f"test_{metric}"], rel=1e-6)
    assert found["split"] == "test"


def test_a_run_from_before_its_keys_were_renamed_is_read_with_their_new_names(tmp_path):
    values = {key: value for _, layer in read_layers("bert/text_classification") for key, value in layer.items()}
    old = {new: old for old, new in RENAMED_KEYS.items()}
    identity = {"config": {old.get(key, key): value for key, value in values.items()} | {"warmup_share": 0.3}, "data": {}}
    (tmp_path / "recipe.json").write_text(json.dumps(identity))
    config = read_config(tmp_path, ["--batch_size", "7"])
    assert (config.warmup_steps, config.batch_size, config.model_name_or_path) == (0.3, 7, str(tmp_path))


def test_other_rows_must_have_the_labels_of_the_model(train, tmp_path, capsys):
    train("tanhmax")
    (tmp_path / "other.csv").write_text('text,label\n"w1 w2",1\n"w3",0\n"w4",2\n')
    assert main([str(tmp_path / "run"), "--train_file", str(tmp_path / "other.csv")]) == 2
    assert "the rows have the labels 0, 1, 2, but the model in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "nowhere is not the folder of a run"), (["--help"], "usage: python -m hf_tanhmax.training.evaluate")],
)
def test_help_and_a_mistake(arguments, message, capsys):
    assert main(arguments) == (0 if arguments == ["--help"] else 2)
    said = capsys.readouterr()
    assert message in said.out + said.err
