"""Attention health against a calculation by hand, and on models whose answer is known."""

import math

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from hf_tanhmax import TanhMaxBertConfig, TanhMaxBertForSequenceClassification
from hf_tanhmax.training.health import AttentionHealth, attention_health

SIZES = {"vocab_size": 23, "hidden_size": 10, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 14}


def test_sums_by_hand_leave_padding_out():
    health = AttentionHealth()
    weights = torch.tensor([[[[0.5, -0.25, 0.0], [0.0, 0.25, 0.0], [9.0, 9.0, 9.0]]]])
    for layer, sign in ((0, 1), (4, -1)):  # those between are not called
        health.add(layer, sign * weights, torch.tensor([[1, 1, 0]]))
        health.add(layer, torch.full((1, 1, 1, 1), -sign), torch.tensor([[1]]))
    report = health.report()
    entropy = -(1 / 3 * math.log2(1 / 3) + 2 / 3 * math.log2(2 / 3)) / 3  # the first query of three uses both signs
    first = {"negative_mass": pytest.approx(1.25 / 2), "weight_sum": pytest.approx(2 / 3), "sign_entropy": pytest.approx(entropy)}
    assert report["layers"] == [first, first | {"negative_mass": pytest.approx(0.75 / 2)}]
    assert report["overall"] == first | {"negative_mass": pytest.approx(2 / 4)}


def test_nothing_counted_is_an_error():
    with pytest.raises(
        ValueError, match="no attention weights were seen: no module of the model that was called asks Transformers' attention interface"
    ):
        AttentionHealth().report()


def batches():
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return [{"input_ids": torch.arange(10).view(2, 5), "attention_mask": mask}]


def test_softmax_has_no_negative_mass_and_sums_to_1():
    model = BertForSequenceClassification(BertConfig(**SIZES, attn_implementation="eager"))
    report = attention_health(model, batches())
    assert report["overall"] == {"negative_mass": 0.0, "weight_sum": pytest.approx(1.0, abs=1e-6), "sign_entropy": 0.0}
    assert len(report["layers"]) == 3
    assert "polarity_per_head" not in report


@pytest.mark.parametrize("polarity", [0.1, 1.0])
def test_a_balanced_shift_fixes_the_sum_of_the_weights_and_bounds_their_negative_mass(polarity):
    options = {"initializer_range": 0.7, "attn_implementation": "eager"}
    config = TanhMaxBertConfig(**SIZES, **options, tanhmax_shift="balanced", tanhmax_polarity=polarity)
    overall = attention_health(TanhMaxBertForSequenceClassification(config), batches())["overall"]
    assert overall["weight_sum"] * (1 - 2 * overall["negative_mass"]) == pytest.approx((1 - polarity) / (1 + polarity), abs=1e-5)
    assert 0 < overall["negative_mass"] < polarity / (1 + polarity) + 1e-6


def test_tanhmax_has_both_signs_and_a_learned_polarity_is_reported():
    config = TanhMaxBertConfig(**SIZES, attn_implementation="eager", tanhmax_polarity="learned", tanhmax_score_bias=0.5)
    report = attention_health(TanhMaxBertForSequenceClassification(config), batches())
    assert report["polarity_per_head"] == [[pytest.approx(torch.exp(torch.tensor(-1.0)).item())] * 2] * 3
    signed = TanhMaxBertForSequenceClassification(TanhMaxBertConfig(**SIZES, attn_implementation="eager"))
    overall = attention_health(signed, batches())["overall"]
    assert 0.1 < overall["negative_mass"] < 0.9
    assert 0 < overall["weight_sum"] < 1
