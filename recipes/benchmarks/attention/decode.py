"""How fast decoding attention is on a GPU: one query against a cache, every way to it side by side, and only if its results are right.

Each round times every contender once, from a flushed L2 cache, in an order that rotates; a ratio is of two times of the same round. The
share of bandwidth is the time that copying would take for the bytes of keys and values, over the contender's time; copying is timed in the
same run, and moves each byte twice.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.provenance import git_commit
from hf_tanhmax.results import table

from ..measure import CudaMeter, Meter, ProcessorMeter, gpu_environment, percentiles
from .contenders import BASELINE, LIMITS, exact, softmax
from .gpu_contenders import two_calls
from .gpu_plan import DTYPES

FUSED, TWIN, PAGED, CALLS = "decode", "decode softmax twin", "decode, paged", "two calls"
REFERENCES = (BASELINE, TWIN, CALLS)
COPIED = 2**30  # bytes
PAGE = 16
EXACT = "float64"
DRY_RUN = "dry run: not a measurement"


@dataclass(frozen=True)
class DecodeSetting:
    """One problem: one query per batch entry, and a cache of `context` keys."""

    dtype: str
    batch: int
    heads: int
    kv_heads: int
    context: int
    head_dim: int

    @property
    def cache_bytes(self) -> int:
        """Size of keys and values."""
        return 2 * self.batch * self.kv_heads * self.context * self.head_dim * torch.finfo(DTYPES[self.dtype]).bits // 8


@dataclass(frozen=True)
class DecodePlan:
    """What to run; a setting whose cache is larger than `largest` bytes is left out."""

    device: str = "cuda"
    dtype: str = "bfloat16"
    batches: tuple[int, ...] = (1, 8, 64)
    contexts: tuple[int, ...] = (512, 2048, 8192, 32768)
    head_dims: tuple[int, ...] = (64, 128)
    kv_heads: int = 8
    groups: tuple[int, ...] = (1, 4, 8)
    rounds: int = 25
    largest: int = 2**35

    @property
    def dry_run(self) -> bool:
        """Whether the processor's clock stands in for a GPU's, so that no figure is a measurement."""
        return self.device != "cuda"

    def settings(self) -> list[DecodeSetting]:
        """Every problem to time."""
        found = [
            DecodeSetting(self.dtype, batch, self.kv_heads * group, self.kv_heads, context, head_dim)
            for head_dim in self.head_dims
            for group in self.groups
            for batch in self.batches
            for context in self.contexts
        ]
        return [setting for setting in found if setting.cache_bytes <= self.largest]


DRY = DecodePlan("cpu", "float32", (1,), (24,), (16,), kv_heads=1, groups=(2,), rounds=1)


def decode_speed(plan: DecodePlan) -> Iterator[dict[str, Any]]:
    """The result so far, after every setting.

    Raises:
        SystemExit: a contender computes something else; nothing more is timed then.
    """
    meter: Meter = ProcessorMeter() if plan.dry_run else CudaMeter()
    result: dict[str, Any] = {
        "benchmark": "decode",
        "dry_run": plan.dry_run,
        "plans": [asdict(plan)],
        "environment": gpu_environment(),
        "git": git_commit(),
        "copy_bytes_per_ms": None if plan.dry_run else _copying(meter),
        "rows": [],
    }
    for setting in tqdm(plan.settings(), desc="decode", file=sys.stderr):
        # float64 holds every score: a smaller problem of the same kind is checked
        small = replace(setting, batch=min(setting.batch, 2), context=min(setting.context, 1000))
        gate(small, contenders_for(small, plan.device))
        calls = {name: call for name, call in contenders_for(setting, plan.device).items() if not name.startswith(EXACT)}
        result["rows"] += timed(setting, calls, plan.rounds, meter, result["copy_bytes_per_ms"])
        yield result


def contenders_for(setting: DecodeSetting, device: str) -> dict[str, tuple[Callable[[], Tensor], bool]]:
    """Calls without arguments, and whether each computes TanhMax; the first is the baseline."""
    generator = torch.Generator(device).manual_seed(0)
    query, key, value = (
        torch.randn(setting.batch, heads, length, setting.head_dim, generator=generator, device=device).to(DTYPES[setting.dtype])
        for heads, length in ((setting.heads, 1), (setting.kv_heads, setting.context), (setting.kv_heads, setting.context))
    )
    blocks, pages = _paged(key, value)
    calls = two_calls("flash" if device == "cuda" else "cpu")
    return {
        BASELINE: (lambda: softmax(query, key, value, False), False),
        FUSED: (lambda: _decode(query, key, value), True),
        TWIN: (lambda: _decode(query, key, value, polarity=0.0), False),
        PAGED: (lambda: _decode(query, *blocks, **pages), True),
        CALLS: (lambda: calls(query, key, value, False), True),
        EXACT: (lambda: exact(query.double(), key.double(), value.double(), causal=False, signed=True), True),
        f"{EXACT} softmax": (lambda: exact(query.double(), key.double(), value.double(), causal=False, signed=False), False),
    }


def _decode(query: Tensor, key: Tensor, value: Tensor, **arguments: Any) -> Tensor:
    found = tanhmax_attention(query, key, value, implementation="decode", **arguments)
    return found if isinstance(found, Tensor) else found[0]


def _paged(key: Tensor, value: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The same keys and values in blocks of `PAGE` in random order, and the table and bounds that say where."""
    batch, heads, context, dim = key.shape
    each = -(-context // PAGE)
    order = torch.randperm(batch * each, generator=torch.Generator().manual_seed(0)).to(key.device)
    blocks = []
    for tensor in (key, value):
        padded = torch.nn.functional.pad(tensor, (0, 0, 0, each * PAGE - context)).view(batch, heads, each, PAGE, dim)
        pool = torch.empty(batch * each, heads, PAGE, dim, dtype=key.dtype, device=key.device)
        pool[order] = padded.transpose(1, 2).flatten(0, 1)
        blocks.append(pool)
    bounds = torch.arange(batch + 1, dtype=torch.int32, device=key.device) * context
    return blocks, {"block_table": order.view(batch, each).to(torch.int32), "cu_seqlens": bounds}


def gate(setting: DecodeSetting, calls: dict[str, tuple[Callable[[], Tensor], bool]]) -> None:
    """Hold every contender against float64, which is taken out of the calls.

    Raises:
        SystemExit: one is wrong.
    """
    with torch.no_grad():
        true = {signed: calls.pop(name)[0]() for name, signed in ((EXACT, True), (f"{EXACT} softmax", False))}
        for name, (call, signed) in calls.items():
            error = ((call().double() - true[signed]).norm() / true[signed].norm()).item()
            if not error <= LIMITS[DTYPES[setting.dtype]] * (8 if name == CALLS else 1):  # whose two halves cancel
                sys.exit(f"{name} is wrong for {setting}: relative error {error:.1e}; it was not timed")


def timed(
    setting: DecodeSetting, calls: dict[str, tuple[Callable[[], Tensor], bool]], rounds: int, meter: Meter, copy: float | None
) -> list[dict[str, Any]]:
    """A row for each contender: milliseconds, ratios, and the share of the bandwidth of copying."""
    names, times = list(calls), {name: [] for name in calls}  # type: ignore[var-annotated]
    with torch.no_grad():
        for round_ in range(rounds):
            first = round_ % len(names)
            for name in names[first:] + names[:first]:
                started = meter.start()
                calls[name][0]()
                times[name].append(meter.milliseconds(started))
    rows = []
    for name in names:
        ms = _percentiles(times[name])
        pairs = {other: zip(times[name], times[other], strict=True) for other in REFERENCES}
        ratios = {other: _percentiles([one / max(two, 1e-9) for one, two in pair]) for other, pair in pairs.items()}
        share = None if copy is None else setting.cache_bytes / copy / ms["p50"]
        rows.append({"contender": name, "setting": asdict(setting), "ms": ms, "ratios": ratios, "bandwidth_share": share})
    return rows


def _percentiles(values: list[float]) -> dict[str, float]:
    return dict(zip(("p20", "p50", "p80"), percentiles(values), strict=True))


def _copying(meter: Meter) -> float:
    """Bytes that the memory moves per millisecond: a copy reads and writes."""
    source = torch.zeros(COPIED, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    found = []
    for _ in range(9):
        started = meter.start()
        target.copy_(source)
        found.append(2 * COPIED / meter.milliseconds(started))
    return percentiles(found)[1]


def report(result: dict[str, Any]) -> str:
    """Markdown; of a dry run, the list of what ran and not one figure."""
    if result["dry_run"]:
        return "\n".join([f"**{DRY_RUN}**", "", *dict.fromkeys(f"* ran: {row['contender']}" for row in result["rows"])])
    lines = []
    for row in result["rows"]:
        setting = row["setting"]
        shape = "batch {batch}, {heads}/{kv_heads} heads, {context} keys, D {head_dim}".format(**setting)
        ratios = [_spread(row["ratios"][other]) for other in REFERENCES]
        lines.append([shape, row["contender"], f"{row['ms']['p50']:.4f}", *ratios, f"{row['bandwidth_share']:.0%}"])
    header = ["problem", "contender", "ms", *(f"over {other}" for other in REFERENCES), "share of copy bandwidth"]
    return f"{result['environment'].get('gpu', 'no GPU')}, {result['plans'][0]['dtype']}\n\n{table(header, lines, markdown=True)}"


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['p50']:.2f} ({ratio['p20']:.2f} to {ratio['p80']:.2f})"
