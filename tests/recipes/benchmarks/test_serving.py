"""The serving benchmarks without an engine: what counts as lost, rates and percentiles, and what is asked."""

import pytest

pytest.importorskip("httpx", reason="httpx is not installed, which comes with vLLM")

from recipes.benchmarks.serving import equality, load, throughput
from recipes.benchmarks.serving.server import Answer, free_port

EXPECTED = [Answer("complete", [1, 2, 3], 1.0)] * 4


def answers(*pairs):
    return [Answer(status, tokens, 1.0) for status, tokens in pairs]


def test_what_was_acknowledged_and_is_wrong():
    right = answers(("complete", [1, 2, 3]), ("cancelled", [1, 2]), ("refused", [9]), ("cancelled", []))
    assert load.wrong(right, EXPECTED) == []
    broken = answers(("complete", [1, 2]), ("cancelled", [1, 9]), ("refused", []), ("complete", [1, 2, 4]))
    assert load.wrong(broken, EXPECTED) == [0, 1, 3]


def test_cases_are_added_to_a_file_of_the_same_versions():
    before = {"conditions": {"commit": "a", "versions": {"torch": "1"}, "cpus": 2}, "cases": {"llama": {}}}
    assert equality.kept(before, before["conditions"] | {"commit": "b"}) is before
    with pytest.raises(SystemExit, match="the file was measured with another cpus, versions: run all cases, or name another file"):
        equality.kept(before, {"commit": "a", "versions": {"torch": "2"}, "cpus": 3})


FOUND = {
    "requests": 9,
    "expected": 9,
    "under_load": {"complete": 4, "cancelled": 2, "refused": 3},
    "acknowledged_and_wrong": 0,
    "refused_without_error": 0,
    "longest_wait": 3.0,
    "healthy_without_worker": False,
    "answered_after_restart": 3,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"expected": 8},
        {"acknowledged_and_wrong": 1},
        {"refused_without_error": 1},
        {"healthy_without_worker": True},
        {"answered_after_restart": 2},
        {"longest_wait": 500.0},
        {"under_load": {"complete": 9}},
    ],
)
def test_a_load_that_lost_something(changes):
    assert load.is_right(FOUND)
    assert not load.is_right(FOUND | changes)


def test_rates_and_percentiles():
    given = [Answer("complete", [1] * 5, float(second)) for second in range(1, 22)]
    found = throughput.measured(given, 7.0, 42.0)
    assert found == {
        "requests_per_second": 3.0,
        "tokens_per_second": 15.0,
        "latency_p50": 11.0,
        "latency_p95": 20.0,
        "processor_seconds": 2.0,
    }
    with pytest.raises(RuntimeError, match="1 requests were not answered: 500"):
        throughput.measured([*given, Answer("refused", [], 1.0, "500")], 7.0, 1.0)


def test_what_is_asked():
    assert [len(each) for each in equality.prompts(shared=False)] == list(equality.LENGTHS)
    assert len({tuple(each[: equality.SHARED]) for each in equality.prompts(shared=True)}) == 1
    asked = throughput.bodies(5, 0, vocabulary=50, longest=20, new=3)
    assert asked == throughput.bodies(5, 0, vocabulary=50, longest=20, new=3)
    assert all(16 <= len(each["prompt"]) <= 20 and each["max_tokens"] == 3 for each in asked)
    assert len(load.bodies(7)) == 7
    assert 0 < free_port() < 65536
