"""How fast attention is on the CPU: time over softmax SDPA's, side by side in one run, and the targets of the default there.

Each round times every contender once, one after the other, so that what disturbs the machine disturbs all of them; a ratio is to
softmax SDPA of the same round, and its 20th, 50th and 80th percentiles over the rounds are reported. One thread is timed by its
processor time. Absolute times are not reported, as machines differ and are shared.
"""

import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm import tqdm

from hf_tanhmax.attention.cpu.build import why_no_library
from hf_tanhmax.results import table

from ..measure import environment, extra_memory, percentiles, processor_time
from .contenders import BASELINE, CONTENDERS, check

SHAPES = ((8, 12, 128, 64), (4, 12, 512, 64), (1, 12, 2048, 64))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PASSES = ("forward", "forward+backward")
# (dtype, pass) -> the most that the CPU default may take, as a ratio to softmax SDPA at 512 and 2048; and to eager TanhMax.
TARGETS = {
    ("float32", "forward"): 1.15,
    ("float32", "forward+backward"): 1.25,
    ("bfloat16", "forward"): 1.0,
    ("bfloat16", "forward+backward"): 0.9,
}
EAGER_TARGET = 0.12
# Contenders that take many times as long are timed in the first rounds only.
SLOW, SLOW_ROUNDS = ("eager", "reference"), 2
MEMORY_TARGET = 64.0


@dataclass(frozen=True)
class Row:
    """One contender in one setting: its time over softmax SDPA's as percentiles, and the memory it adds at its peak, in MiB."""

    contender: str
    dtype: str
    shape: tuple[int, int, int, int]
    causal: bool
    what: str
    p20: float
    p50: float
    p80: float
    memory: float | None


def attention(rounds: int) -> dict[str, Any]:
    """Check every contender, then time all of them in every setting.

    Raises:
        SystemExit: a contender computes something else; nothing is timed then.
    """
    torch.set_num_threads(1)
    check()
    settings = [(dtype, shape, causal, what) for dtype in DTYPES for shape in SHAPES for causal in (False, True) for what in PASSES]
    native = why_no_library() is None
    rows = []
    for dtype, shape, causal, what in tqdm(settings, desc="attention", file=sys.stderr):
        rows += _setting(dtype, shape, causal, what, rounds)
    return {
        "benchmark": "attention",
        "rounds": rounds,
        "native": native,
        "environment": environment(),
        "rows": [asdict(row) for row in rows],
    }


def _setting(dtype: str, shape: tuple[int, int, int, int], causal: bool, what: str, rounds: int) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator).to(DTYPES[dtype]).requires_grad_(what != "forward") for _ in range(4)]
    calls = {name: _call(function, tensors, causal, what) for name, function in CONTENDERS.items() if not _hopeless(name, dtype, shape)}
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds):
        for name, call in calls.items():
            if round_ < SLOW_ROUNDS or name not in SLOW:
                times[name].append(processor_time(call))
    rows = []
    for name, call in calls.items():
        ratios = [own / base for own, base in zip(times[name], times[BASELINE], strict=False)]
        rows.append(Row(name, dtype, shape, causal, what, *percentiles(ratios), extra_memory(call)))
    return rows


def _call(function: Any, tensors: list[torch.Tensor], causal: bool, what: str) -> Any:
    query, key, value, upstream = tensors

    def call() -> None:
        if what == "forward":
            with torch.no_grad():
                function(query, key, value, causal)
        else:
            torch.autograd.grad(function(query, key, value, causal), (query, key, value), upstream.detach())

    return call


def _hopeless(name: str, dtype: str, shape: tuple[int, int, int, int]) -> bool:
    """Runs that hold all scores and take minutes here tell nothing new: the reference at 2048, eager in emulated half precision."""
    return shape[2] > 512 and (name == "reference" or (name == "eager" and dtype == "bfloat16"))


def report(result: dict[str, Any]) -> str:
    """The result as Markdown: a table of medians with their spread, and where each target stands."""
    rows = [Row(**{**row, "shape": tuple(row["shape"])}) for row in result["rows"]]
    names = [name for name in CONTENDERS if any(row.contender == name for row in rows)]
    header = ["dtype, pass, (B, H, S, D)", *names]
    found = {(row.dtype, row.what, row.shape, row.causal, row.contender): row for row in rows}
    lines = []
    for dtype, what, shape, causal in dict.fromkeys((row.dtype, row.what, row.shape, row.causal) for row in rows):
        cells = [found.get((dtype, what, shape, causal, name)) for name in names]
        label = f"{dtype}, {what}, {shape}{', causal' if causal else ''}"
        lines.append([label, *("-" if cell is None else f"{cell.p50:.2f} ({cell.p20:.2f} to {cell.p80:.2f})" for cell in cells)])
    versions = result["environment"]
    operator = "with" if result["native"] else "without"
    processor = f"{versions['cpu']} ({versions['capability']})"
    machine = f"{processor}, one thread, torch {versions['torch']}, {operator} the C++ operator, {result['rounds']} rounds"
    return "\n".join(
        [f"Time over softmax SDPA's: median (p20 to p80). {machine}.", "", table(header, lines, markdown=True), "", *targets(rows)]
    )


def targets(rows: list[Row]) -> list[str]:
    """One line for each target: the worst median over the shapes and masks it speaks of."""
    default = [row for row in rows if row.contender == "cpu"]
    eager = {(row.dtype, row.shape, row.causal, row.what): row.p50 for row in rows if row.contender == "eager"}
    lines = []
    for (dtype, what), target in TARGETS.items():
        medians = [row.p50 for row in default if (row.dtype, row.what) == (dtype, what) and row.shape[2] >= 512]
        lines.append(_verdict(f"`cpu` over softmax SDPA, {dtype}, {what}, 512 and 2048", max(medians), target))
    shares = [
        row.p50 / eager[key] for row in default if row.shape[2] >= 512 and (key := (row.dtype, row.shape, row.causal, row.what)) in eager
    ]
    lines.append(_verdict("`cpu` over eager TanhMax, 512 and 2048", max(shares), EAGER_TARGET))
    memory = [row.memory for row in default if row.shape[2] == 2048 and row.memory is not None]
    if memory:
        lines.append(_verdict("memory that `cpu` adds at 2048, results included, MiB", max(memory), MEMORY_TARGET))
    return lines


def _verdict(what: str, worst: float, target: float) -> str:
    return f"* {what}: worst median {worst:.2f}, target {target:g}: {'met' if worst <= target else 'missed'}"
