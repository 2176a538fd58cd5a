"""Tuning is off unless asked for, takes the fastest, and asks once a kind of call."""

import re
from dataclasses import replace

import pytest
import torch
from cases import CASES, error

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.kernels import schedule
from hf_tanhmax.attention.kernels.schedule import Tile
from hf_tanhmax.attention.mask import AttentionMask

errors = pytest.importorskip("triton.runtime.errors", reason="needs triton")
OutOfResources, PTXASError = errors.OutOfResources, errors.PTXASError

SLOW, FAST = Tile(64, 64, 4, 1), Tile(32, 32, 4, 1)


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch):
    monkeypatch.setattr(schedule, "_fastest", {})


def test_off_by_default(monkeypatch):
    monkeypatch.delenv("HF_TANHMAX_AUTOTUNE", raising=False)
    assert not schedule.autotuning()
    monkeypatch.setenv("HF_TANHMAX_AUTOTUNE", "1")
    assert schedule.autotuning()


def test_the_fastest_is_taken_and_remembered():
    runs = []

    def timer(call):
        call()
        return {SLOW: 2.0, FAST: 1.0}[runs[-1]]

    assert schedule.fastest(("a",), (SLOW, FAST), runs.append, timer) == FAST
    assert runs == [SLOW, FAST]
    assert schedule.fastest(("a",), (SLOW, FAST), runs.append, timer) == FAST
    assert len(runs) == 2
    schedule.fastest(("b",), (SLOW, FAST), runs.append, timer)
    assert len(runs) == 4


def chosen(*bad, error=None):
    """The choice between two tiles, the first of which takes longer, for a kernel that does not compile with some of them."""

    def run(tile):
        if tile in bad:
            raise error or OutOfResources(300000, 232448, "shared memory")
        ran.append(tile)

    ran = []
    return schedule.fastest(("query", 64), (SLOW, FAST), run, lambda call: (call(), ran[-1].rows)[1])


@pytest.mark.parametrize(
    "error",
    [OutOfResources(300000, 232448, "shared memory"), RuntimeError("PassManager::run failed"), PTXASError("exit code 255")],
    ids=["shared memory", "a pass", "ptxas"],
)
def test_a_tile_that_does_not_compile_is_left_out_and_said_once(caplog, error):
    assert chosen(FAST, error=error) == SLOW
    assert chosen(FAST, error=error) == SLOW
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert re.fullmatch(
        r"the query kernel is not timed with Tile\(rows=32.*\): (OutOfResources|RuntimeError|PTXASError): .+", record.message
    )


def test_where_no_tile_compiles_the_call_says_so():
    with pytest.raises(
        RuntimeError, match="none of the 2 tiles of the query kernel runs on this GPU; HF_TANHMAX_AUTOTUNE=0 takes the first of them"
    ) as raised:
        chosen(SLOW, FAST)
    assert isinstance(raised.value.__cause__, OutOfResources)
    assert not schedule._fastest


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no room"), torch.AcceleratorError("CUDA error: an illegal memory access was encountered")],
    ids=["no room", "the device is lost"],
)
def test_what_is_not_the_fault_of_a_tile_is_raised(caplog, error):
    with pytest.raises(type(error), match=r"no room|illegal memory access"):
        chosen(FAST, error=error)
    assert not caplog.records
    assert not schedule._fastest


def test_a_lost_device_is_recognised_whoever_notices_it(monkeypatch, caplog):
    """Triton says RuntimeError of it, as of a tile that does not start; torch says so too when it next waits."""

    def wait():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", wait)
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        chosen(FAST, error=RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"))
    assert not caplog.records


def test_a_length_falls_into_one_of_five_buckets():
    assert {schedule.length_bucket(length) for length in range(20000)} == {512, 1024, 2048, 4096, 8192}
    assert [schedule.length_bucket(length) for length in (512, 513, 1024, 4097)] == [512, 1024, 1024, 8192]


def test_a_choice_is_for_calls_that_compile_the_same(monkeypatch):
    """A tile that wins without a mask may spill with one."""
    launch = pytest.importorskip("hf_tanhmax.attention.kernels.launch", reason="needs triton")
    monkeypatch.setenv("HF_TANHMAX_AUTOTUNE", "1")
    monkeypatch.setattr(launch, "do_bench", lambda call: 1.0)
    monkeypatch.setattr(launch, "tiles", lambda *_: (SLOW, FAST))
    keep, segments = torch.ones(1, 1, 7, 7, dtype=torch.bool), torch.zeros(7, dtype=torch.int64)
    masks = ({}, {"causal": True}, {"window": 3}, {"keep": keep}, {"segments": segments})
    added = {"bias": torch.zeros(1, 1, 7, 7)}  # an additive mask shares its pointer
    changes = ({"polarity": torch.zeros(2)}, {"signed": False}, {"softcap": 5.0}, {"dropout_p": 0.1}, {"exact": True})
    calls = [(mask, {}) for mask in masks] + [({}, change) for change in (*changes, added, added | {"additive": True})]
    for mask, change in calls:
        for _ in range(2):
            tiny(launch, mask, change).run("query", lambda tile: None)
    assert len(schedule._fastest) == len(calls)
    monkeypatch.setenv("HF_TANHMAX_FLOAT32", "tf32x3")
    tiny(launch, {}, {"exact": True}).run("query", lambda tile: None)
    assert len(schedule._fastest) == len(calls) + 1


NUMBERS = {"polarity": None, "signed": True, "bias": None, "scale": 1.0, "softcap": None, "dropout_p": 0.0, "seed": None, "exact": False}


def tiny(launch, mask, change, dtype=torch.float32):
    tensors = [torch.zeros(1, heads, 7, 8, dtype=dtype) for heads in (2, 1, 1)]
    return launch.FusedProblem(*tensors, visibility=AttentionMask(7, 7, **mask), **NUMBERS | change)


@pytest.mark.parametrize(
    ("mask", "change", "dtype", "split", "expected"),
    [
        ({}, {}, torch.bfloat16, False, "plain"),
        ({"keep": torch.ones(1, 1, 7, 7, dtype=torch.bool)}, {}, torch.bfloat16, False, "plain"),  # one bit per score
        ({"segments": torch.zeros(7, dtype=torch.int64)}, {}, torch.bfloat16, False, "crowded"),
        ({}, {"softcap": 5.0}, torch.bfloat16, False, "crowded"),
        ({}, {"dropout_p": 0.1}, torch.bfloat16, False, "crowded"),
        ({}, {"bias": torch.zeros(1, 1, 7, 7)}, torch.bfloat16, False, "crowded"),
        ({}, {"exact": True}, torch.float32, False, "plain"),
        ({}, {"exact": True}, torch.float32, True, "rounded"),
        ({}, {}, torch.float32, True, "rounded"),  # torch was told that TF32 is enough
        ({}, {}, torch.float32, False, "rounded"),
    ],
)
def test_the_default_is_the_tile_for_such_calls(monkeypatch, mask, change, dtype, split, expected):
    launch = pytest.importorskip("hf_tanhmax.attention.kernels.launch", reason="needs triton")
    rows = {"plain": SLOW, "crowded": replace(SLOW, crowded=True), "rounded": replace(SLOW, rounded=True)}
    monkeypatch.setattr(launch, "tiles", lambda *_: tuple(rows.values()))
    monkeypatch.setenv("HF_TANHMAX_FLOAT32", "tf32x3" if split else "")
    taken = []
    tiny(launch, mask, change, dtype).run("query", taken.append)
    assert taken == [rows[expected]]


def test_where_there_is_no_tile_for_such_calls_the_first_is_taken(monkeypatch):
    launch = pytest.importorskip("hf_tanhmax.attention.kernels.launch", reason="needs triton")
    monkeypatch.setattr(launch, "tiles", lambda *_: (SLOW, FAST))
    taken = []
    for dtype in (torch.float32, torch.bfloat16):
        tiny(launch, {}, {"softcap": 5.0}, dtype).run("query", taken.append)
    assert taken == [SLOW, SLOW]


@pytest.mark.slow
def test_a_tuned_call_computes_the_same(monkeypatch):
    launch = pytest.importorskip("hf_tanhmax.attention.kernels.launch", reason="needs triton")
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
    assert {key[0] for key in schedule._fastest} == {"forward", "query", "key_value"}
    expected = tanhmax_attention(*(tensor.double() for tensor in (query, key, value)), implementation="reference", **arguments)
    assert error(found.detach().cpu(), expected.detach().cpu()) < 1e-6
