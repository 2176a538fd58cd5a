"""The benchmark of faithfulness: the three ways agree, and the table says by how much one is faster."""

import json

import pytest
import torch
from families import tiny_model
from tiny_tokenizers import PIECES, word_pieces

import hf_tanhmax
from recipes.benchmarks import faithfulness as faithfulness_speed

BERT = hf_tanhmax.TanhMaxBertForSequenceClassification


@pytest.fixture
def _tiny(monkeypatch):
    def inputs(count):
        generator = torch.Generator().manual_seed(0)
        return [{"input_ids": torch.randint(3, 50, (1, 4 + index), generator=generator)} for index in range(count)]

    monkeypatch.setattr(faithfulness_speed, "_random_model", lambda: tiny_model(BERT))
    monkeypatch.setattr(faithfulness_speed, "_random_inputs", inputs)


@pytest.mark.usefixtures("_tiny")
def test_the_three_ways_agree(tmp_path, capsys):
    assert faithfulness_speed.main(["--count", "2", "--rounds", "1", "--out", str(tmp_path / "speed.json")]) == 0
    result = json.loads((tmp_path / "speed.json").read_text())
    assert result["largest_difference"] < 1e-4
    assert result["copies"]["copy by copy"] == result["copies"]["batched"] < result["copies"]["method by method"]
    assert result["ratio"]["batched"] == 1
    printed = capsys.readouterr().out
    assert "times the plain loop, target 5: " in printed
    assert printed.count("\n") >= 6


def test_a_saved_classifier_and_texts(tmp_path, capsys):
    tiny_model(BERT, vocab_size=len(PIECES)).save_pretrained(tmp_path / "model")
    word_pieces().save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("a good film\n\nnot bad, a film\n")
    given = ["--model", str(tmp_path / "model"), "--texts", str(tmp_path / "texts.txt"), "--rounds", "1"]
    assert faithfulness_speed.main(given) == 0
    assert "method by method" in capsys.readouterr().out


@pytest.mark.parametrize("texts", [[], ["--texts", "nowhere.txt"]])
def test_a_model_without_texts_is_refused(texts, capsys):
    assert faithfulness_speed.main(["--model", "somewhere", *texts]) == 2
    assert capsys.readouterr().err.startswith("error: --model needs --texts")


def test_a_verdict_that_is_missed_says_so():
    times = {"method by method": 4.0, "copy by copy": 2.0, "batched": 1.0}
    copies = dict.fromkeys(times, 10)
    result = {"copies": copies, "wall_s": times, "processor_s": times, "ratio": times, "largest_difference": 0.0}
    assert "4.0 times the plain loop, target 5: missed" in faithfulness_speed.report(result)
