"""The benchmark on the CPU refuses to time what is wrong, and reports what it measured; the command line."""

import json
import sys

import pytest
import torch

from recipes.benchmarks.attention import __main__ as benchmark
from recipes.benchmarks.attention import contenders
from recipes.benchmarks.attention import cpu as attention_cpu
from recipes.benchmarks.measure import extra_memory, percentiles, processor_time


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(attention_cpu, "SHAPES", ((1, 2, 37, 8), (1, 1, 2048, 4)))


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command line; returns what it printed."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["recipes.benchmarks.attention", *map(str, words)])
        benchmark.main()
        return capsys.readouterr().out

    return run


def test_a_wrong_contender_stops_the_run(monkeypatch):
    wrong = {**contenders.CONTENDERS, "cpu": lambda query, key, value, causal: contenders.softmax(query, key, value, causal)}
    monkeypatch.setattr(contenders, "CONTENDERS", wrong)
    with pytest.raises(SystemExit, match=r"cpu is wrong in torch.float32, causal=False: relative error .*; nothing was timed"):
        attention_cpu.attention(rounds=1)


def test_a_nan_in_a_gradient_is_an_error():
    def broken(query, key, value, causal):
        return contenders.softmax(query, key, value, causal) + 0.0 * (query - query.detach()).sqrt().nan_to_num()

    tensors = [torch.randn(1, 1, 5, 8) for _ in range(3)]
    assert not contenders.relative_error(broken, tensors, causal=True, signed=False) <= 1e9


@pytest.mark.parametrize("causal", [False, True])
def test_grouped_heads_are_checked(causal):
    tensors = [torch.randn(2, heads, 17, 8) for heads in (6, 2, 2)]
    assert contenders.relative_error(contenders.softmax, tensors, causal=causal, signed=False) < 1e-6
    assert contenders.relative_error(contenders.eager, tensors, causal=causal, signed=True) < 1e-6
    assert contenders.relative_error(contenders.eager, tensors, causal=causal, signed=False) > 0.1


@pytest.mark.slow
def test_end_to_end(small, command, tmp_path):
    path = tmp_path / "deep" / "result.json"
    printed = command("attention", "--rounds", 2, "--output", path)
    result = json.loads(path.read_text())
    assert len({(row["dtype"], tuple(row["shape"]), row["causal"], row["what"]) for row in result["rows"]}) == 2 * 2 * 2 * 2
    assert all(row["p50"] == 1.0 for row in result["rows"] if row["contender"] == contenders.BASELINE)
    assert set(result["environment"]) >= {"torch", "cpu", "hf-tanhmax"}
    assert printed == benchmark.report(result) + "\n" == command("table", path)
    assert "`cpu` over softmax SDPA, float32, forward, 512 and 2048: worst median" in printed
    assert path.with_suffix(".csv").read_text().startswith("contender,dtype,shape")
    assert not path.with_suffix(".md").exists()


def test_targets_say_met_and_missed():
    rows = [
        attention_cpu.Row(name, dtype, (1, 1, 512, 4), False, what, ratio, ratio, ratio, 1.0)
        for dtype, what in attention_cpu.TARGETS
        for name, ratio in (("cpu", 1.2), ("eager", 2.0))
    ]
    lines = attention_cpu.targets(rows)
    assert lines[0] == "* `cpu` over softmax SDPA, float32, forward, 512 and 2048: worst median 1.20, target 1.15: missed"
    assert lines[1].endswith("worst median 1.20, target 1.25: met")
    assert lines[2].endswith("worst median 1.20, target 1: missed")
    assert lines[4].endswith("worst median 0.60, target 0.12: missed")


@pytest.mark.parametrize("words", [("attention",), ("accuracy",)])
def test_without_a_gpu_one_sentence_says_so(words, command, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="there is no CUDA device here; --"):
        command(*words, "--device", "cuda")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--groups", "3"), "5 key heads do not divide 16 query heads of size 128"),
        (("--contenders", "faster"), "unknown contender 'faster'; there are: softmax SDPA; "),
    ],
)
def test_what_cannot_be_run_is_refused(words, sentence, command):
    with pytest.raises(SystemExit, match=sentence):
        command("attention", "--device", "cuda", "--head-dims", 128, *words)


def test_flags_without_effect_are_refused(command):
    with pytest.raises(SystemExit, match="only the GPU's benchmark has a choice of lengths; --device cuda runs it"):
        command("attention", "--lengths", 64)


def test_extra_memory_sees_an_allocation():
    found = extra_memory(lambda: torch.ones(16, 2**20).sum())
    if found is None:
        pytest.skip("this system does not tell a process its peak memory")
    assert 60 < found < 100


def test_percentiles_and_clock():
    assert percentiles([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == (2.0, 3.5, 5.0)
    assert percentiles([7.0]) == (7.0, 7.0, 7.0)
    assert processor_time(lambda: sum(range(10**5))) > 0
