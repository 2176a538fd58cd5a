"""Integrated gradients add up, and say by how much they do not."""

import sys

import pytest
import torch
from families import images, text, tiny_model
from tiny_tokenizers import byte_pieces, word_pieces

import hf_tanhmax
from hf_tanhmax.interpret.attribution.integrated_gradients import baseline_token, integrated_gradients
from hf_tanhmax.interpret.attribution.target import Target

BERT = hf_tanhmax.TanhMaxBertForSequenceClassification


@pytest.mark.parametrize("cls", [BERT, hf_tanhmax.TanhMaxLlamaForSequenceClassification, hf_tanhmax.TanhMaxViTForImageClassification])
def test_the_gap_shrinks_with_the_steps(cls):
    pytest.importorskip("captum")
    model = tiny_model(cls, initializer_range=0.1)
    inputs = (
        {"pixel_values": images(1)}
        if "ViT" in cls.__name__
        else {"input_ids": text(1, 6), "attention_mask": torch.ones(1, 6, dtype=torch.long)}
    )
    options = {"special": [True, False, False, False, False, True], "baseline": 2}
    coarse, fine = (integrated_gradients(model, inputs, Target(1, None, ""), steps=steps, **options) for steps in (2, 64))
    assert abs(fine.gap) < 1e-3
    assert abs(fine.gap) < abs(coarse.gap)
    if "ViT" not in cls.__name__:
        assert fine.scores[[0, 5]].tolist() == [0, 0]
    else:
        assert fine.scores.shape == (15, 15)


def test_a_missing_captum_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(
        ImportError, match=r'integrated gradients need captum, which is not installed: pip install "hf-tanhmax\[interpret\]"'
    ):
        integrated_gradients(tiny_model(BERT), {"input_ids": text(1, 3)}, Target(0, None, ""), special=[False] * 3, baseline=0)


def test_the_baseline_is_a_token_that_means_nothing():
    bert, llama = tiny_model(BERT), tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM)
    assert baseline_token(bert, word_pieces()) == 4
    assert baseline_token(bert, None) == 0
    assert baseline_token(llama, byte_pieces()) == 2
    assert baseline_token(llama, None) == 2
