"""The scan of polarities: softmax's own perplexity at 0, another at 1, and sentences for mistakes."""

import json
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_tanhmax.training.data.tokenizer import build_causal_tokenizer
from recipes.benchmarks.polarity_scan import main

WORDS = " ".join(f"word{number}" for number in range(90))


@pytest.fixture
def checkpoint(tmp_path):
    """A softmax decoder, small and random, and a text."""
    tokenizer = build_causal_tokenizer([WORDS], vocabulary_size=300, max_length=64)
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 13}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.3, **sizes)).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(WORDS)
    return model, tokenizer, tmp_path


def test_polarity_0_is_softmax_and_1_is_not(checkpoint, capsys):
    model, tokenizer, place = checkpoint
    flags = ["--rows", "3", "--length", "11", "--out", str(place / "scan.json")]
    assert main([str(place / "model"), str(place / "text.txt"), *flags]) == 0
    found = dict(json.loads((place / "scan.json").read_text())["perplexity"])
    ids = tokenizer(WORDS, return_tensors="pt")["input_ids"][0, :33].view(3, 11)
    with torch.no_grad():
        logits = model(ids).logits
    by_hand = math.exp(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
    assert found[0.0] == pytest.approx(by_hand, rel=1e-4)
    assert found[1.0] != pytest.approx(by_hand, rel=1e-3)
    assert "1e-12" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "none.txt"], "there is no file"),
        (["model", "text.txt", "--rows", "999"], "but 999 rows of 64 were asked for"),
        (["nowhere", "text.txt"], "has no tokenizer"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, message, checkpoint, capsys, monkeypatch):
    monkeypatch.chdir(checkpoint[2])
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
