"""Results: read in every form, by the names of today, merged by what makes a run the same, and shown in one table."""

import json

import pytest
from saved_models import result

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.results import (
    RENAMED_KEYS,
    attention_in_words,
    check_runs,
    gather,
    mean_and_deviation,
    numbers_of,
    portable,
    read_lines,
    read_run,
    read_runs,
    results_of,
    settings_of,
    spread,
    table,
    write_json,
    write_lines,
)

NEW = result()["config"]
OLD = {"epochs": 1, "warmup_share": 0.1, "learning_rate_schedule": "linear", "max_gradient_norm": 1.0, "hub_private": False}


def run_of(seed=0, accuracy=0.8, **changes):
    return result(seed, accuracy, hardware={"gpu": None}, **changes)


# Reading


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", json.dumps(run_of())),
        ("variant.json", json.dumps({"runs": [run_of()]})),
        ("study.jsonl", json.dumps(run_of()) + "\n"),
    ],
)
def test_every_form_of_a_file_is_read(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert [(run["variant"], run["seed"]) for run in read_runs(tmp_path / name)] == [("annealed", 0)]


def test_keys_of_another_day_are_read_by_the_names_of_today(tmp_path):
    write_json(tmp_path / "old.json", run_of(config={**OLD, "seed": 0, "batch_size": 32}))
    config = read_run(tmp_path / "old.json")["config"]
    assert config == {RENAMED_KEYS[key]: value for key, value in OLD.items()} | {"seed": 0, "batch_size": 32}
    assert list(config)[:2] == ["num_train_epochs", "warmup_steps"]
    assert OLD.keys() == RENAMED_KEYS.keys()


def test_a_run_of_another_day_is_the_same_run_as_today():
    new = {RENAMED_KEYS[key]: value for key, value in OLD.items()}
    old, young = run_of(0, config={**OLD, "seed": 0}), run_of(1, config={**new, "seed": 1})
    assert check_runs([old, young])[0]["config"] == {**new, "seed": 0}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.jsonl", json.dumps(run_of()) + "\n{", "a.jsonl is not JSON: line 2: "),
        ("a.json", "[]", "is not a result of recipes.train"),
        ("a.jsonl", "", "is not a result of recipes.train"),
        ("a.jsonl", json.dumps(run_of()) + "\n3", "is not a result of recipes.train"),
        ("a.json", json.dumps({"runs": []}), "is not a result of recipes.train"),
        ("a.json", json.dumps({key: value for key, value in run_of().items() if key != "attention_health"}), "is not a result of"),
    ],
)
def test_what_is_no_result_file(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_runs(tmp_path / name)


def test_one_run_is_wanted(tmp_path):
    write_lines(tmp_path / "a.jsonl", [run_of(0), run_of(1)])
    with pytest.raises(RecipeError, match="holds 2 runs, but one was wanted"):
        read_run(tmp_path / "a.jsonl")
    with pytest.raises(RecipeError, match=r"cannot read .*none\.json: No such file"):
        read_runs(tmp_path / "none.json")


# Checking


@pytest.mark.parametrize("runs", [[], [{}], {"recipe": 1}, [result(), 3], [{"recipe": "a", "variant": "b", "seed": 0}]])
def test_what_is_no_result(runs):
    with pytest.raises(ValueError, match=r"results must be a list of what recipes.train writes to results.json, one per seed, or None"):
        check_runs(runs)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"variant": "tanhmax"}, "variant"),
        ({"config": {**NEW, "learning_rate": 1.0}}, "learning_rate"),
        ({"config": {**NEW, "new_key": 1}}, "new_key"),
        ({"data": {"source": "synthetic"}}, "data"),
    ],
)
def test_runs_of_different_models(changes, names):
    for runs in ([result(0), result(1, **changes)], [result(1, **changes), result(0)]):
        with pytest.raises(ValueError, match=f"the results are not of one model: they differ in {names}; give those of one variant"):
            check_runs(runs)


def test_more_rows_are_not_other_data():
    check_runs([result(0), result(1, data={**result()["data"], "rows": {"train": 3}})])


def test_a_seed_counts_once():
    with pytest.raises(ValueError, match="seed 1 is given twice; a run counts once"):
        check_runs([result(1), result(0), result(1)])


# Writing


def test_a_run_takes_the_place_of_the_same_run(tmp_path):
    for seed, accuracy in ((1, 0.5), (0, 0.6), (1, 0.7)):
        path = gather(tmp_path / "results", run_of(seed, accuracy))
    assert path.name == "bert--text_classification--annealed.json"
    assert [(run["seed"], run["metrics"]["test_accuracy"]) for run in read_runs(path)] == [(0, 0.6), (1, 0.7)]
    gather(tmp_path / "results", run_of(1, config={**NEW, "batch_size": 64, "seed": 1}))
    assert len(read_runs(path)) == 3


def test_a_run_takes_the_place_of_the_same_run_of_another_day(tmp_path):
    path = tmp_path / "bert--text_classification--annealed.json"
    write_json(path, {"runs": [run_of(0, 0.5, config={**OLD, "seed": 0})]})
    gather(tmp_path, run_of(0, 0.6, config={**{RENAMED_KEYS[key]: value for key, value in OLD.items()}, "seed": 0}))
    assert [run["metrics"]["test_accuracy"] for run in read_runs(path)] == [0.6]


def test_lines_come_back(tmp_path):
    values = [{"a": [1, 0.1, None]}, "\u2028 is no end of a line", 3]
    write_lines(tmp_path / "folder" / "a.jsonl", values)
    assert read_lines(tmp_path / "folder" / "a.jsonl") == values
    assert len((tmp_path / "folder" / "a.jsonl").read_text().split("\n")) == 4


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path):
    write_lines(tmp_path / "a.jsonl", [1])
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_lines(tmp_path / "a.jsonl", [2, object()])
    assert read_lines(tmp_path / "a.jsonl") == [1]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError("no space")

    write_json(tmp_path / "a.json", {"a": 1})
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_json(tmp_path / "a.json", {"a": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def test_all_that_is_known_about_a_run():
    config = {"attention": "softmax", "seed": 3, "train_file": "/home/someone/data/train.csv", "warmup_share": 0.1}
    found = results_of("bert--a", "softmax", config, {"metrics": {"steps": 1}}, data={"source": "files"}, seconds=1.234)
    assert found["config"] == {"attention": "softmax", "seed": 3, "train_file": "data/train.csv", "warmup_steps": 0.1}
    assert (found["seed"], found["attention"], found["metrics"], found["wall_time_s"]) == (3, "softmax", {"steps": 1}, 1.23)
    assert {"data", "versions", "git", "hardware"} <= set(found)


def test_results_name_no_folder_of_this_machine():
    config = {"train_file": "/home/someone/data/train.csv", "model_name_or_path": "org/name", "seed": 3, "test_file": None}
    assert portable(config) == config | {"train_file": "data/train.csv"}


def test_attention_in_words():
    config = {"attention": "tanhmax", "polarity": 1.0, "polarity_schedule": None, "layers": None, "heads": None}
    assert attention_in_words({"attention": "softmax"}) == "softmax"
    assert attention_in_words({"attention": "softmax", "lora_rank": 8}) == "softmax, LoRA of rank 8"
    assert attention_in_words(config) == "TanhMax, polarity 1"
    assert attention_in_words(config | {"layers": [0, 2], "lora_rank": 4}) == "TanhMax, polarity 1, layers 0, 2, LoRA of rank 4"
    assert attention_in_words(config | {"polarity_schedule": "cosine", "polarity_start": 0.0}) == "TanhMax, cosine from 0 to 1"
    assert attention_in_words(config | {"polarity": "learned", "score_bias": 3.0}) == "TanhMax, learned from c = 3"
    assert attention_in_words(config | {"polarity": 0.2, "shift": "balanced"}) == "balanced TanhMax, polarity 0.2"
    assert attention_in_words(config | {"shift": None}) == "TanhMax, polarity 1"


# Numbers and tables


def test_mean_and_deviation_over_seeds():
    assert mean_and_deviation([0.5, 0.7]) == (pytest.approx(0.6), pytest.approx(0.02**0.5))
    assert mean_and_deviation([0.5]) == (0.5, None)
    assert mean_and_deviation([0.5, None]) == mean_and_deviation([]) == (None, None)
    assert [spread([0.5]), spread([0.5, 0.7]), spread([31.25, 31.75], digits=2), spread([None])] == [
        "0.5000",
        "0.6000 ± 0.1414",
        "31.50 ± 0.35",
        "-",
    ]


def test_a_time_is_shown_of_a_gpu_alone():
    assert "seconds" not in numbers_of(run_of())
    assert numbers_of(result(hardware={"gpu": "a GPU"}))["seconds"] == 1389.28


ROWS = [["a", "10"], ["long", "2"]]


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, ["name   n", "----  --", "a     10", "long   2"]),
        ({"markdown": True}, ["| name |  n |", "|------|---:|", "| a    | 10 |", "| long |  2 |"]),
        ({"markdown": True, "align": "left"}, ["| name | n  |", "|------|----|", "| a    | 10 |", "| long | 2  |"]),
        ({"markdown": True, "align": "none"}, ["| name | n |", "|---|---|", "| a | 10 |", "| long | 2 |"]),
    ],
)
def test_a_table(options, lines):
    assert table(["name", "n"], ROWS, **options).splitlines() == lines


def test_settings_are_told_apart_by_all_but_the_seed():
    assert settings_of(run_of(0)) == settings_of(run_of(1))
    assert settings_of(run_of(0)) != settings_of(run_of(0, config={**NEW, "batch_size": 64}))
    assert settings_of(run_of(0)) != settings_of(run_of(0, variant="softmax"))


@pytest.mark.parametrize(
    "text", ['{"runs": null}', '{"runs": 3}', '{"recipe": "r", "variant": "v", "seed": 0, "metrics": {}, "config": []}']
)
def test_what_is_no_list_of_runs(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RecipeError, match=r"x\.json is not a result of recipes\.train"):
        read_runs(tmp_path / "x.json")
