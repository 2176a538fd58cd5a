"""The benchmark of the operator for CPUs: what is compared computes alike, and what is said of a result."""

import json
from pathlib import Path

import pytest
import torch
from cases import error
from torch.nn.functional import scaled_dot_product_attention

from hf_tanhmax import tanhmax_attention
from recipes.benchmarks import cpu_operator

RESULT = Path(__file__).parents[3] / "recipes" / "results" / "cpu-operator.json"


@pytest.mark.parametrize("what", ["nothing", "bias", "additive mask", "boolean mask"])
def test_both_get_the_same(what):
    """At polarity 0, where a boolean mask leaves every query a key."""
    shape = (2, 3, 8, 4)
    tensors = torch.randn(3, *shape).unbind()
    ours, stock = cpu_operator.added(what, shape)
    expected = scaled_dot_product_attention(*tensors, **stock)
    assert error(tanhmax_attention(*tensors, polarity=0.0, **ours), expected) < 1e-6


@pytest.mark.parametrize("gradients", [False, True])
def test_a_row_is_over_the_fastest_of_the_others(gradients):
    tensors = [torch.randn(1, 2, 8, 4) for _ in range(4)]
    ours, _ = cpu_operator.added("bias", (1, 2, 8, 4))
    call = cpu_operator.passes(tanhmax_attention, tensors, ours, gradients)
    row = cpu_operator.compared("calls", "a call", {"cpu": call, "slow": lambda: [call() for _ in range(20)], "SDPA": call}, 3)
    assert (row["beside"], row["contender"]) == ("SDPA", "cpu")
    assert row["p20"] <= row["p50"] <= row["p80"]


def test_what_misses_its_target_is_named():
    row = {"part": "models", "what": "a model", "beside": "sdpa", "p20": 1.0, "p50": 1.2, "p80": 1.3, "contender": "TanhMax"}
    slow = {"part": "threads", "what": "forward", "cpu": 1.0, "SDPA": 1.0, "cpu, by work": 1.5, "SDPA, by work": 1.9}
    assert list(cpu_operator.verdicts([row | {"p50": 1.0}])) == ["* every target is met"]
    assert list(cpu_operator.verdicts([row, row | {"what": "BERT-tiny, forward", "p50": 1.1}, slow])) == [
        "* a model: 1.20, target 1.05: missed",
        "* two threads, forward: 1.50 times as fast, target 1.8: missed",
    ]


def test_the_stored_result_is_reported_whole():
    result = json.loads(RESULT.read_text())
    text = cpu_operator.report(result)
    assert all(row["what"] in text for row in result["rows"])
    assert {row["part"] for row in result["rows"]} == set(cpu_operator.PARTS)
