"""What the GPU's benchmark says of a result: ratios, figures, dashes with their reasons, and where each target stands."""

import csv
from dataclasses import asdict

import pytest
from made_benchmarks import rows_at, setting

from recipes.benchmarks.attention import __main__ as benchmark
from recipes.benchmarks.attention import gpu_report
from recipes.benchmarks.attention.gpu_contenders import EAGER


@pytest.fixture
def result():
    rows = [
        *rows_at(setting(512), ratio=9.0),  # too short for any target
        *rows_at(setting(2048), ratio=1.30, memory=104.0),
        *rows_at(setting(2048, causal=True, kv_heads=8), ratio=1.47, memory=106.0),
        *rows_at(setting(8192), ratio=1.20, tflops=250.0),
        *rows_at(setting(8192, causal=True), ratio=1.20, tflops=100.0),
    ]
    return {
        "benchmark": "attention-gpu",
        "dry_run": False,
        "complete": False,
        "plans": [{"rounds": 25}],
        "environment": {"gpu": "A GPU", "power.limit": "700.00 W", "clocks.max.sm": "1980 MHz", "torch": "2.13.0"},
        "git": {"commit": "0123456789abcdef", "changed": True},
        "clocks": [{}],
        "rows": [asdict(row) for row in rows],
    }


def test_targets(result):
    lines = {
        tuple(cell.strip() for cell in line.split("|")[1:3]): line for line in gpu_report.targets(gpu_report.rows_of(result)).split("\n")
    }
    cells = {key: [cell.strip() for cell in line.split("|")[3:-1]] for key, line in lines.items()}
    causal = "bfloat16, (8, 32, 2048, 64), 4 query heads per key head, causal"
    full = "bfloat16, (2, 32, 8192, 64)"
    assert cells["forward time / twin", "64"] == ["1.47", "at most 1.6", "met", causal]
    assert cells["backward time / twin", "64"] == ["1.47", "at most 1.35", "missed", causal]
    assert cells["forward TFLOP/s, full, 8192", "64"] == ["250", "at least 240", "met", full]
    assert cells["backward TFLOP/s, full, 8192", "64"] == ["250", "at least 220", "met", full]
    assert cells["forward / two calls on cuDNN", "64"][:3] == ["0.90", "at most 0.95", "met"]
    assert cells["forward / two calls on default SDPA (flash)", "64"][:3] == ["0.65", "at most 0.7", "met"]
    assert cells["forward+backward / eager TanhMax, 2048", "64"] == ["-", "at most 0.25", "not measured", "-"]
    assert cells["peak memory / softmax SDPA, forward", "64"] == ["1.06", "at most 1.05", "missed", causal]
    assert cells["forward time / twin", "128"] == ["-", "at most 1.4", "not measured", "-"]
    assert len(cells) == 2 + 2 * len(gpu_report.TARGETS)


def test_a_target_says_how_much_of_it_was_not_measured(result):
    result["rows"] = [row | {"ratios": {}} if row["setting"]["length"] == 8192 else row for row in result["rows"]]
    assert "; 2 of 4 settings not measured" in gpu_report.targets(gpu_report.rows_of(result)).split("\n")[2]


def test_report(result):
    text = benchmark.report(result)
    assert text.startswith("A GPU, power.limit 700.00 W, clocks.max.sm 1980 MHz, torch 2.13.0, commit 0123456789ab with changes; at most")
    assert "The run was cut short." in text
    parts = dict(part.split("\n\n", 1) for part in text.split("### ")[1:])
    line = parts["forward: time over softmax SDPA's, median (p20 to p80)"].split("\n")[2]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "bfloat16, (32, 32, 512, 64)",
        "1.00 (0.99 to 1.02)",
        "1.50 (1.49 to 1.52)",
        "-",
    ]
    assert "| 3.000, 300 |" in parts["backward: milliseconds at the median, TFLOP/s"]
    assert "| 9.00 (8.99 to 9.02) |" in parts["forward+backward: fused kernel's time over that of"]
    assert "|   106 |" in parts["forward+backward: memory that it adds at its peak, results included, MiB"]
    assert "backward: memory that it adds at its peak, results included, MiB" not in parts
    assert parts["Not timed"].strip() == "* not timed: eager: holds all scores: about 999 GiB, and 130 GiB are free [everywhere]"


def test_a_reason_that_does_not_hold_everywhere_says_where(result):
    rows = gpu_report.rows_of(result)
    kept = [row for row in rows if row.contender != EAGER or row.setting.length == 512]
    assert gpu_report.not_timed(kept)[0].endswith("130 GiB are free [bfloat16, (32, 32, 512, 64)]")


def test_runs_are_joined_if_they_are_of_one_machine(result):
    joined = benchmark.joined([result, result | {"complete": True, "plans": [{"rounds": 30}]}])
    assert len(joined["rows"]) == 2 * len(result["rows"])
    assert not joined["complete"]
    assert "at most 30 rounds" in benchmark.report(joined)
    with pytest.raises(SystemExit, match="agree in their environment can be joined"):
        benchmark.joined([result, result | {"environment": {}}])
    with pytest.raises(SystemExit, match="agree in their dry_run can be joined"):
        benchmark.joined([{"benchmark": "attention"}])


def test_columns_of_the_table_file(result, tmp_path):
    path = tmp_path / "result.json"
    benchmark.write(result, path)
    with path.with_suffix(".csv").open(newline="") as file:
        first, second, *_ = csv.DictReader(file)
    assert list(first)[:3] == ["contender", "setting.dtype", "setting.batch"]
    assert (first["ratios.softmax SDPA.p80"], second["ratios.two calls, flash.p50"]) == ("1.02", "0.65")
