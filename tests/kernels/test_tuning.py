"""Tuning is off unless asked for, takes the fastest, and asks once a kind of call."""

import pytest
import torch
from cases import CASES, error

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.kernels import tuning
from hf_tanhmax.kernels.schedule import Tile

SLOW, FAST = Tile(64, 64, 4, 1), Tile(32, 32, 4, 1)


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch):
    monkeypatch.setattr(tuning, "_fastest", {})


def test_off_by_default(monkeypatch):
    monkeypatch.delenv("HF_TANHMAX_AUTOTUNE", raising=False)
    assert not tuning.autotuning()
    monkeypatch.setenv("HF_TANHMAX_AUTOTUNE", "1")
    assert tuning.autotuning()


def test_the_fastest_is_taken_and_remembered():
    runs = []

    def timer(call):
        call()
        return {SLOW: 2.0, FAST: 1.0}[runs[-1]]

    assert tuning.fastest("a", (SLOW, FAST), runs.append, timer) == FAST
    assert runs == [SLOW, FAST]
    assert tuning.fastest("a", (SLOW, FAST), runs.append, timer) == FAST
    assert len(runs) == 2
    tuning.fastest("b", (SLOW, FAST), runs.append, timer)
    assert len(runs) == 4


def test_a_length_falls_into_one_of_five_buckets():
    assert {tuning.length_bucket(length) for length in range(20000)} == {512, 1024, 2048, 4096, 8192}
    assert [tuning.length_bucket(length) for length in (512, 513, 1024, 4097)] == [512, 1024, 1024, 8192]


def test_a_tuned_call_computes_the_same(monkeypatch):
    launch = pytest.importorskip("hf_tanhmax.kernels.launch", reason="needs triton")
    monkeypatch.setenv("HF_TANHMAX_AUTOTUNE", "1")
    rows = (Tile(16, 16, 4, 1), Tile(16, 32, 4, 1))
    monkeypatch.setattr(launch, "tiles", lambda *_: rows)
    if not torch.cuda.is_available():
        times = iter([2.0, 1.0] * 3)

        def rehearse(call):
            call()
            return next(times)

        monkeypatch.setattr(launch, "do_bench", rehearse)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs, arguments = CASES["causal"].tensors(torch.float32)
    query, key, value = (tensor.detach().to(device).requires_grad_() for tensor in inputs)
    found = tanhmax_attention(query, key, value, implementation="triton", **arguments)
    found.sum().backward()
    assert {key[0] for key in tuning._fastest} == {"forward", "query", "key_value"}
    expected = tanhmax_attention(*(tensor.double() for tensor in (query, key, value)), implementation="reference", **arguments)
    assert error(found.detach().cpu(), expected.detach().cpu()) < 1e-6
