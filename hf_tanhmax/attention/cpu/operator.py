r"""TanhMax attention on the CPU by the C++ operator: which calls it computes, how it computes them, and the call.

It computes a call if none of these holds; else, and where there is no library (`build`), `blocked` does. Both give the same, to rounding.
Nothing is tried: the reasons are known before.

* float64, which it does not compute;
* a tensor without elements;
* no finite bound of the scores (`BlockedProblem.bounds`): NaN, infinity, or lengths whose squares overflow; or an additive mask with NaN or
  with infinity above 0.

It computes in float32. Whole rows of scores are held, for `NativeSizes.rows` queries of one head and each thread, and three times in the
backward pass: memory grows with the length, not with its square.

A tile is a block of queries of one head, times all keys that any of them may see. Its scores, its product with the values and, in the
backward pass, the three products of the gradients are matrix products. Where the processor multiplies bfloat16 numbers itself (AMX,
AVX512-BF16), those of a bfloat16 call are oneDNN's `brgemm`, with sums in float32 and weights rounded to bfloat16 after P - N is formed,
for which shorter polynomials do (`half.h`, `PlainShort` in `rows.h`); else
they are `sgemm_`, for which numbers of bfloat16 and float16 are widened as they are needed: those of a tile's queries, and
keys and values once for each key head. So no weight is rounded to float16, whose range those without a denominator would leave. torch's own
library exports both. For up to
`FEW_QUERIES` queries the forward pass reads keys and values once, where they lie, by as many threads as there are (`few.h`): only then
does the number of threads change the last digits.

Between the products each row is passed over once, with both exponentials of a score from one split of the exponent :math:`x = n + f`,
`n` whole, :math:`f^2 \le 1/4`. With the even and odd parts of :math:`2^f` as polynomials :math:`e` and :math:`o` in :math:`f`,

.. math:: P = 2^n (e + o), \quad N = p\,2^{-n} (e - o), \quad W' = P - N.

So the map is odd to the bit, and keeps its digits where the scores are small. That is for heads whose scores are known to be small
(`blocked` says how); the rows of others are shifted first, as there.

The backward pass computes tiles anew and needs neither output nor log-sum-exp of the forward pass: its rows are whole. One thread takes all
queries of a key head, so that nothing is added in an order that changes from run to run.
"""

import ctypes
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..call import JointRows
from .blocked import BlockedGradients
from .build import native_library, why_no_library
from .problem import BlockedProblem
from .sizes import NativeSizes, packs_apart

KINDS = (torch.float32, torch.bfloat16, torch.float16)  # by the numbers that the library has for them
KEPT = 1024  # prepared calls: all layers of a model have one, another for each length of a cache
FEW_QUERIES = 8  # for which keys and values are read where they lie
# Always said, as the library writes there: torch's defaults may be set otherwise.
PLACE: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}

POINTERS = (
    *("query", "key", "value", "grad_output", "log_polarity", "low", "high", "keep", "bias", "additive", "plain"),
    *("joint_lse", "joint_delta", "output", "lse", "grad_query", "grad_key", "grad_value", "grad_polarity"),
    *("grad_bias", "grad_additive", "partial", "scratch", "packed"),
)
STEPS = {"query": 3, "key": 3, "value": 3, "grad_output": 3, "keep": 3, "log_polarity": 2}
STEPS |= dict.fromkeys(("bias", "additive", "grad_bias", "grad_additive"), 4)
NUMBERS = (
    *("batch", "heads", "kv_heads", "queries", "keys", "width", "value_width"),
    *("rows", "threads", "share", "tile_size", "packed_share", "apart", "kind", "half", "balanced", "is_signed"),
    *("causal", "window", "offset", "position_step", "seed", "dropped"),
)


class NativeCall(ctypes.Structure):
    """`Call` in `attention.cpp`, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((f"{name}_steps", ctypes.c_int64 * count) for name, count in STEPS.items()),
        *((name, ctypes.c_int64) for name in NUMBERS),
        *((name, ctypes.c_double) for name in ("scale", "softcap", "bias_bound")),
    )


def why_not_native(problem: BlockedProblem) -> str | None:
    """Why the C++ operator does not compute this call, as the end of a sentence; None if it does. Raises as `native_library`."""
    reason = _why_declined(problem) or why_no_library()
    if reason is None and not bool(torch.isfinite(problem.products + problem.bounds).all()):
        reason = "needs queries, keys, log-polarities and a bias that bound the scores by a finite number"
    if reason is None and not _added_is_finite(problem):
        reason = "needs an additive mask without NaN and without infinity above 0"
    return reason


def _why_declined(problem: BlockedProblem) -> str | None:
    """As `why_not_native`, before any number is read, and whether or not there is a library."""
    if problem.exact != torch.float32:
        return f"computes in float32, not in {problem.exact}"
    if any(0 in tensor.shape for tensor in problem.given.values()):
        return "computes nothing from empty tensors"
    return None


def _library_for(problem: BlockedProblem) -> ctypes.CDLL | None:
    """The library, if it may compute this call: it looks at queries, keys and log-polarities itself."""
    library = native_library()
    return None if library is None or _why_declined(problem) is not None or not _added_is_finite(problem) else library


def _added_is_finite(problem: BlockedProblem) -> bool:
    """Whether bias and additive mask are finite, but for keys that the mask hides by -inf."""
    highest = 0.0 if problem.additive_mask is None else float(problem.additive_mask.amax())
    return math.isfinite(problem.bias_bound) and highest < math.inf


def native_sizes(problem: BlockedProblem, library: ctypes.CDLL, *, backward: bool = False) -> NativeSizes:
    """The sizes of a call that the library computes."""
    few, dtype = problem.queries <= FEW_QUERIES and not backward, problem.given["query"].dtype
    half = dtype == torch.bfloat16 and not few and bool(library.hf_tanhmax_half())
    lengths = problem.groups if _joins_heads(problem) else problem.queries, problem.keys, problem.width, problem.value_width
    capped, faded = problem.softcap is not None, problem.additive_mask is not None
    return _sizes(*lengths, problem.balanced, dtype, half, few, capped, faded)


_sizes = lru_cache(maxsize=KEPT)(NativeSizes)  # every layer of a model has the same


def _joins_heads(problem: BlockedProblem) -> bool:
    """Whether a group's heads, of one query each, are computed as one head with as many queries, so that their keys are read once."""
    return problem.queries == 1 and problem.groups > 1


def native_forward(problem: BlockedProblem) -> tuple[Tensor, Tensor] | None:
    """As `blocked.blocked_forward`, or None if the operator does not compute the call. Its output is in the dtype of the query."""
    library = _library_for(problem)
    if library is None:
        return None
    shape, sizes = (problem.batch, problem.heads, problem.queries), native_sizes(problem, library)
    output = torch.empty(*shape, problem.value_width, dtype=sizes.dtype, device="cpu")
    lse = torch.empty((0,) if problem.balanced else shape, **PLACE)
    done = _called(library.hf_tanhmax_forward, problem, None, sizes, output=output, lse=lse)
    return (output, lse) if done else None


def native_backward(
    problem: BlockedProblem,
    grad_output: Tensor,
    joint: JointRows | None = None,
    *,
    bias: bool = False,
    additive_mask: bool = False,
    polarity: bool = False,
) -> BlockedGradients | None:
    """As `blocked.blocked_backward`, or None as `native_forward`."""
    library = _library_for(problem)
    if library is None:
        return None
    sizes, shape = native_sizes(problem, library, backward=True), (problem.batch, problem.heads, problem.queries)
    query = torch.empty(*shape, problem.width, dtype=sizes.dtype, device="cpu")
    sums = torch.empty(*shape, **PLACE) if polarity else None
    key, value = (
        torch.zeros(problem.batch, problem.kv_heads, *sizes.by_key(width), **PLACE) for width in (problem.width, problem.value_width)
    )
    added = {"grad_bias": problem.bias if bias else None, "grad_additive": problem.additive_mask if additive_mask else None}
    added = {name: None if tensor is None else torch.zeros(tensor.shape, **PLACE) for name, tensor in added.items()}
    tensors = {"grad_query": query, "grad_key": key, "grad_value": value, "grad_polarity": sums} | added
    if joint is not None:
        tensors |= {"joint_lse": _by_row(problem, joint.lse), "joint_delta": _by_row(problem, joint.delta)}
    if not _called(library.hf_tanhmax_backward, problem, grad_output.to(sizes.dtype), sizes, **tensors):
        return None
    if sizes.half:
        key, value = (tensor.transpose(2, 3)[:, :, : problem.keys] for tensor in (key, value))
        key, value = key[..., : problem.width], value[..., : problem.value_width]
    found = (added["grad_bias"], added["grad_additive"], None if sums is None else sums.sum((0, 2)))
    return BlockedGradients(query, key, value, *found)


class Settings(NamedTuple):
    """What of a call is no tensor and no seed; `groups` are query heads of a key head as the library has them (`_joins_heads`)."""

    sizes: NativeSizes
    backward: bool
    batch: int
    kv_heads: int
    groups: int
    threads: int
    is_signed: bool
    causal: bool
    window: int
    offset: int
    position_step: bool
    scale: float
    softcap: float


class Prepared(NamedTuple):
    """A call without its tensors; how many numbers of scratch memory it wants and, of few queries, of results by parts of the keys.

    `packed` is where packed keys and values begin in the scratch memory, in bytes.
    """

    call: NativeCall
    scratch: int
    partial: int
    packed: int


@lru_cache(maxsize=KEPT)
def _prepared(settings: Settings) -> Prepared:
    sizes, backward, threads, heads = settings.sizes, settings.backward, settings.threads, settings.kv_heads * settings.groups
    share, packed_share = sizes.share(backward=backward), sizes.packed_share(backward=backward)
    numbers = {name: value for name, value in settings._asdict().items() if name not in ("sizes", "backward", "groups")}
    numbers |= {name: getattr(sizes, name) for name in ("queries", "keys", "width", "value_width", "rows", "balanced", "half")}
    numbers |= {"heads": heads, "share": share, "packed_share": packed_share, "tile_size": sizes.tile, "kind": KINDS.index(sizes.dtype)}
    key_heads = settings.batch * settings.kv_heads
    numbers["apart"] = packs_apart(key_heads, threads)
    packed = (threads if numbers["apart"] else key_heads) * packed_share
    return Prepared(NativeCall(**numbers), threads * share + packed, sizes.partial(settings.batch * heads, threads), 4 * threads * share)


def _called(
    function: Callable[..., int], problem: BlockedProblem, grad_output: Tensor | None, sizes: NativeSizes, **results: Tensor | None
) -> bool:
    """Call a function of the library, and say whether it has computed."""
    mask = problem.mask
    settings = Settings(
        sizes=sizes,
        backward=grad_output is not None,
        batch=problem.batch,
        kv_heads=problem.kv_heads,
        groups=1 if _joins_heads(problem) else problem.groups,
        threads=torch.get_num_threads(),
        is_signed=problem.signed,
        causal=mask.causal,
        window=mask.window or 0,
        offset=mask.offset,
        position_step=sizes.queries == problem.queries,
        scale=problem.scale,
        softcap=problem.softcap or 0.0,
    )
    prepared = _prepared(settings)
    held = results | _by_query(problem, grad_output, results) | {name: _dense_rows(problem.given[name]) for name in ("key", "value")}
    held["plain"] = torch.empty(problem.batch * problem.kv_heads, dtype=torch.uint8, device="cpu")
    held["partial"] = torch.empty(prepared.partial, **PLACE) if sizes.few else None
    held["scratch"] = scratch = torch.empty(prepared.scratch, **PLACE)
    call = NativeCall.from_buffer_copy(prepared.call)
    call.seed, call.dropped, call.bias_bound = problem.seed, problem.dropped, problem.bias_bound
    call.packed = scratch.data_ptr() + prepared.packed
    for name, tensor in held.items():
        if tensor is not None:
            setattr(call, name, tensor.data_ptr())
            if name in STEPS:
                getattr(call, f"{name}_steps")[:] = tensor.stride()[: STEPS[name]]
    return function(ctypes.byref(call)) == 0


def _by_query(problem: BlockedProblem, grad_output: Tensor | None, results: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """What is by head and query, the heads of a group joined if `_joins_heads`."""
    found = {"query": problem.given["query"]}
    if problem.polarity is not None:
        found["log_polarity"] = problem.log_polarity[:, None].expand(problem.heads, problem.queries)
    if grad_output is not None:
        found["grad_output"] = grad_output
    by_score = {"keep": _side_by_side(problem.mask.keep, problem.keys), "bias": problem.bias, "additive": problem.additive_mask}
    by_score |= {name: results.get(name) for name in ("grad_bias", "grad_additive")}
    for name, tensor in by_score.items():
        if tensor is not None:
            read = _readable(tensor) if name in ("bias", "additive") else tensor
            found[name] = read.expand(problem.batch, problem.heads, problem.queries, problem.keys)
    if _joins_heads(problem):
        for name, tensor in found.items():
            dim = tensor.dim() // 4
            found[name] = tensor.unflatten(dim, (problem.kv_heads, problem.groups)).squeeze(dim + 2)
    for name in found.keys() & {"query", "grad_output"}:
        found[name] = _dense_rows(found[name])
    if problem.mask.segments is not None:
        found["low"], found["high"] = problem.mask.row_ranges(found["query"].device)
    return found


def _by_row(problem: BlockedProblem, rows: Tensor) -> Tensor:
    """`[batch, heads, queries]` as the library has it, dense; a group's heads with a single query lie as its queries anyway."""
    return rows.expand(problem.batch, problem.heads, problem.queries).contiguous()


def _side_by_side(keep: Tensor | None, keys: int) -> Tensor | None:
    """A mask, each number once, with what it says of a query's keys side by side; copied if need be."""
    if keep is None:
        return None
    keep = _once(keep)
    if keep.shape[3] == keys and (keep.stride(3) == 1 or keys == 1):
        return keep
    return keep.expand(*keep.shape[:3], keys).contiguous()


def _readable(added: Tensor) -> Tensor:
    """In float32, each number once, those of a row side by side; copied if need be."""
    added = _once(added).to(torch.float32)
    return added if added.stride(3) == 1 or added.shape[3] == 1 else added.contiguous()


def _once(tensor: Tensor) -> Tensor:
    """A tensor with each of its numbers once: of length 1 where it was repeated."""
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _dense_rows(tensor: Tensor) -> Tensor:
    """`[entries, heads, length, width]` with the numbers of a row side by side and no row over another, copied if need be."""
    dense = tensor.stride(3) == 1 and tensor.stride(2) >= tensor.shape[3]
    return tensor if dense else tensor.contiguous()
