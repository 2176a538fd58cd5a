"""The benchmark refuses to time what is wrong, and reports what it measured."""

import json

import pytest
import torch

from recipes import benchmark, contenders
from recipes.measure import extra_memory, percentiles, processor_time


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(benchmark, "SHAPES", ((1, 2, 37, 8), (1, 1, 2048, 4)))


def test_a_wrong_contender_stops_the_run(monkeypatch):
    wrong = {**contenders.CONTENDERS, "cpu": lambda query, key, value, causal: contenders.softmax(query, key, value, causal)}
    monkeypatch.setattr(contenders, "CONTENDERS", wrong)
    with pytest.raises(SystemExit, match=r"cpu is wrong in torch.float32, causal=False: relative error .*; nothing was timed"):
        benchmark.attention("cpu", rounds=1)


def test_there_is_no_gpu_benchmark_yet():
    with pytest.raises(SystemExit, match="no fused kernel to time on 'cuda' yet"):
        benchmark.attention("cuda", rounds=1)


def test_end_to_end(small, tmp_path):
    result = benchmark.attention("cpu", rounds=2)
    assert len({(row["dtype"], row["shape"], row["causal"], row["what"]) for row in result["rows"]}) == 2 * 2 * 2 * 2
    assert all(row["p50"] == 1.0 for row in result["rows"] if row["contender"] == benchmark.BASELINE)
    assert set(result["environment"]) >= {"torch", "cpu", "hf-tanhmax"}
    path = tmp_path / "deep" / "result.json"
    benchmark.write(result, path)
    text = benchmark.report(json.loads(path.read_text()))
    assert "`cpu` over softmax SDPA, float32, forward, 512 and 2048: worst median" in text
    assert path.with_suffix(".csv").read_text().startswith("contender,dtype,shape")


def test_targets_say_met_and_missed():
    rows = [
        benchmark.Row(name, dtype, (1, 1, 512, 4), False, what, ratio, ratio, ratio, 1.0)
        for dtype, what in benchmark.TARGETS
        for name, ratio in (("cpu", 1.55), ("eager", 2.0))
    ]
    lines = benchmark.targets(rows)
    assert lines[0] == "* `cpu` over softmax SDPA, float32, forward, 512 and 2048: worst median 1.55, target 1.6: met"
    assert lines[1].endswith("worst median 1.55, target 1.5: missed")
    assert lines[3].endswith("worst median 0.78, target 0.2: missed")


def test_extra_memory_sees_an_allocation():
    found = extra_memory(lambda: torch.ones(16, 2**20).sum())
    if found is None:
        pytest.skip("this system does not tell a process its peak memory")
    assert 60 < found < 100


def test_percentiles_and_clock():
    assert percentiles([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == (2.0, 3.5, 5.0)
    assert processor_time(lambda: sum(range(10**5))) > 0
