"""The decoding benchmark, rehearsed without a GPU: what it would run, what stops it, and that a rehearsal shows no figure."""

import re
from dataclasses import replace

import pytest
import torch

from recipes.benchmarks.attention import __main__ as benchmark
from recipes.benchmarks.attention import decode as decode_speed
from recipes.benchmarks.attention.contenders import BASELINE
from recipes.benchmarks.attention.decode import CALLS, DRY, FUSED, PAGED, TWIN, DecodePlan, contenders_for, gate, timed

pytest.importorskip("triton", reason="needs triton")


class Scripted:
    """A meter that says what it is told."""

    def __init__(self, milliseconds):
        self.script = iter(milliseconds)

    def start(self):
        pass

    def milliseconds(self, started):
        return next(self.script)


def test_the_plan_is_the_specified_one():
    settings = DecodePlan().settings()
    assert {setting.context for setting in settings} == {512, 2048, 8192, 32768}
    assert {setting.batch for setting in settings} == {1, 8, 64}
    assert {setting.heads // setting.kv_heads for setting in settings} == {1, 4, 8}
    assert max(setting.cache_bytes for setting in settings) <= DecodePlan().largest
    assert settings[0].cache_bytes == 2 * 1 * 8 * 512 * 64 * 2


def test_a_rehearsal_runs_everything_and_shows_no_figure():
    *_, result = decode_speed.decode_speed(DRY)
    assert {row["contender"] for row in result["rows"]} == {BASELINE, FUSED, TWIN, PAGED, CALLS}
    text = benchmark.report(result)
    assert text.startswith("**dry run: not a measurement**")
    assert not re.search(r"\d\.\d|\bms\b", text)


def test_a_wrong_contender_stops_the_run():
    (setting,) = DRY.settings()
    calls = contenders_for(setting, "cpu")
    calls["wrong"] = (calls[BASELINE][0], True)
    with pytest.raises(SystemExit, match=r"wrong is wrong for DecodeSetting.*relative error .*; it was not timed"):
        gate(setting, calls)


def test_ratios_are_of_the_same_round_and_shares_of_copying():
    (setting,) = DRY.settings()
    calls = {name: (lambda: torch.zeros(1), True) for name in (BASELINE, FUSED, TWIN, CALLS)}
    rows = timed(setting, calls, 1, Scripted([4.0, 1.0, 2.0, 8.0]), copy=float(setting.cache_bytes))
    fused = rows[1]
    assert {name: ratio["p50"] for name, ratio in fused["ratios"].items()} == {BASELINE: 0.25, TWIN: 0.5, CALLS: 0.125}
    assert fused["bandwidth_share"] == 1.0
    result = {"dry_run": False, "rows": rows, "environment": {}, "plans": [{"dtype": "bfloat16"}], "benchmark": "decode"}
    assert "0.50 (0.50 to 0.50)" in decode_speed.report(result)


def test_without_a_gpu_it_says_so(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("sys.argv", ["benchmark", "decode", "--device", "cuda"])
    with pytest.raises(SystemExit, match="decoding is timed on a GPU: there is no CUDA device here"):
        benchmark.main()


def test_settings_that_are_too_large_are_left_out():
    assert replace(DecodePlan(), largest=0).settings() == []
