"""The benchmark of a ring and the plan that rests on it: bytes, arithmetic, and what is said of a result."""

import json
from pathlib import Path

import pytest

from recipes.benchmarks import ring, ring_plan
from recipes.benchmarks.ring_plan import Plan

RESULT = Path(__file__).parents[3] / "recipes" / "results" / "ring" / "ring-cpu.json"


def test_bytes_of_two_ranks():
    """K and V once forward; backward once more, and their float32 gradients there and back."""
    assert ring.bytes_sent(2, 10, 2) == (20, 20 + 80)
    assert ring.bytes_sent(1, 10, 2)[0] == 0


def test_the_stored_result_sent_what_the_formula_says():
    result = json.loads(RESULT.read_text())
    for row in result["rows"]:
        numbers = 2 * result["kv_heads"] * result["head_dim"] * row["length"] // row["ranks"]
        assert row["sent"] == (sum(ring.bytes_sent(row["ranks"], numbers, 4)) if row["ranks"] > 1 else 0)
        assert row["mib"] > 0
    sent = {(row["length"], row["ranks"]): set() for row in result["rows"]}
    for row in result["rows"]:
        sent[row["length"], row["ranks"]].add(row["sent"])
    assert all(len(each) == 1 for each in sent.values())  # TanhMax and softmax alike
    assert all(f" {kind} |" in ring.report(result) for kind in ring.KINDS)


def test_the_plan_by_hand():
    plan = Plan(ranks=2, length=8, layers=3, heads=4, kv_heads=2, head_dim=16)
    assert plan.local == 4
    assert plan.block == 2 * 4 * 2 * 16
    assert plan.products == 2 * 2 * 4 * 16 * (4 * 4 / 2)
    assert plan.saved() == 2 * (4 * 4 * 16) * 2 + 2 * (2 * 4 * 2 * 16) + 4 * 4 * 4
    assert plan.sent() == ring.bytes_sent(2, 256, 2)


def test_what_overlaps_is_not_added():
    plan = Plan()
    for share in ring_plan.SHARES:
        compute, network, whole = plan.seconds(share)
        for number in range(2):
            assert max(compute[number], network[number]) < whole[number] < compute[number] + network[number]
    assert Plan().saved() * 64 == Plan(ranks=1).saved()


@pytest.mark.parametrize("share", ring_plan.SHARES)
def test_the_fewest_tokens_are_those_whose_blocks_travel_as_long_as_a_step(share):
    fewest = ring_plan.fewest(Plan(), share)
    for local, hidden in ((fewest - 64, False), (fewest + 64, True)):
        plan = Plan(length=local * 64)
        compute, network, _ = plan.seconds(share)
        assert (compute[1] > network[1]) == hidden
