"""Clocks, percentiles and memory for the benchmarks, and what a figure depends on."""

import ctypes
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "hf-tanhmax")
PEAK, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def processor_time(call: Callable[[], None]) -> float:
    """Seconds of processor time that a call takes, whatever else the machine does."""
    start = time.process_time()
    call()
    return time.process_time() - start


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentiles."""
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


def environment() -> dict[str, Any]:
    """Versions and hardware."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {**found, "python": platform.python_version(), "cpu": _processor(), "capability": torch.backends.cpu.get_cpu_capability()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
