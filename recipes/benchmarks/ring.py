"""What a ring of processes costs: time, bytes sent and memory per rank, beside one process that has the whole sequence.

    python -m recipes.benchmarks.ring run --output recipes/results/ring/ring-cpu.json
    python -m recipes.benchmarks.ring report recipes/results/ring/ring-cpu.json

Every row is a launch of its own, since memory is the largest that a process ever had. The times are those of the slowest rank, the median
of some rounds. Bytes are counted where they are handed to torch, and must be what `bytes_sent` says.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hf_tanhmax import provenance
from hf_tanhmax.attention.api import tanhmax_attention
from hf_tanhmax.attention.ring import ring_attention
from hf_tanhmax.results import table

from ..command_line import Parser

HEADS, KV_HEADS, HEAD_DIM = 8, 4, 64
LENGTHS = (2048, 8192)
RANKS = (1, 2, 4)
KINDS: dict[str, dict[str, Any]] = {
    "TanhMax": {"polarity": 1.0},
    "softmax": {"polarity": 0.0},
    "balanced": {"polarity": 1.0, "shift": "balanced"},
}
ROUNDS = 3
MIB = 1 << 20


def bytes_sent(ranks: int, numbers: int, size: int) -> tuple[int, int]:
    """Bytes that a rank sends in a forward and in a backward pass: the ranks of a ring, a rank's numbers in K and V, and bytes of each.

    Keys and values make all steps but one; their gradients, in float32, go home besides.
    """
    blocks = (ranks - 1) * numbers * size
    return blocks, blocks + ranks * numbers * 4


def measure(length: int, kind: str) -> dict[str, Any] | None:
    """Time, bytes and memory of this launch's rank 0; None on other ranks. All ranks take part."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    ranks, rank = dist.get_world_size(), dist.get_rank()
    sent = _counting()
    _pass(128, ranks, kind)  # builds the operator, and fills the memory that any call needs
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(ROUNDS):
        sent.clear()
        times.append(_pass(length, ranks, kind))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MIB
    wanted = sum(bytes_sent(ranks, 2 * KV_HEADS * HEAD_DIM * length // ranks, 4)) if ranks > 1 else 0
    if sum(sent) != wanted:
        raise RuntimeError(f"{sum(sent)} bytes were sent, but the formula says {wanted}")
    slowest = torch.tensor([*times, peak])
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    dist.barrier()
    if rank:
        return None
    *times, peak = slowest.tolist()
    return {"seconds": statistics.median(times), "all": times, "mib": peak, "sent": sum(sent), "ranks": ranks}


def _counting() -> list[int]:
    """The bytes of every send from now on."""
    sent: list[int] = []
    original = dist.batch_isend_irecv

    def counted(operations: list[dist.P2POp]) -> list[dist.Work]:
        sent.extend(each.tensor.numel() * each.tensor.element_size() for each in operations if each.op is dist.isend)
        return original(operations)

    dist.batch_isend_irecv = counted  # type: ignore[assignment]
    return sent


def _pass(length: int, ranks: int, kind: str) -> float:
    """Seconds of a forward and a backward pass, causal, in float32."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((HEADS, HEAD_DIM), (KV_HEADS, HEAD_DIM), (KV_HEADS, HEAD_DIM))
    tensors = [torch.randn(1, heads, length // ranks, dim, generator=generator, requires_grad=True) for heads, dim in shapes]
    upstream = torch.randn(1, HEADS, length // ranks, HEAD_DIM, generator=generator)
    dist.barrier()
    start = time.perf_counter()
    attention: Any = ring_attention if ranks > 1 else tanhmax_attention
    attention(*tensors, is_causal=True, **KINDS[kind]).backward(upstream)
    return time.perf_counter() - start


def run(lengths: Sequence[int] = LENGTHS) -> dict[str, Any]:
    """Every row, each launched by itself."""
    rows = []
    for length, kind, ranks in product(lengths, KINDS, RANKS):
        arguments = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), "-m", "recipes.benchmarks.ring"]
        command = [sys.executable, *arguments, "row", str(length), kind]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
        if done.returncode:
            raise RuntimeError(f"the row {length} {kind} {ranks} failed: {done.stderr[-2000:]}")
        rows.append({"length": length, "kind": kind, **json.loads(done.stdout.splitlines()[-1])})
        print(rows[-1], file=sys.stderr, flush=True)
    shape = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "dtype": "float32", "causal": True, "rounds": ROUNDS}
    return {
        "benchmark": "ring",
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": provenance.versions(),
        "git": provenance.git_commit(),
        "hardware": provenance.hardware(),
        "load": os.getloadavg()[0],
        **shape,
        "rows": rows,
    }


def report(result: dict[str, Any], *, markdown: bool = True) -> str:
    """The table, and what it was measured on."""
    alone = {(row["length"], row["kind"]): row for row in result["rows"] if row["ranks"] == 1}
    rows = []
    for row in result["rows"]:
        whole = alone[row["length"], row["kind"]]
        times = [f"{row['seconds']:.2f}", f"{row['seconds'] / whole['seconds']:.2f}"]
        memory = [f"{row['mib']:.0f}", f"{row['mib'] / whole['mib']:.2f}"]
        rows.append([f"{row['length']}", row["kind"], f"{row['ranks']}", *times, *memory, f"{row['sent'] / MIB:.1f}"])
    header = ["length", "attention", "ranks", "seconds", "over one's", "memory per rank, MiB", "over one's", "sent per rank, MiB"]
    shape = f"{result['heads']} heads over {result['kv_heads']} key heads, D {result['head_dim']}, {result['dtype']}, causal"
    where = f"{result['hardware']['cpus']} CPU cores, torch {result['versions']['torch']}"
    said = f"Forward and backward pass, {shape}, one thread per process; median of {result['rounds']} rounds; {where}, at a load of"
    return f"{said} {result['load']:.1f} when it ended.\n\n{table(header, rows, markdown=markdown)}"


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = Parser(prog="recipes.benchmarks.ring", description="What a ring of processes costs.")
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser("run")
    whole.add_argument("--output", type=Path, required=True)
    whole.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    commands.add_parser("report").add_argument("result", type=Path)
    row = commands.add_parser("row")
    row.add_argument("length", type=int)
    row.add_argument("kind", choices=KINDS)
    given = parser.parse_args(arguments)
    if given.command == "row":
        found = measure(given.length, given.kind)
        if found is not None:
            print(json.dumps(found), flush=True)
        dist.destroy_process_group()
        return
    if given.command == "report":
        print(report(json.loads(given.result.read_text()), markdown=False))
        return
    result = run(given.lengths)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
