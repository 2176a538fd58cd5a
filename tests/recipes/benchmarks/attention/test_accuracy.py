"""The accuracy table."""

import json
import os
import sys

import pytest

from recipes.benchmarks.attention import __main__ as benchmark
from recipes.benchmarks.attention import accuracy, contenders
from recipes.benchmarks.attention.accuracy import Row


@pytest.fixture(scope="module")
def result():
    def absent(query, key, value, causal):
        raise NotImplementedError("no kernel\nhere")

    return accuracy.accuracy("cpu", {"absent": absent, "softmax": contenders.softmax})


def test_errors(result):
    errors = {(row["contender"], row["std"]): row for row in result["rows"] if row["mean"] is not None}
    for std in accuracy.STDS:
        assert 1e-3 < errors["cpu", std]["mean"] < 2.5e-3
        assert errors["softmax", std]["mean"] > 0.1
        assert 0 < errors["eager", std]["spread"] < errors["eager", std]["mean"]
    assert errors["doubled keys", 0.01]["mean"] > 0.05 > 3e-3 > errors["doubled keys", 1.0]["mean"]


def test_the_fused_kernels_are_among_them_where_they_run(result, monkeypatch):
    measured = {row["contender"] for row in result["rows"]}
    assert ("fused" in measured) == (os.environ.get("TRITON_INTERPRET") == "1")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "fused" not in accuracy.contenders("cpu")
    assert "fused" in accuracy.contenders("cuda")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="the kernels run on the CPU only in the interpreter")
def test_the_fused_kernels_in_the_corrected_interpreter(result):
    errors = {(row["contender"], row["std"]): row["mean"] for row in result["rows"]}
    assert errors["fused", 0.01] < 0.1 * errors["two calls, outputs rounded", 0.01]
    assert errors["fused", 1.0] < errors["two calls, outputs rounded", 1.0]
    (last,) = accuracy.targets([Row(**row) for row in result["rows"]])
    assert last.startswith("* fused, bfloat16, scores of 0.05 and 1: worst error ")
    assert last.endswith(", target 4e-03: met")


def test_report(result):
    text = benchmark.report(json.loads(json.dumps(result)))
    assert "1 x 2 heads, 64 queries, 128 keys, D 32" in text
    assert "* not measured: absent, bfloat16: NotImplementedError: no kernel" in text
    contenders_ = len(dict.fromkeys(row["contender"] for row in result["rows"]))
    assert len([line for line in text.split("\n") if line.startswith("| bfloat16, ")]) == contenders_


def test_target():
    rows = [Row("fused", "bfloat16", std, mean, 0.0) for std, mean in ((0.01, 1.0), (0.05, 3e-3), (1.0, 2e-3))]
    assert accuracy.targets(rows) == ["* fused, bfloat16, scores of 0.05 and 1: worst error 3.0e-03, target 4e-03: met"]


def test_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(accuracy, "SEEDS", 2)
    path = tmp_path / "accuracy.json"
    monkeypatch.setattr(sys, "argv", ["recipes.benchmarks.attention", "accuracy", "--output", str(path)])
    benchmark.main()
    assert capsys.readouterr().out == path.with_suffix(".md").read_text()
    assert "over 2 seeds" in path.with_suffix(".md").read_text()
    assert path.with_suffix(".csv").read_text().startswith("contender,dtype,std,mean,spread,reason\n")
