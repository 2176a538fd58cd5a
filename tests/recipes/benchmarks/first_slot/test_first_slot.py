"""The first slot on a GPU, rehearsed without one: its cases, its processes, what it writes, and what a crash leaves standing."""

import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
import time
import types
from itertools import islice
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="needs triton")
from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.kernels import launch
from recipes.benchmarks.first_slot import __main__ as first_slot
from recipes.benchmarks.first_slot import speed as first_slot_speed
from recipes.benchmarks.first_slot.cases import CRASH, Outcome, Shape, cases
from recipes.benchmarks.first_slot.forced import environment, least_share, row, rows

ROOT = Path(__file__).parents[4]
GPU = torch.cuda.is_available()


def slot(folder, *words):
    command = [sys.executable, "-m", "recipes.benchmarks.first_slot", "--dry", "--out", str(folder), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    rows = [json.loads(line) for path in folder.glob("*/correct.jsonl") for line in path.read_text().splitlines()]
    return done, {row.pop("case"): row for row in rows}


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def main(monkeypatch, tmp_path):
    """Run the command line here, with cases and timing that write rows and compute nothing, once a second; its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(first_slot, "_machine", lambda: "a machine")
    monkeypatch.setattr(first_slot, "_answer", lambda name, *_: {"case": name, "right": True})
    monkeypatch.setattr(first_slot, "speeds", lambda device: [{"speed": device}])
    monkeypatch.setattr(first_slot.subprocess, "run", lambda command, **_: (run(*command[5:]), types.SimpleNamespace(returncode=0))[1])
    began = itertools.count()
    monkeypatch.setattr(first_slot.time, "gmtime", lambda: time.struct_time((2026, 1, 1, 0, 0, next(began), 0, 1, 0)))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["first_slot", *words])
        try:
            first_slot.main()
        except SystemExit as stop:
            return stop.code
        return 0

    return run


@pytest.mark.slow
def test_a_case_that_crashes_takes_no_other_along(tmp_path):
    done, found = slot(tmp_path / "gpu", "--only", "decode D64 queries 1", CRASH, "float32 by TF32")
    assert done.returncode == 1, done.stderr
    assert found[CRASH]["error"].startswith("its process ended with -6")
    assert not found[CRASH]["right"]
    for name in ("decode D64 queries 1", "float32 by TF32"):
        assert found[name]["right"]
        assert max(found[name]["errors"]) <= found[name]["limit"]
    assert "2 of 3 cases are right" in done.stdout
    [folder] = (tmp_path / "gpu").iterdir()
    assert f"torch {importlib.metadata.version('torch')}" in (folder / "env.txt").read_text()
    assert not (folder / "speed.jsonl").exists(), "chosen cases are not followed by the timing"


def test_a_rehearsal_leaves_the_results_of_a_gpu_alone(main, tmp_path):
    real = tmp_path / first_slot.OUT
    real.mkdir(parents=True)
    for name in ("correct.jsonl", "speed.jsonl", "env.txt"):
        (real / name).write_text("of a GPU")
    before = files(real)
    assert main("--dry") == 0
    assert main("--dry", "--only", "float16 D64") == 0
    assert files(real) == before
    assert len(list((tmp_path / "runs/first_slot-dry").iterdir())) == 2


def test_a_run_loses_nothing_of_an_earlier_one(main, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert main() == 0
    first = files(tmp_path / first_slot.OUT)
    assert sorted(first) == [f"NVIDIA-H200_2026-01-01T00-00-00Z/{name}" for name in ("correct.jsonl", "env.txt", "speed.jsonl")]
    assert main("--only", "cuda graph") == 0
    both = files(tmp_path / first_slot.OUT)
    assert first.items() < both.items()
    assert '"cuda graph"' in both["NVIDIA-H200_2026-01-01T00-00-01Z/correct.jsonl"]


@pytest.mark.parametrize("words", [("--only", "decoding"), ("--case", "decoding"), ("--case", "")], ids=" ".join)
def test_a_case_that_there_is_not_is_refused(main, words, tmp_path, capsys):
    assert main("--dry", *words) == 2
    assert f"there is no case '{words[1]}'; there are: bfloat16 D64 full; " in capsys.readouterr().err
    assert not files(tmp_path)


@pytest.mark.parametrize("words", [(), ("--speed",)], ids=["run", "timing"])
def test_a_folder_that_cannot_be_made_is_refused(main, words, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main("--dry", "--out", "file/below", *words) == 2
    assert re.search(r"--out: the folder file/below\S* for the results cannot be made: Not a directory", capsys.readouterr().err)


def test_two_runs_in_one_second_share_no_folder(main, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(first_slot.time, "gmtime", lambda: time.struct_time((2026, 1, 1, 0, 0, 0, 0, 1, 0)))
    assert main("--dry", "--only", "float16 D64") == 0
    before = files(tmp_path)
    assert main("--dry", "--only", "float32 D64") == 2
    assert "cannot be made: File exists" in capsys.readouterr().err
    assert files(tmp_path) == before


@pytest.mark.skipif(GPU, reason="there is a GPU")
@pytest.mark.parametrize("words", [(), ("--case", "cuda graph")], ids=["run", "case"])
def test_without_a_gpu_it_is_rehearsed_or_refused(main, words, capsys):
    assert main(*words) == 2
    assert "there is no CUDA device here; --dry rehearses the slot on the CPU" in capsys.readouterr().err


def test_what_comes_too_late_is_said():
    assert first_slot._answer("cuda graph", False, until=0.0) == {
        "case": "cuda graph",
        "right": False,
        "error": "not run: the time was over",
    }


def test_an_error_that_is_not_a_number_is_not_right():
    assert Outcome([0.0, 1e-3], 1e-3).right
    assert not Outcome([0.0, float("nan")], 1e-3).right


def test_a_gpu_has_the_cases_of_the_rehearsal_and_more():
    both, gpu = set(cases("cpu")), set(cases("cuda"))
    assert both < gpu
    assert {"cuda graph", "no wait, some heads", "the same bits", "stock cudnn", "atomic D128", "row forward D64 1"} <= gpu - both


def test_an_additive_mask_has_a_case_in_every_kernel():
    """The branches that every floating-point mask takes: forward, both passes back, the gradient of a learned mask, decoding."""
    names = [name for name in cases("cuda") if "additive" in name or "position bias" in name]
    kinds = {"additive", "additive, softmax", "additive padding", "position bias", "everything, additive"}
    wanted = {f"bfloat16 D{dim} {kind}" for dim in (64, 128) for kind in kinds} | {f"float32 D{dim} additive" for dim in (64, 128)}
    wanted |= {f"decode D{dim} {kind}" for dim in (64, 128) for kind in ("additive padding", "position bias")}
    assert set(names) == wanted


def test_a_row_is_what_a_call_takes(monkeypatch):
    from hf_tanhmax.attention.kernels.schedule import tiles

    assert rows("key_value", 64) == [1, 2], "the row that adds dQ up is taken otherwise"
    taken = []
    run = launch.FusedProblem.run
    monkeypatch.setattr(
        launch.FusedProblem, "run", lambda self, name, start: run(self, name, lambda tile: (taken.append(tile), start(tile)))
    )
    tensors = Shape("cuda" if GPU else "cpu", 5, 7, heads=1, kv_heads=1, batch=1).tensors()
    for number in rows("forward", 64)[:2]:
        with row("forward", number):
            tanhmax_attention(*tensors, implementation="triton")
        assert taken.pop() == tiles("forward", 64, 2, (9, 0))[number]
    assert launch.tiles is tiles


def test_a_contender_that_fails_becomes_a_row_that_says_so(monkeypatch):
    def fails(*_):
        raise TypeError("no\nkernel")  # Triton and the compiler raise what they like

    monkeypatch.setattr(first_slot_speed, "softmax", fails)
    baseline, fused = islice(first_slot_speed.speeds("cpu"), 2)
    assert baseline == {"speed": "bfloat16 (1, 1, 24, 64) causal, softmax SDPA", "error": "TypeError: no kernel"}
    assert fused == {"speed": "bfloat16 (1, 1, 24, 64) causal, fused", "forward_ms": None, "backward_ms": None}


def test_what_decides_most_is_timed_first():
    names = [f"{setting.head_dim} {name}" for setting, name, *_ in first_slot_speed._contenders("cuda")]
    described = next(number for number in rows("forward", 64) if launch.tiles("forward", 64, 2, (9, 0))[number].columns == 128)
    assert names[:6] == ["64 flash", "64 cuDNN", "64 fused", "64 fused softmax twin", f"64 forward row {described}", *names[5:6]]
    assert "64 key_value row 1" in names[:8]
    assert names[-1] == "128 backward pass in one kernel"
    for name in ("fused, additive mask", "fused, balanced"):
        assert names.count(f"64 {name}") == names.count(f"128 {name}") == 1


def test_the_row_with_an_additive_mask_computes_what_one_without_does():
    tensors = Shape("cuda" if GPU else "cpu", 5, 7, heads=1, kv_heads=1, batch=1, dtype=torch.float32).tensors()
    torch.testing.assert_close(first_slot_speed.faded(*tensors, False), tanhmax_attention(*tensors, implementation="reference"))


def test_what_is_forced_lasts_as_long_as_its_context(monkeypatch):
    from hf_tanhmax.attention.kernels import schedule

    usual = schedule.LEAST_ROWS
    with least_share(7), environment("HF_TANHMAX_FLOAT32", "tf32x3"):
        assert usual != schedule.LEAST_ROWS
        assert schedule.splits_products()
    assert usual == schedule.LEAST_ROWS
    assert not schedule.splits_products()


def test_a_crowded_row_can_be_forced_upon_any_call():
    number = next(number for number in rows("query", 128) if launch.tiles("query", 128, 2, (9, 0))[number].crowded)
    with row("query", number):
        first = launch.tiles("query", 128, 2)[0]
    assert first.columns == 16
    assert not first.crowded


def test_the_row_with_a_boolean_mask_hides_keys_in_every_block():
    query, key, value = torch.randn(3, 1, 1, 24, 16).unbind()
    keep = (torch.arange(24)[:, None] + torch.arange(24)) % 8 > 0
    found = first_slot_speed.kept(query, key, value, False)
    torch.testing.assert_close(found, tanhmax_attention(query, key, value, keep=keep[None, None], implementation="reference"))
