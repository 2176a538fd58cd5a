"""Small models are trained on a few rows, read once for each split, and ablated."""

import csv
import json

import pytest

from recipes.conversion import __main__ as door
from recipes.conversion import pattern


@pytest.fixture
def data(tmp_path, monkeypatch):
    (tmp_path / "sst2").mkdir()
    for name, count in (("train", 70), ("dev", 12), ("test", 11)):
        with (tmp_path / "sst2" / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows((f"a {('bad', 'good')[row % 2]} film" + " not" * (row % 7), row % 2) for row in range(count))
    monkeypatch.setattr(pattern, "PASSES", dict.fromkeys(pattern.PASSES, 1))
    return tmp_path


def test_a_line_for_each_model_and_split(data, capsys):
    given = ["pattern", "--data", str(data), "--work", str(data / "work"), "--results", str(data), "--tasks", "sst2", "--seeds", "0"]
    settings = ["--settings", "softmax", "tanhmax", "balanced_learned"]
    assert door.main([*given, *settings[:2], "--split", "test"]) == 2
    assert "softmax/0 is not there: train it first, with --split validation" in capsys.readouterr().err
    assert door.main([*given, *settings]) == 0
    assert capsys.readouterr().out.startswith("sst2, softmax, seed 0: ")
    for _ in range(2):  # the second time nothing is missing
        assert door.main([*given, *settings, "--split", "test"]) == 0
    lines = [json.loads(line) for line in (data / "pattern.jsonl").read_text().splitlines()]
    assert [(line["setting"], line["split"]) for line in lines] == [
        (name, split) for split in ("validation", "test") for name in settings[1:]
    ]
    for line in lines:
        rows = 12 if line["split"] == "validation" else 11
        assert len(line["right"]) == rows
        assert (line["ablation"] is None) == (line["setting"] == "softmax")
        if line["ablation"]:
            assert line["ablation"]["as_is"] == line["accuracy"]
            assert line["ablation"]["rows"] == rows
        assert (line["training"] is None) == (line["split"] == "test")
        assert {"torch", "transformers"} <= set(line["versions"])
    capsys.readouterr()
    assert door.main(["pattern", "--results", str(data), "--table"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 6
    assert door.main(["pattern", "--results", str(data)]) == 2
    assert capsys.readouterr().err == "error: --data DIR is missing, the folder with sst2/\n"


def test_means_and_standard_errors():
    effects = {name: {"difference": -0.1} for name in pattern.SHOWN}

    def line(setting, seed, accuracy):
        ablation = None if setting == "softmax" else {"negative_mass": 0.25, "effects": effects}
        return {"task": "sst2", "split": "test", "setting": setting, "seed": seed, "accuracy": accuracy, "ablation": ablation}

    values = [("softmax", 0, 0.8), ("softmax", 1, 0.9), ("tanhmax", 0, 0.82), ("tanhmax", 1, 0.9), ("tanhmax", 2, 0.8)]
    _, _, softmax, tanhmax = pattern.summary([line(*each) for each in values]).splitlines()
    assert [cell.strip() for cell in softmax.split("|")[1:7]] == ["sst2, test, softmax", "2", "85.00 ± 5.00", "", "", ""]
    assert [cell.strip() for cell in tanhmax.split("|")[2:7]] == ["3", "84.00 ± 3.06", "1.00 ± 1.00", "25.00 ± 0.00", "-10.00 ± 0.00"]


def test_documents_of_the_paper(tmp_path):
    rows, vocabulary = pattern.read_splits("synthetic", tmp_path)
    assert {split: len(each) for split, each in rows.items()} == {"train": 6000, "validation": 1000, "test": 3000}
    assert 1000 < vocabulary < 2100
    assert set(rows["train"].lengths) == {14}


def test_votes_decide(tmp_path):
    made = pattern.votes()
    for split, count in (("train", 5000), ("test", 2000)):
        assert len(made[split]["text"]) == count
        assert 0.4 < sum(made[split]["label"]) / count < 0.6
        for text, label in zip(made[split]["text"], made[split]["label"], strict=True):
            words = text.split()
            yes, no = (sum(word.startswith(kind) for word in words) for kind in ("yes", "no"))
            assert (len(words), yes > no) == (12, bool(label))
    assert pattern.votes() == made
