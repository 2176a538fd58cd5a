"""A tiny language model is converted, refitted, fine-tuned and measured; kinds of text come from where they should."""

import csv
import json
from dataclasses import replace

import pytest
import torch
import yaml
from families import tiny_config
from tiny_tokenizers import byte_pieces
from transformers import LlamaForCausalLM

import hf_tanhmax
from hf_tanhmax.errors import RecipeError
from recipes.conversion import __main__ as door
from recipes.conversion import language_models, language_table, texts
from recipes.conversion.continuations import Continuations
from recipes.conversion.texts import Texts, text_of

SIZES = {
    "length": 13,
    "calibrated": ["news"],
    "held_out": ["plays"],
    "calibration_rows": 7,
    "own_rows": 2,
    "test_rows": 3,
    "signs_rows": 1,
    "tunings": {
        "plays": {"title": "fine-tuned on plays", "kinds": ["plays"], "steps": 5},
        "both": {"title": "fine-tuned on both", "kinds": ["plays", "news"], "steps": 4},
    },
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "prompts": 2,
    "prompt_length": 5,
    "continuation": 3,
}
WAYS = {
    "softmax": {"title": "softmax", "tuned": ["plays", "both"], "continued": True},
    "refitted": {"title": "refitted", "shift": "balanced", "polarity": 0.3, "refit": True, "tuned": ["plays", "both"]},
    "spread": {"title": "spread", "shift": "balanced", "polarity": "learned", "mass": 0.1, "refit": True, "times": 2},
}


@pytest.fixture
def data(tmp_path):
    """A folder of texts, each split with a word of its own."""
    for name, word in (("train", "dog"), ("test", "fan")):
        (tmp_path / "20news").mkdir(exist_ok=True)
        with (tmp_path / "20news" / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows((f"a {word} on a mat " * (1 + row % 3), row % 2) for row in range(40))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "tinyshakespeare.txt").write_text("".join(f"{word} a law\n" * 80 for word in ("too", "add", "bag", "goo", "lot")))
    return tmp_path


@pytest.fixture
def place(data, monkeypatch):
    """The same with a checkpoint, and a tiny plan."""
    torch.manual_seed(0)
    tokenizer = byte_pieces()
    LlamaForCausalLM(tiny_config("llama", upstream=True, vocab_size=len(tokenizer))).save_pretrained(data / "tiny")
    tokenizer.save_pretrained(data / "tiny")
    (data / "plan.yaml").write_text(yaml.safe_dump({**SIZES, "ways": WAYS}, sort_keys=False))
    plan = language_models.read_plan(data / "plan.yaml")
    monkeypatch.setattr(language_models, "read_plan", lambda: plan)
    return data, plan


def test_a_tiny_plan_is_measured_and_resumed(place, capsys):
    folder, _plan = place
    flags = ["language_models", "--data", str(folder), "--weights", str(folder / "tiny"), "--results", str(folder / "results")]
    flags += ["--work", str(folder / "work")]
    assert door.main(flags) == 0
    lines = [json.loads(line) for line in (folder / "results" / "language_models.jsonl").read_text().splitlines()]
    found = {(line["way"], line["tuned"]): line for line in lines}
    assert len(lines) == len(found) == 7
    softmax, refitted = found["softmax", ""], found["refitted", ""]
    assert softmax["test"]["news"]["ratio"] == 1
    assert softmax["test"]["plays"]["kl"] == pytest.approx(0, abs=1e-6)
    assert softmax["continuations"]["prompts"] == 4
    assert "continuations" not in refitted
    assert softmax["signs"]["overall"]["negative_mass"] == 0
    assert refitted["signs"]["overall"]["negative_mass"] > 0.1
    assert refitted["test"]["plays"]["kl"] > 0
    assert refitted["conversion"]["refit"]["rows"] == 9 * 13
    assert found["spread", ""]["conversion"]["allocation"]["mass"] == 0.1
    assert found["spread", ""]["conversion"]["refit"]["rows"] == 2 * 9 * 13
    assert found["refitted", "plays"]["training"]["steps"] == 5
    assert found["refitted", "both"]["training"]["steps"] == 4
    assert softmax["training"] is None
    assert found["softmax", "plays"]["test"]["plays"]["perplexity"] < softmax["test"]["plays"]["perplexity"]
    capsys.readouterr()
    assert door.main(flags) == 0
    assert capsys.readouterr().out == ""  # nothing is missing
    assert door.main(["language_table", "--results", str(folder / "results"), "--markdown"]) == 0
    rows = {cells[1].strip(): cells[2:-1] for cells in (row.split("|") for row in capsys.readouterr().out.splitlines()[2:])}
    assert list(rows) == [
        *("softmax", "softmax, fine-tuned on plays", "softmax, fine-tuned on both"),
        *("refitted", "refitted, fine-tuned on plays", "refitted, fine-tuned on both", "spread"),
    ]
    assert rows["softmax, fine-tuned on plays"][1].strip() == rows["softmax"][2].strip() == "1.000"
    assert float(rows["refitted"][2]) == pytest.approx(refitted["test"]["plays"]["ratio"], abs=1e-3)


def test_a_table_of_several_seeds(place):
    """Models as converted are compared with the one softmax model, fine-tuned ones with that of their seed."""
    folder, plan = place
    (folder / "results").mkdir()
    softmax = {("", 0): 2.0, ("", 1): 2.0, ("plays", 0): 1.0, ("plays", 1): 4.0}
    signed = {("", 0): 2.2, ("", 1): 2.4, ("plays", 0): 1.1, ("plays", 1): 4.8, ("plays", 2): 9.0}
    with (folder / "results" / "language_models.jsonl").open("w") as file:
        for way, values in (("softmax", softmax), ("refitted", signed)):
            for (tuned, seed), perplexity in values.items():
                test = {kind: {"perplexity": perplexity, "kl": 0.5} for kind in plan.kinds}
                line = {"way": way, "tuned": tuned, "seed": seed, "test": test, "signs": {"overall": {"negative_mass": 0.1}}}
                file.write(json.dumps(line) + "\n")
    rows = {row.split("|")[1].strip(): row.split("|")[3].strip() for row in language_table.rendered(folder / "results").splitlines()}
    assert rows["softmax"] == "1.000 ± 0.000 (2)"
    assert rows["refitted"] == "1.150 ± 0.071 (2)"
    assert rows["refitted, fine-tuned on plays"] == "1.150 ± 0.071 (2)"


@pytest.mark.parametrize("tuned", [True, False, "songs"])
def test_lines_of_another_fine_tuning_are_said(place, tuned):
    folder, _ = place
    (folder / "results").mkdir()
    (folder / "results" / "language_models.jsonl").write_text(json.dumps({"way": "softmax", "tuned": tuned, "seed": 0}) + "\n")
    with pytest.raises(RecipeError, match=f"holds a line of the fine-tuning {tuned!r}, which is none of the plan: plays, both"):
        language_table.rendered(folder / "results")


def test_results_that_are_not_there_are_said(tmp_path, capsys):
    assert door.main(["language_table", "--results", str(tmp_path)]) == 2
    assert "there are no results in" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_said(place, capsys):
    folder, _ = place
    assert door.main(["language_models", "--data", str(folder), "--weights", str(folder / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_continuations_are_compared_token_by_token():
    torch.manual_seed(0)
    softmax = LlamaForCausalLM(tiny_config("llama", upstream=True)).eval()
    found = Continuations.of(softmax, torch.randint(3, 20, (3, 4)), 5)
    other = found.tokens.clone()
    other[0, 2] += 1
    same, differs = found.compare(softmax), replace(found, tokens=other).compare(softmax)
    assert (same["agreement"], same["prefix"], same["equal"]) == (1, 5, 1)
    assert differs["agreement"] == pytest.approx(14 / 15)
    assert (differs["prefix"], differs["equal"]) == (pytest.approx(12 / 3), pytest.approx(2 / 3))
    assert same["log_likelihood"] == same["softmax_log_likelihood"] < 0
    signed = found.compare(hf_tanhmax.convert(softmax, polarity=1.0, shift="balanced"))
    assert signed["log_likelihood"] < signed["softmax_log_likelihood"]


def test_splits_come_from_different_texts(data):
    assert "dog" in text_of("news", "train", data)
    assert "dog" in text_of("news", "validation", data)
    assert "dog" not in text_of("news", "test", data)
    starts = [text_of("plays", split, data)[:3] for split in texts.SPLITS]
    assert starts == ["too", "lot", "lot"] or len(set(starts)) > 1
    code = [text_of("code", split, data) for split in texts.SPLITS]
    assert len(set(code)) == 3


def test_docstrings_are_those_of_the_packages_of_a_split(data, monkeypatch):
    monkeypatch.setitem(texts.DOCSTRINGS, "train", ("hf_tanhmax",))
    assert "TanhMax" in text_of("docstrings", "train", data)
    monkeypatch.setitem(texts.DOCSTRINGS, "train", ("no_such_package",))
    with pytest.raises(RecipeError, match="no_such_package is not installed"):
        text_of("docstrings", "train", data)


def test_rows_do_not_overlap_and_move_with_the_seed(data):
    found = Texts(data, byte_pieces(), 11)
    rows = found.rows("plays", "train", 6)
    assert rows.shape == (6, 11)
    assert not torch.equal(rows, found.rows("plays", "train", 6, seed=1))
    mixed = found.mixed(["news", "plays"], "train", 12)
    assert torch.equal(mixed[1::2], rows)


def test_texts_that_are_not_there_are_refused(data):
    found = Texts(data, byte_pieces(), 11)
    with pytest.raises(RecipeError, match="no test text of kind 'songs'"):
        found.rows("songs", "test", 1)
    with pytest.raises(RecipeError, match="cannot read the train text of kind 'reviews'"):
        found.rows("reviews", "train", 1)
    with pytest.raises(RecipeError, match="too few for 9999 rows"):
        found.rows("plays", "train", 9999)
    with pytest.raises(RecipeError, match="cannot be shared evenly"):
        found.mixed(["news", "plays"], "train", 3)
