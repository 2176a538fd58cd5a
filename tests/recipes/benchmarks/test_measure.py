"""What the GPU's clock and gauge ask of torch and of nvidia-smi, which stand-ins answer here."""

import subprocess
from types import SimpleNamespace

import pytest
import torch

from recipes.benchmarks import measure


@pytest.fixture
def asked(monkeypatch):
    """A GPU that only keeps a list of what it is asked for; time passes by one millisecond an event."""
    calls = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            calls.append("record")
            self.at = float(calls.count("record"))

        def synchronize(self):
            calls.append("wait")

        def elapsed_time(self, other):
            return other.at - self.at

    memory = iter([100, 0, 120])
    scratch = SimpleNamespace(zero_=lambda: calls.append("flush"))
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: calls.append((size, device)) or scratch)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: next(memory) * 2**20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 130 * 2**20)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 10 * 2**20)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (7 * 2**20, 0))
    return calls


def test_time_is_from_a_flushed_cache_to_the_end_of_the_work(asked):
    meter = measure.CudaMeter()
    started = meter.start()
    asked.append("work")
    assert meter.milliseconds(started) == 1.0
    assert asked == [(2**31, "cuda"), "flush", "record", "work", "record", "wait"]


def test_memory_is_the_peak_over_what_there_was(asked):
    meter = measure.CudaMeter()
    assert meter.extra_memory(lambda: asked.append("work")) == 30
    assert asked[1:] == ["synchronize", "reset_peak_memory_stats", "work", "synchronize"]
    assert meter.free_bytes() == 17 * 2**20


@pytest.fixture
def management(monkeypatch):
    """nvidia-smi with an answer of one's choice; returns what it was asked."""
    commands = []

    def run(command, **_):
        commands.append(command)
        return SimpleNamespace(returncode=management.code, stdout=management.answer, stderr="Insufficient Permissions\n")

    management = SimpleNamespace(code=0, answer="580.1, 700.00 W, 1980 MHz, 3201 MHz\n", commands=commands)
    device = SimpleNamespace(name="A GPU", multi_processor_count=132, major=9, minor=0, uuid="12-34")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: device)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92400)
    monkeypatch.setattr(measure.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", run)
    return management


def test_environment_of_a_gpu(management):
    found = measure.gpu_environment()
    assert found["gpu"] == "A GPU"
    assert (found["multiprocessors"], found["capability"], found["cudnn"]) == (132, "9.0", 92400)
    assert (found["driver_version"], found["power.limit"], found["clocks.max.sm"]) == ("580.1", "700.00 W", "1980 MHz")
    query = "--query-gpu=driver_version,power.limit,clocks.max.sm,clocks.max.mem"
    assert management.commands == [["/usr/bin/nvidia-smi", query, "--format=csv,noheader", "-i", "GPU-12-34"]]


def test_what_nvidia_smi_does_not_say_is_kept(management, monkeypatch):
    management.code = 4
    management.answer = ""
    assert measure.management(measure.PASSING) == {"nvidia-smi": "Insufficient Permissions"}
    monkeypatch.setattr(measure.shutil, "which", lambda name: None)
    assert measure.management(measure.PASSING) == {"nvidia-smi": "not found"}


def test_environment_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert {"torch", "triton", "hf-tanhmax", "cpu", "HF_TANHMAX_AUTOTUNE"} <= set(measure.gpu_environment())
    assert measure.management(measure.PASSING) == {}
