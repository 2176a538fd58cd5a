r"""TanhMax attention on the CPU by the C++ operator: which calls it computes, how it computes them, and the call.

It computes a call if none of these holds; else, and where there is no library (`build`), `blocked` does. Both give the same, to rounding.
Nothing is tried: the reasons are known before.

* float64, which it does not compute;
* a bias, an additive mask, a softcap or dropout;
* a tensor without elements;
* no finite bound of the scores (`BlockedProblem.bounds`): NaN, infinity, or lengths whose squares overflow.

It computes in float32 (a bfloat16 or float16 call is widened first, as `blocked` does). Whole rows of scores are held, for `native_rows`
queries of one head and each thread, and three times in the backward pass: memory grows with the length, not with its square.

A tile of `attention.cpp` is a block of queries of one head, times all keys that any of them may see. Its scores, its product with the
values and, in the backward pass, the three products of the gradients are matrix products by `sgemm_`, which torch's own library exports;
between them each row is passed over once, with both exponentials of a score from one split of the exponent :math:`x = n + f`, `n` whole,
:math:`f^2 \le 1/4`. With the even and odd parts of :math:`2^f` as polynomials :math:`e` and :math:`o` in :math:`f`,

.. math:: P = 2^n (e + o), \quad N = p\,2^{-n} (e - o), \quad W' = P - N.

So the map is odd to the bit, and keeps its digits where the scores are small. That is for heads whose scores are known to be small
(`blocked` says how); the rows of others are shifted first, as there.

The backward pass computes tiles anew and needs neither output nor log-sum-exp of the forward pass: its rows are whole. One thread takes all
queries of a key head, so that nothing is added in an order that changes from run to run.
"""

import ctypes
import math
from typing import Any

import torch
from torch import Tensor

from ..call import JointRows
from .blocked import PLAIN_LIMIT, BlockedGradients, BlockedProblem
from .build import native_library, why_no_library

NATIVE_TILE = 1 << 19
NATIVE_ROWS = 128
# Always said, as the library writes there: torch's defaults may be set otherwise.
PLACE: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}

POINTERS = (
    *("query", "key", "value", "grad_output", "polarity", "log_polarity", "low", "high", "keep", "plain"),
    *("joint_lse", "joint_delta", "output", "lse", "grad_query", "grad_key", "grad_value", "grad_polarity", "scratch"),
)
STEPS = {"query": 3, "key": 3, "value": 3, "grad_output": 3, "keep": 4, "polarity": 2}
NUMBERS = ("batch", "heads", "kv_heads", "queries", "keys", "width", "value_width", "rows", "threads", "share", "balanced")


class NativeCall(ctypes.Structure):
    """`Call` in `attention.cpp`, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((f"{name}_steps", ctypes.c_int64 * count) for name, count in STEPS.items()),
        *((name, ctypes.c_int64) for name in NUMBERS),
        ("scale", ctypes.c_double),
    )


def why_not_native(problem: BlockedProblem) -> str | None:
    """Why the C++ operator does not compute this call, as the end of a sentence; None if it does. Raises as `native_library`."""
    if problem.exact != torch.float32:
        return f"computes in float32, not in {problem.exact}"
    added = problem.bias is not None or problem.additive_mask is not None
    if added or problem.softcap is not None or problem.dropout_p > 0.0:
        return "has no bias, no additive mask, no softcap and no dropout"
    if 0 in (*problem.query.shape, *problem.key.shape, *problem.value.shape):
        return "computes nothing from empty tensors"
    if not bool(torch.isfinite(problem.bounds).all()):
        return "needs queries, keys and log-polarities that bound the scores by a finite number"
    return why_no_library()


def native_rows(queries: int, keys: int) -> int:
    """Queries per tile: about `NATIVE_TILE` scores, but 16 to `NATIVE_ROWS` queries."""
    return max(1, min(queries, NATIVE_ROWS, max(16, NATIVE_TILE // max(1, keys))))


def native_forward(problem: BlockedProblem) -> tuple[Tensor, Tensor]:
    """As `blocked.blocked_forward`."""
    shape = (problem.batch, problem.heads, problem.queries)
    output = torch.zeros(*shape, problem.value.shape[3], **PLACE)
    lse = torch.full((0,) if problem.balanced else shape, math.inf, **PLACE)
    _call_library("hf_tanhmax_forward", problem, None, tiles=1, spare=1, output=output, lse=lse)
    return output, lse


def native_backward(
    problem: BlockedProblem, grad_output: Tensor, joint: JointRows | None = None, *, polarity: bool = False
) -> BlockedGradients:
    """As `blocked.blocked_backward`; there is neither bias nor additive mask."""
    query, key, value = (torch.zeros(tensor.shape, **PLACE) for tensor in (problem.query, problem.key, problem.value))
    sums = torch.zeros(problem.batch, problem.heads, problem.queries, **PLACE) if polarity else None
    tensors = {"grad_query": query, "grad_key": key, "grad_value": value, "grad_polarity": sums}
    if joint is not None:
        tensors |= {"joint_lse": _by_row(problem, joint.lse), "joint_delta": _by_row(problem, joint.delta)}
    spare = problem.value.shape[3] + 1
    _call_library("hf_tanhmax_backward", problem, grad_output.to(torch.float32), tiles=3, spare=spare, **tensors)
    return BlockedGradients(query, key, value, None, None, None if sums is None else sums.sum((0, 2)))


def _call_library(
    function: str, problem: BlockedProblem, grad_output: Tensor | None, *, tiles: int, spare: int, **results: Tensor | None
) -> None:
    """Call a function of the library.

    Scratch memory of each thread: `tiles` tiles, `spare` numbers more for each of their rows, and two rows more if the shift is balanced.
    """
    by_query = _by_query(problem, grad_output)
    batch, heads, queries, width = by_query["query"].shape
    rows, threads, balanced = native_rows(queries, problem.keys), torch.get_num_threads(), problem.balanced
    share = rows * (tiles * problem.keys + spare) + 2 * balanced * problem.keys
    held = results | by_query
    held |= {"key": _dense_rows(problem.key), "value": _dense_rows(problem.value), "plain": (problem.bounds < PLAIN_LIMIT).contiguous()}
    held["scratch"] = torch.empty(threads * share, **PLACE)
    sizes = {"batch": batch, "heads": heads, "kv_heads": problem.kv_heads, "queries": queries, "keys": problem.keys}
    sizes |= {"width": width, "value_width": problem.value.shape[3], "rows": rows, "threads": threads, "share": share}
    call = NativeCall(**sizes, balanced=balanced, scale=problem.scale)
    for name, tensor in held.items():
        if tensor is not None:
            setattr(call, name, tensor.data_ptr())
            if name in STEPS:
                getattr(call, f"{name}_steps")[:] = tensor.stride()[: STEPS[name]]
    getattr(native_library(), function)(ctypes.byref(call))


def _by_query(problem: BlockedProblem, grad_output: Tensor | None) -> dict[str, Tensor]:
    """What is by head and query. A group's heads with a single query become one head with as many queries: their keys are read once."""
    low, high = problem.mask.row_ranges(problem.query.device)
    found = {"query": problem.query, "log_polarity": problem.log_polarity[:, None].expand(problem.heads, problem.queries)}
    if grad_output is not None:
        found["grad_output"] = grad_output
    if problem.mask.keep is not None:
        found["keep"] = problem.mask.keep.expand(problem.batch, problem.heads, problem.queries, problem.keys)
    if problem.queries == 1:
        low, high = (ends.repeat(problem.groups) for ends in (low, high))
        for name, tensor in found.items():
            dim = tensor.dim() // 4
            found[name] = tensor.unflatten(dim, (problem.kv_heads, problem.groups)).squeeze(dim + 2)
    for name in found.keys() & {"query", "grad_output"}:
        found[name] = _dense_rows(found[name])
    log_polarity = found["log_polarity"].contiguous()
    return found | {"low": low, "high": high, "log_polarity": log_polarity, "polarity": torch.exp(log_polarity)}


def _by_row(problem: BlockedProblem, rows: Tensor) -> Tensor:
    """`[batch, heads, queries]` as the library has it, dense; a group's heads with a single query lie as its queries anyway."""
    return rows.expand(problem.batch, problem.heads, problem.queries).contiguous()


def _dense_rows(tensor: Tensor) -> Tensor:
    """`[entries, heads, length, width]` with the numbers of a row side by side and no row over another, copied if need be."""
    dense = tensor.stride(3) == 1 and tensor.stride(2) >= tensor.shape[3]
    return tensor if dense else tensor.contiguous()
