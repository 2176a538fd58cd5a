"""The first slot on a GPU, rehearsed without one: its cases, its processes, what it writes, and what a crash leaves standing."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="needs triton")
from hf_tanhmax import tanhmax_attention
from hf_tanhmax.kernels import launch
from recipes import first_slot, first_slot_speed
from recipes.first_slot_cases import CRASH, Outcome, Shape, cases, row, rows

ROOT = Path(__file__).parents[2]
GPU = torch.cuda.is_available()


def slot(folder, *words):
    command = [sys.executable, "-m", "recipes.first_slot", "--dry", "--out", str(folder), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    rows = [json.loads(line) for line in (folder / "correct.jsonl").read_text().splitlines()] if folder.exists() else []
    return done, {row.pop("case"): row for row in rows}


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
    assert f"torch {torch.__version__}" in (tmp_path / "gpu/env.txt").read_text()
    assert not (tmp_path / "gpu/speed.jsonl").exists(), "chosen cases are not followed by the timing"


def test_a_case_that_there_is_not_is_refused(tmp_path):
    done, _ = slot(tmp_path / "gpu", "--only", "decoding")
    assert done.returncode == 1
    assert "there is no case 'decoding'; there are: bfloat16 D64 full; " in done.stderr
    assert not (tmp_path / "gpu").exists()


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_without_a_gpu_it_is_rehearsed_or_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["first_slot"])
    with pytest.raises(SystemExit, match="there is no CUDA device here; --dry rehearses the slot on the CPU"):
        first_slot.main()


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


def test_a_row_is_what_a_call_takes(monkeypatch):
    from hf_tanhmax.kernels.schedule import tiles

    assert rows("key_value", 64) == [1], "the row that adds dQ up is taken otherwise"
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
