"""Timers, percentiles and memory for the benchmarks, and the conditions that a figure depends on."""

import ctypes
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

import hf_tanhmax

PACKAGES = ("torch", "transformers", "hf-tanhmax")
PEAK, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Many times any L2 cache; and writing it takes a GPU so long (half a millisecond on an H200) that the host has queued the call
# to be timed before it begins: launching is then no part of its time.
FLUSH_BYTES = 2**31
# What nvidia-smi calls what stays as it is, and what does not.
FIXED = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.mem")
PASSING = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")


def processor_time(call: Callable[[], object]) -> float:
    """Seconds of processor time that a call takes, whatever else the machine does."""
    start = time.process_time()
    call()
    return time.process_time() - start


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentiles; of a single value, that value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return fifths[0], statistics.median(values), fifths[3]


def extra_memory(call: Callable[[], None]) -> float | None:
    """How much more memory than before a call holds at its peak, in MiB; None where the system does not tell (it is Linux that does)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed would otherwise be used again unseen
        CLEAR.write_text("5", encoding="ascii")  # forget the peak so far
        before = _status("VmRSS")
        call()
        return max(0.0, (_status("VmHWM") - before) / 1024)
    except (OSError, AttributeError):
        return None


def _status(key: str) -> int:
    line = next(line for line in PEAK.read_text(encoding="ascii").splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


class Meter(Protocol):
    """A clock to read before and after a piece of work, and a gauge of memory."""

    def start(self) -> Any:
        """Empty the caches and read the clock."""

    def milliseconds(self, started: Any) -> float:
        """Time since `start`, once the work is done."""

    def extra_memory(self, call: Callable[[], None]) -> float | None:
        """How much more memory than before a call holds at its peak, in MiB."""

    def free_bytes(self) -> float:
        """Memory that a call may take."""


class ProcessorMeter:
    """The stand-in for a rehearsal without a GPU: processor time, and no bound to memory."""

    def start(self) -> float:
        """The clock, in seconds."""
        return time.process_time()

    def milliseconds(self, started: float) -> float:
        """Processor time since then."""
        return 1e3 * (time.process_time() - started)

    def extra_memory(self, call: Callable[[], None]) -> float | None:
        """As the function of this name."""
        return extra_memory(call)

    def free_bytes(self) -> float:
        """No bound."""
        return float("inf")


class CudaMeter:
    """Time between two events of the current device's queue, from a flushed L2 cache; memory by torch's allocator."""

    def __init__(self) -> None:
        self._scratch = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def start(self) -> torch.cuda.Event:
        """Flush the cache, then put an event into the queue."""
        self._scratch.zero_()
        return self._event()

    def milliseconds(self, started: torch.cuda.Event) -> float:
        """Time from that event to one put into the queue now; waits for it."""
        stopped = self._event()
        stopped.synchronize()
        return started.elapsed_time(stopped)

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def extra_memory(self, call: Callable[[], None]) -> float:
        """Peak of what the call allocates, its results included, in MiB."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def free_bytes(self) -> float:
        """What the device has free, and what the allocator has reserved and not given out."""
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def environment() -> dict[str, Any]:
    """Versions and hardware."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {**found, "python": platform.python_version(), "cpu": _processor(), "capability": _vectors()}


def gpu_environment() -> dict[str, Any]:
    """Versions and hardware where there may be a GPU, and packages may run from a copy that is not installed."""
    versions = {name: _version(name) for name in ("torch", "triton", "transformers")}
    found: dict[str, Any] = {**versions, "hf-tanhmax": hf_tanhmax.__version__, "python": platform.python_version(), "cpu": _processor()}
    found["HF_TANHMAX_AUTOTUNE"] = os.environ.get("HF_TANHMAX_AUTOTUNE", "0")
    if not torch.cuda.is_available():
        return found
    device = torch.cuda.get_device_properties()
    found |= {"gpu": device.name, "multiprocessors": device.multi_processor_count, "capability": f"{device.major}.{device.minor}"}
    return found | {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), **management(FIXED)}


def management(fields: Sequence[str]) -> dict[str, str]:
    """What nvidia-smi says of the current GPU, with units; why not, where it says nothing; empty where there is no GPU."""
    if not torch.cuda.is_available():
        return {}
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"nvidia-smi": "not found"}
    device = f"GPU-{torch.cuda.get_device_properties().uuid}"
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "-i", device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    values = [value.strip() for value in done.stdout.strip().split(",")]
    if done.returncode or len(values) != len(fields):
        return {"nvidia-smi": (done.stderr or done.stdout).strip()}
    return dict(zip(fields, values, strict=True))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _vectors() -> str:
    """What torch computes with on this processor, and what Linux says it multiplies bfloat16 with."""
    words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split()) if Path("/proc/cpuinfo").exists() else set()
    names = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX"}
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *(name for word, name in names.items() if word in words)])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
