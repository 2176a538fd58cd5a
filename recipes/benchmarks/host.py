"""What Python does per call of the fused kernels, up to their launches, which are left out: microseconds of the processor, and calls.

python -m recipes.benchmarks.host [--rounds 2000] [--output recipes/results/host-cpu.json]
python -m recipes.benchmarks.host --counts

No GPU is needed: the tensors are on the CPU, and a launch does nothing. What Triton itself takes for a launch comes on top. Counts of the
functions that are called, Python's and C's, are the same in every run; the tests hold them.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # before Triton is imported: the interpreter takes other ways

import torch

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.kernels import launch, launch_decode, masks, support

from ..command_line import Parser
from .measure import environment, percentiles

WARM = 20
LAYERS = 12
Call = Callable[[], object]


class Launched:
    """Stands for a kernel, and counts its launches."""

    def __init__(self) -> None:
        self.count = 0

    def __getitem__(self, grid: object) -> Callable[..., None]:
        self.count += 1
        return _nothing


def _nothing(*_: object, **__: object) -> None:
    pass


def stubbed(modules: tuple[ModuleType, ...] = (launch, launch_decode, masks)) -> Launched:
    """Replace every kernel of the launchers, and let them take tensors of the CPU; this process computes nothing with them any more."""
    launched = Launched()
    for module in modules:
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            setattr(module, name, launched)
    vars(support)["_device"] = _nothing  # says what is wrong with a device: here nothing
    return launched


def calls() -> dict[str, Call]:
    """Calls of one layer, by what they are."""
    query, key, value = torch.randn(3, 2, 8, 256, 64, dtype=torch.bfloat16).unbind()
    cache = torch.randn(2, 8, 8, 256, 128, dtype=torch.bfloat16).unbind()
    token = torch.randn(8, 32, 1, 128, dtype=torch.bfloat16)
    padding, mask = torch.ones(2, 1, 1, 256, dtype=torch.bool), torch.ones(2, 1, 256, 256, dtype=torch.bool)

    def _call(*tensors: torch.Tensor, **arguments: Any) -> Call:
        return lambda: tanhmax_attention(*tensors, implementation="triton", **arguments)

    return {
        "decode": _call(token, *cache),
        "decode, padding": _call(token, *cache, keep=torch.ones(8, 1, 1, 256, dtype=torch.bool)),
        "forward": _call(query, key, value),
        "forward, causal": _call(query, key, value, is_causal=True),
        "forward, padding": _call(query, key, value, is_causal=True, keep=padding),
        "forward, mask": _call(query, key, value, keep=mask),
        "forward, additive mask": _call(query, key, value, additive_mask=torch.zeros(2, 1, 1, 256, dtype=torch.bfloat16)),
        "forward, polarity per head": _call(query, key, value, polarity=torch.rand(8)),
        "forward, balanced": _call(query, key, value, polarity=0.2, shift="balanced"),
    }


def count(call: Call) -> int:
    """Functions that a warm call enters, Python's and C's."""
    entered = 0

    def _profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal entered
        entered += event in ("call", "c_call")

    for _ in range(WARM):
        call()
    sys.setprofile(_profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return entered


def launches_of_layers(launched: Launched, call: Call) -> int:
    """Launches of a forward pass of `LAYERS` layers with one mask."""
    before = launched.count
    for _ in range(LAYERS):
        call()
    return launched.count - before


def timed(everyone: dict[str, Call], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of this thread's processor time: p20, median and p80 of each call, which take turns."""
    taken: dict[str, list[float]] = {name: [] for name in everyone}
    for number in range(WARM + rounds):
        for name, call in everyone.items():
            began = time.thread_time_ns()
            call()
            if number >= WARM:
                taken[name].append((time.thread_time_ns() - began) / 1e3)
    return {name: dict(zip(("p20", "p50", "p80"), percentiles(found), strict=True)) for name, found in taken.items()}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write."""
    parser = Parser(prog="python -m recipes.benchmarks.host", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--counts", action="store_true", help="print counts alone, as JSON")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    launched = stubbed()
    with torch.no_grad():
        fresh = calls()
        layers = {name: launches_of_layers(launched, call) for name, call in fresh.items()}
        counts = {name: count(call) for name, call in fresh.items()}
        if options.counts:
            print(json.dumps({"functions": counts, "launches": layers}))
            return
        times = timed(fresh, options.rounds)
    rows: list[dict[str, Any]] = [
        {"call": name, "us": times[name], "functions": counts[name], f"launches_{LAYERS}_layers": layers[name]} for name in fresh
    ]
    for row in rows:
        took = row["us"]
        print(f"{row['call']:28} {took['p50']:6.1f} us ({took['p20']:.1f} to {took['p80']:.1f}), {row['functions']} functions")
    if options.output:
        options.output.write_text(json.dumps({"benchmark": "host", "environment": environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
