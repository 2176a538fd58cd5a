"""The GPU's benchmark, rehearsed without one: what it would run, what stops it, how it times, what it leaves behind."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipes.benchmarks.attention import __main__ as benchmark
from recipes.benchmarks.attention import contenders, gpu_contenders
from recipes.benchmarks.attention import gpu as attention_gpu
from recipes.benchmarks.attention.contenders import BASELINE
from recipes.benchmarks.attention.gpu import gate, timed
from recipes.benchmarks.attention.gpu_contenders import CALLS_CUDNN, EAGER, FUSED, SOFTMAX_CUDNN, TWIN, Entry
from recipes.benchmarks.attention.gpu_plan import DRY, Plan, Setting
from recipes.benchmarks.measure import ProcessorMeter

OutOfResources = pytest.importorskip("triton.runtime.errors", reason="needs triton").OutOfResources
ROOT = Path(__file__).parents[4]
TINY = replace(DRY, lengths=(32,), groups=(2,))
SETTING = Setting("float32", batch=1, heads=2, kv_heads=1, length=17, head_dim=16, causal=True)


@pytest.fixture
def entries():
    """The baseline, and plain stand-ins for the fused kernels."""
    return {
        BASELINE: Entry(contenders.softmax, signed=False),
        FUSED: Entry(contenders.eager),
        TWIN: Entry(contenders.softmax, signed=False),
    }


class Scripted:
    """A meter that says what it is told, and how often it was asked."""

    def __init__(self, milliseconds, free=float("inf")):
        self.script, self.free, self.starts = iter(milliseconds), free, 0

    def start(self):
        self.starts += 1

    def milliseconds(self, started):
        return next(self.script)

    def extra_memory(self, call):
        call()
        return 3.0

    def free_bytes(self):
        return self.free


def test_the_default_plan_is_the_specified_one():
    settings = Plan().settings()
    half, single = ([setting for setting in settings if setting.dtype == dtype] for dtype in ("bfloat16", "float32"))
    assert len(settings) == len(set(settings))
    assert len(half) == 4 * 3 * 2 * 2
    assert all(setting.heads * setting.head_dim == 2048 for setting in settings)
    assert {(setting.length, setting.batch) for setting in half} == {(512, 32), (2048, 8), (8192, 2), (32768, 1)}
    assert {setting.group for setting in half} == {1, 4}
    assert {(setting.length, setting.group) for setting in single} == {(512, 1), (2048, 1)}
    assert {setting.family for setting in settings} == {setting.family for setting in Plan().gate_settings()}, (
        "only what is timed is checked"
    )


def test_what_torch_compiles_for_each_shape_is_timed_if_it_is_asked_for():
    known = gpu_contenders.contenders("cpu")
    assert {name for name in known if name not in attention_gpu._entries(DRY)} == {"compiled eager", "FlexAttention"}
    assert set(attention_gpu._entries(replace(DRY, names=("FlexAttention",)))) == {*gpu_contenders.REQUIRED, "FlexAttention"}


def test_causal_attention_has_half_the_scores():
    full, causal = (Setting("bfloat16", 2, 3, 3, 10, 64, causal) for causal in (False, True))
    assert (full.scores, causal.scores) == (600, 300)


def test_a_wrong_contender_is_not_timed(entries, monkeypatch):
    monkeypatch.setattr(attention_gpu, "contenders", lambda device: entries | {"wrong": Entry(contenders.softmax)})
    *_, result = attention_gpu.attention(TINY)
    assert result["complete"]
    for row in result["rows"]:
        assert bool(row["ms"]) == (row["contender"] != "wrong")
        if row["contender"] == "wrong":
            assert re.fullmatch(r"wrong: relative error \d\.\de[-+]\d+ for Setting\(dtype='float32'.*\)", row["reason"])


@pytest.mark.slow
def test_families_may_be_checked_in_processes_of_their_own():
    plan = replace(TINY, jobs=2, names=(SOFTMAX_CUDNN,))
    found = gate(plan)
    assert found == gate(replace(plan, jobs=1))
    assert {name for name, _ in found} == {SOFTMAX_CUDNN}


def test_a_contender_that_fails_is_left_out_with_its_reason(entries, monkeypatch):
    def refuses(query, key, value, causal):
        raise NotImplementedError("no kernel")

    def breaks(query, key, value, causal):
        if query.shape[2] == SETTING.length:
            raise RuntimeError("too long") from RuntimeError("out of memory")
        return contenders.eager(query, key, value, causal)

    def exhausts(query, key, value, causal):
        raise OutOfResources(300000, 232448, "shared memory")

    entries |= {"refuses": Entry(refuses), "breaks": Entry(breaks), "exhausts": Entry(exhausts)}
    monkeypatch.setattr(attention_gpu, "contenders", lambda device: entries)
    refused = gate(TINY)
    late = timed(SETTING, {"exhausts": entries["exhausts"]}, {}, TINY, ProcessorMeter())
    assert {row.reason.split(":")[0] for row in late} == {"OutOfResources"}, "be it in the warm-up"
    assert set(refused) == {(name, ("float32", 16, False, causal)) for name in ("refuses", "exhausts") for causal in (False, True)}
    rows = timed(SETTING, entries, refused, TINY, ProcessorMeter())
    assert {row.contender: row.reason for row in rows} == {
        **dict.fromkeys((BASELINE, FUSED, TWIN)),
        "refuses": "NotImplementedError: no kernel",
        "breaks": "RuntimeError: out of memory",
        "exhausts": refused["exhausts", SETTING.family],
    }
    assert all((row.reason is None) == bool(row.ms) == bool(row.ratios) == (row.tflops is not None) for row in rows)


def test_all_scores_must_fit(entries):
    entries |= {EAGER: Entry(contenders.eager, scores=10)}
    needed = 10 * 2 * 17**2 * 4
    for free, reason in ((needed, None), (needed - 1, "holds all scores: about 0 GiB, and 0 GiB are free")):
        rows = timed(SETTING, entries, {}, TINY, Scripted([1.0] * 99, free))
        assert {row.reason for row in rows if row.contender == EAGER} == {reason}


def test_ratios_are_of_the_same_round_and_the_order_rotates(entries):
    warm = [1.0] * 3 * 2 * 3
    # forward, forward of a step, backward: of the baseline, fused, twin; then of fused, twin, baseline
    rounds = [2.0, 3.0, 5.0, 4.0, 7.0, 9.0, 1.0, 1.0, 1.0, 12.0, 20.0, 12.0, 3.0, 2.0, 2.0, 3.0, 4.0, 4.0]
    meter = Scripted(warm + rounds)
    rows = {(row.contender, row.what): row for row in timed(SETTING, entries, {}, replace(TINY, rounds=2), meter)}
    assert meter.starts == len(warm) + len(rounds)
    fused = rows[FUSED, "forward"]
    assert fused.ms["p50"] == 8.0
    assert fused.ratios[BASELINE] == pytest.approx({"p20": 2.4, "p50": 3.0, "p80": 3.6})
    assert fused.ratios[TWIN] == pytest.approx({"p20": 4.0, "p50": 4.0, "p80": 4.0})
    assert fused.tflops == pytest.approx(4 * 16 * 2 * 17**2 / 2 / 8e-3 * 1e-12)
    assert rows[FUSED, "backward"].ratios[BASELINE] == pytest.approx({"p20": 2.04, "p50": 2.4, "p80": 2.76})
    assert rows[FUSED, "forward+backward"].ms["p50"] == 24.0
    assert [rows[FUSED, what].memory for what in attention_gpu.PASSES] == [3.0, None, 3.0]


def test_rounds_end_in_time_but_not_before_the_fifth(entries):
    asked = Scripted([1.0] * 999)
    timed(SETTING, entries, {}, replace(TINY, rounds=50, seconds=0.0), asked)
    assert asked.starts == 3 * 3 * (2 + attention_gpu.FEWEST_ROUNDS)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [2, 6])
def test_the_other_ways_to_tanhmax(causal, kv_heads):
    tensors = [torch.randn(2, heads, 37, 16) for heads in (6, kv_heads, kv_heads)]
    for function in (
        gpu_contenders.doubled_keys,
        gpu_contenders.two_calls("cpu"),
        gpu_contenders.contenders("cpu")["compiled eager"].function,
    ):
        assert contenders.relative_error(function, tensors, causal=causal, signed=True) < 1e-6
    with torch.no_grad():  # FlexAttention has no backward pass on the CPU
        found = gpu_contenders.flex("aot_eager")(*tensors, causal)
    expected = contenders.exact(*(tensor.double() for tensor in tensors), causal=causal, signed=True)
    assert (found - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.slow
def test_dry_run_end_to_end(tmp_path):
    path = tmp_path / "dry.json"
    words = ["attention", "--device", "cuda", "--dry-run", "--lengths", "32", "--groups", "2", "--commit", "abc", "--output", path]
    command = [sys.executable, "-m", "recipes.benchmarks.attention", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert result["dry_run"]
    assert result["complete"]
    assert result["git"]["commit"] == "abc"
    assert {row["contender"] for row in result["rows"]} == set(attention_gpu._entries(TINY))
    assert {row["contender"] for row in result["rows"] if row["reason"]} == {SOFTMAX_CUDNN, CALLS_CUDNN}
    text = path.with_suffix(".md").read_text()
    assert done.stdout == text == benchmark.report(result) + "\n"
    assert text.startswith("**dry run: not a measurement**\n\n* ran: softmax SDPA, forward\n")
    assert not re.search(r"\d\.\d|TFLOP|\bms\b|MiB", text)
    assert path.with_suffix(".csv").read_text().count("\n") == 1 + len(result["rows"])
    assert all(path.with_suffix(suffix).stat().st_size > 10**4 for suffix in (".png", ".svg"))
