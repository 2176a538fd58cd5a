"""How exact attention is in half precision: relative error (Frobenius) of the output against float64, by the size of the scores.

Query, key and value are normally distributed, the query scaled so that the scores have the standard deviation wanted, and rounded to
the dtype; float64 starts from the rounded values. Small scores are the hard ones: the two exponentials then nearly cancel.
"""

import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hf_tanhmax.attention.composed.aten_kernels import KERNELS, StockCall
from hf_tanhmax.attention.kernels.support import interpreted, triton_missing
from hf_tanhmax.provenance import git_commit
from hf_tanhmax.results import table

from ..measure import gpu_environment
from .contenders import Contender, eager, exact, named
from .gpu_contenders import CALLS_CUDNN, CALLS_FLASH, EAGER, FUSED, doubled_keys, two_calls

STDS = (0.01, 0.05, 0.1, 1.0, 10.0)
SEEDS = 5
DTYPES = {"cpu": {"bfloat16": torch.bfloat16}, "cuda": {"bfloat16": torch.bfloat16, "float16": torch.float16}}
# batch, heads, queries, keys, head_dim
SHAPES = {"cpu": (1, 2, 64, 128, 32), "cuda": (2, 8, 1024, 1024, 64)}
TARGET, TARGET_STDS = 4e-3, (0.05, 1.0)


@dataclass(frozen=True)
class Row:
    """One contender's error at one size of scores: mean and standard deviation over the seeds; or why there is none."""

    contender: str
    dtype: str
    std: float
    mean: float | None
    spread: float | None
    reason: str | None = None


def contenders(device: str) -> dict[str, Contender]:
    """All of them by name. On the CPU the fused kernels are among them where Triton interprets."""
    always = {"cpu": _on_the_cpu(named("cpu")), "doubled keys": doubled_keys, EAGER: eager}
    if device == "cuda":
        return {FUSED: named("triton"), **always, CALLS_FLASH: two_calls("flash"), CALLS_CUDNN: two_calls("cudnn")}
    fused = {FUSED: named("triton")} if interpreted() and triton_missing() is None else {}
    return {**fused, **always, "two calls, outputs rounded": two_rounded, "two calls, float32 inside": named("composed")}


def two_rounded(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Two softmax calls as on a GPU: exact inside, their outputs rounded to the dtype of the query, then joined in float32."""
    scale = query.shape[-1] ** -0.5
    halves, lses = [], []
    for sign in (1.0, -1.0):
        output, lse, _ = KERNELS["cpu"].forward(StockCall(sign * query.float(), key.float(), value.float(), None, causal, scale))
        halves.append(output.to(query.dtype).float())
        lses.append(lse[..., None])
    shares = torch.sigmoid(lses[0] - lses[1]), torch.sigmoid(lses[1] - lses[0])
    return (shares[0] * halves[0] - shares[1] * halves[1]).to(query.dtype)


def _on_the_cpu(function: Contender) -> Contender:
    def call(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        return function(query.cpu(), key.cpu(), value.cpu(), causal).to(query.device)

    return call


def accuracy(device: str, extra: Mapping[str, Contender] | None = None) -> dict[str, Any]:
    """The errors of every contender, and of those that the caller adds."""
    shape, chosen = SHAPES[device], {**contenders(device), **(extra or {})}
    cases = [(dtype, std) for dtype in DTYPES[device] for std in STDS]
    rows = [row for dtype, std in tqdm(cases, desc="accuracy", file=sys.stderr) for row in _errors(chosen, device, dtype, std)]
    return {
        "benchmark": "accuracy",
        "device": device,
        "shape": shape,
        "seeds": SEEDS,
        "environment": gpu_environment(),
        "git": git_commit(),
        "rows": [asdict(row) for row in rows],
    }


def _errors(chosen: Mapping[str, Contender], device: str, dtype: str, std: float) -> list[Row]:
    errors: dict[str, list[float]] = {name: [] for name in chosen}
    reasons: dict[str, str] = {}
    for seed in range(SEEDS):
        query, key, value = _inputs(device, DTYPES[device][dtype], std, seed)
        expected = exact(query.double(), key.double(), value.double(), causal=False, signed=True)
        for name, function in chosen.items():
            try:
                found = function(query, key, value, False).double()
            except Exception as problem:  # a kernel that does not run here; Triton's errors are no RuntimeError
                reasons[name] = f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}"
                continue
            errors[name].append(((found - expected).norm() / expected.norm()).item())
    rows = [Row(name, dtype, std, statistics.mean(found), statistics.stdev(found)) for name, found in errors.items() if name not in reasons]
    return rows + [Row(name, dtype, std, None, None, reason) for name, reason in reasons.items()]


def _inputs(device: str, dtype: torch.dtype, std: float, seed: int) -> list[Tensor]:
    batch, heads, queries, keys, head_dim = SHAPES[device]
    generator = torch.Generator().manual_seed(seed)
    sizes = ((queries, std), (keys, 1.0), (keys, 1.0))
    return [(torch.randn(batch, heads, length, head_dim, generator=generator) * scale).to(device, dtype) for length, scale in sizes]


def report(result: dict[str, Any]) -> str:
    """The errors as Markdown: mean and standard deviation over the seeds."""
    rows = [Row(**row) for row in result["rows"]]
    found = {(row.dtype, row.contender, row.std): row for row in rows}
    stds = list(dict.fromkeys(row.std for row in rows))
    lines = [
        [f"{dtype}, {name}", *(_cell(found.get((dtype, name, std))) for std in stds)]
        for dtype, name in dict.fromkeys((row.dtype, row.contender) for row in rows)
    ]
    batch, heads, queries, keys, head_dim = result["shape"]
    machine = result["environment"].get("gpu", result["environment"]["cpu"])
    head = (
        f"Relative error of the output against float64, mean ± standard deviation over {result['seeds']} seeds, by the standard deviation "
        f"of the scores; {batch} x {heads} heads, {queries} queries, {keys} keys, D {head_dim}; {machine}, "
        f"torch {result['environment']['torch']}. -: not measured."
    )
    reasons = dict.fromkeys((row.contender, row.dtype, row.reason) for row in rows if row.reason is not None)
    missing = [f"* not measured: {name}, {dtype}: {reason}" for name, dtype, reason in reasons]
    errors = table(["standard deviation of the scores", *(f"{std:g}" for std in stds)], lines, markdown=True)
    return "\n".join([head, "", errors, "", *missing, *targets(rows)]).rstrip()


def _cell(row: Row | None) -> str:
    return "-" if row is None or row.mean is None else f"{row.mean:.1e} ± {row.spread:.0e}"


def targets(rows: list[Row]) -> list[str]:
    """One line for the target of the fused kernels in bfloat16, if they were measured."""
    asked = [row for row in rows if (row.contender, row.dtype) == (FUSED, "bfloat16") and row.std in TARGET_STDS]
    errors = [row.mean for row in asked if row.mean is not None]
    if not errors:
        return []
    verdict = "met" if max(errors) <= TARGET else "missed"
    return [f"* fused, bfloat16, scores of 0.05 and 1: worst error {max(errors):.1e}, target {TARGET:.0e}: {verdict}"]
