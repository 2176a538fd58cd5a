"""How fast attention is on a GPU: every way to it, side by side in one run, and only if its results are right.

Each round times every contender once, from a flushed L2 cache, in an order that rotates; a ratio is of two times of the same round. A
forward pass is timed without gradients; a training step gives the time of the backward pass and, with its own forward pass, the sum. A
contender that would not fit into memory, that fails or that is wrong stays in the result without a number and with its reason.
"""

import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hf_tanhmax.errors import one_line
from hf_tanhmax.provenance import git_commit

from ..measure import PASSING, CudaMeter, Meter, ProcessorMeter, gpu_environment, management, percentiles
from .contenders import BASELINE, LIMITS, Contender, relative_error
from .gpu_contenders import CALLS_CUDNN, CALLS_FLASH, EAGER, REQUIRED, TWIN, Entry, contenders
from .gpu_plan import DTYPES, Plan, Setting

PASSES = ("forward", "backward", "forward+backward")
REFERENCES = (BASELINE, TWIN, CALLS_FLASH, CALLS_CUDNN, EAGER)
FLOPS = {"forward": 4, "backward": 10, "forward+backward": 14}  # for each score and unit of head_dim
FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One contender, problem and pass.

    Attributes:
        contender, setting, what: who, where, and which pass.
        ms: time in milliseconds; 20th, 50th and 80th percentile over the rounds. Empty if it was not timed.
        tflops: 1e12 floating-point operations of the two (backward: five) matrix products of attention a second, at the median; what
            a contender computes beyond those does not count.
        ratios: contender -> time over that contender's in the same round, as percentiles.
        memory: what a pass adds to memory at its peak, results included, in MiB; a forward pass or a whole step.
        reason: why it was not timed.
    """

    contender: str
    setting: Setting
    what: str
    ms: dict[str, float]
    tflops: float | None
    ratios: dict[str, dict[str, float]]
    memory: float | None
    reason: str | None


def attention(plan: Plan) -> Iterator[dict[str, Any]]:
    """The result so far, after every setting: a run that is cut short leaves what it had. What is wrong or fails is a row that says so."""
    entries = _entries(plan)
    meter: Meter = ProcessorMeter() if plan.dry_run else CudaMeter()
    refused = gate(plan)
    result: dict[str, Any] = {
        "benchmark": "attention-gpu",
        "dry_run": plan.dry_run,
        "complete": False,
        "plans": [asdict(plan)],
        "environment": gpu_environment(),
        "git": {"commit": plan.commit, "changed": None} if plan.commit else git_commit(),
        "clocks": [],
        "rows": [],
    }
    settings = plan.settings()
    for index, setting in enumerate(tqdm(settings, desc="attention", file=sys.stderr), 1):
        result["rows"] += [asdict(row) for row in timed(setting, entries, refused, plan, meter)]
        result["clocks"].append(management(PASSING))  # as they are just after the work
        yield result | {"complete": index == len(settings)}


def _entries(plan: Plan) -> dict[str, Entry]:
    """The contenders that are asked for and those that all are compared with; unasked, those that are not compiled anew for each shape."""
    known = contenders(plan.device)
    if plan.names is None:
        return {name: entry for name, entry in known.items() if not entry.compiled}
    return {name: entry for name, entry in known.items() if name in (*plan.names, *REQUIRED)}


def gate(plan: Plan) -> dict[tuple[Any, ...], str]:
    """Check every contender against float64 in each family of problems; (contender, family) -> why it is not timed there.

    Families are shared out among `plan.jobs` processes, so that their kernels are compiled at the same time: timing finds them compiled.
    """
    families: dict[tuple[Any, ...], list[Setting]] = {}
    for setting in plan.gate_settings():
        families.setdefault(setting.family, []).append(setting)
    if plan.jobs == 1:
        found = [_refused(plan, settings) for settings in tqdm(families.values(), desc="correctness", file=sys.stderr)]
    else:
        with ProcessPoolExecutor(plan.jobs, multiprocessing.get_context("spawn")) as pool:
            found = list(pool.map(partial(_refused, plan), families.values()))
    return {(name, family): reason for family, reasons in zip(families, found, strict=True) for name, reason in reasons.items()}


def _refused(plan: Plan, settings: list[Setting]) -> dict[str, str]:
    """Of the settings of one family: contender -> why it does not run, or that it is wrong."""
    refused: dict[str, str] = {}
    for setting in settings:
        torch.compiler.reset()
        for name, entry in _entries(plan).items():
            if name in refused or (entry.compiled and setting.length != plan.gate_lengths[-1]):
                continue
            tensors = inputs(setting, plan.device)[:3]
            try:
                error = relative_error(entry.function, tensors, causal=setting.causal, signed=entry.signed)
            except Exception as problem:  # Triton, torch and its compiler raise what they like; the others go on
                refused[name] = _sentence(problem)
                continue
            if not error <= LIMITS[DTYPES[setting.dtype]]:
                refused[name] = f"wrong: relative error {error:.1e} for {setting}"
    return refused


def inputs(setting: Setting, device: str) -> list[Tensor]:
    """Query, key, value and the output's gradient: `[batch, heads, length, head_dim]`, normally distributed, the same each time."""
    generator = torch.Generator(device).manual_seed(0)
    return [
        torch.randn(setting.batch, heads, setting.length, setting.head_dim, generator=generator, device=device).to(DTYPES[setting.dtype])
        for heads in (setting.heads, setting.kv_heads, setting.kv_heads, setting.heads)
    ]


def timed(setting: Setting, entries: dict[str, Entry], refused: dict[tuple[Any, ...], str], plan: Plan, meter: Meter) -> list[Row]:
    """One row for each contender and pass."""
    torch.compiler.reset()
    if not plan.dry_run:
        torch.cuda.empty_cache()
    tensors = inputs(setting, plan.device)
    steps: dict[str, partial[dict[str, float]]] = {}
    reasons: dict[str, str] = {}
    for name, entry in entries.items():
        step = partial(_step, entry.function, tensors, setting.causal, meter)
        reason = refused.get((name, setting.family)) or _too_large(entry, setting, meter) or _warm_up(step)
        if reason is None:
            steps[name] = step
        else:
            reasons[name] = reason
    times = _rounds(steps, plan)
    rows = []
    for name, entry in entries.items():
        memory = _memory(entry.function, tensors, setting.causal, meter) if name in steps else {}
        for what in PASSES:
            untimed = Row(name, setting, what, {}, None, {}, None, reasons.get(name))
            rows.append(_row(name, setting, what, times, memory.get(what)) if name in steps else untimed)
    return rows


def _rounds(steps: dict[str, partial[dict[str, float]]], plan: Plan) -> dict[str, list[dict[str, float]]]:
    """Milliseconds of each pass, by contender and round."""
    times: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    names, began = list(steps), time.monotonic()
    for round_ in range(plan.rounds if names else 0):
        if round_ >= FEWEST_ROUNDS and time.monotonic() - began > plan.seconds:
            break
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(steps[name]())
    return times


def _step(function: Contender, tensors: list[Tensor], causal: bool, meter: Meter) -> dict[str, float]:
    """Milliseconds of a forward pass alone, and of the two halves of a training step, each from a flushed cache."""
    query, key, value = leaves = [tensor.detach().requires_grad_() for tensor in tensors[:3]]
    with torch.no_grad():
        started = meter.start()
        function(query, key, value, causal)
        forward = meter.milliseconds(started)
    started = meter.start()
    output = function(query, key, value, causal)
    through = meter.milliseconds(started)
    started = meter.start()
    torch.autograd.grad(output, leaves, tensors[3])
    backward = meter.milliseconds(started)
    return {"forward": forward, "backward": backward, "forward+backward": through + backward}


def _warm_up(step: partial[dict[str, float]]) -> str | None:
    """Compile and tune; why it fails, if it does."""
    try:
        step()
        step()
    except Exception as problem:  # Triton's errors are no RuntimeError, for one
        return _sentence(problem)
    return None


def _too_large(entry: Entry, setting: Setting, meter: Meter) -> str | None:
    size = torch.finfo(DTYPES[setting.dtype]).bits // 8
    needed = entry.scores * setting.batch * setting.heads * setting.length**2 * size
    free = meter.free_bytes()
    if needed <= free:
        return None
    return f"holds all scores: about {needed / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free"


def _sentence(problem: BaseException) -> str:
    while problem.__cause__ is not None:  # the compiler wraps what went wrong
        problem = problem.__cause__
    return f"{type(problem).__name__}: {one_line(problem)}"[:200]


def _row(name: str, setting: Setting, what: str, times: dict[str, list[dict[str, float]]], memory: float | None) -> Row:
    own = [step[what] for step in times[name]]
    compared = {other: zip(own, times[other], strict=True) for other in REFERENCES if other in times}
    ratios = {other: _percentiles([one / step[what] for one, step in pairs]) for other, pairs in compared.items()}
    found = _percentiles(own)
    tflops = FLOPS[what] * setting.head_dim * setting.scores / found["p50"] * 1e-9
    return Row(name, setting, what, found, tflops, ratios, memory, None)


def _percentiles(values: list[float]) -> dict[str, float]:
    return dict(zip(("p20", "p50", "p80"), percentiles(values), strict=True))


def _memory(function: Contender, tensors: list[Tensor], causal: bool, meter: Meter) -> dict[str, float | None]:
    """Peak in MiB of a forward pass and of a whole step; a backward pass has none of its own."""
    query, key, value = leaves = [tensor.detach().requires_grad_() for tensor in tensors[:3]]

    def forward() -> None:
        with torch.no_grad():
            function(query, key, value, causal)

    def step() -> None:
        torch.autograd.grad(function(query, key, value, causal), leaves, tensors[3])

    return {"forward": meter.extra_memory(forward), "forward+backward": meter.extra_memory(step)}
