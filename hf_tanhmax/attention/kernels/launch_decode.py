"""Launches the decoding kernels: their arguments, grids, chunks and partial results. Nothing here waits for the device."""

from functools import lru_cache

import torch
import triton
from torch import Tensor

from ..sharing import shared
from .decode import combine_halves_kernel, combine_kernel, decode_kernel, range_kernel
from .interpreter import faithful
from .launch import Argument, FusedProblem, dense
from .layout import CACHED_LAYOUTS, Layout, Numbers, launch_numbers
from .schedule import SHORTEST, Tile, decode_kernel_for, padded_size, splits
from .support import multiprocessors

# What the decoding kernel takes of the numbers that all kernels are called with.
SHARED = frozenset((*decode_kernel.arg_names, "num_warps", "num_stages", "enable_fp_fusion"))
SCANNED_KEYS = 1024  # keys of the mask that a program looks through
COMBINED_CHUNKS = 16  # chunks that are combined at a time


@faithful()
def launch_decode(problem: FusedProblem, table: Tensor | None, bounds: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]` and L `[batch, heads, queries]`, in the layouts of `decode_outputs`.

    With a balanced shift there are two L of each row, `[2, batch, heads, queries]`.

    With a `table`, int32 or int64 `[batch, blocks]` or, if a block holds one key, `[keys of all entries]`, key and value are the blocks
    that it counts, `[blocks, kv_heads, keys of a block, dim]`, and `bounds`, `[batch + 1]`, say where each entry's keys begin.
    """
    output, lse = decode_outputs(problem.query, problem.value, balanced=problem.balanced)
    if lse.numel() == 0:
        return output, lse
    ranges = _ranges(problem)
    group = problem.heads // problem.kv_heads * problem.queries

    def _launch(tile: Tile) -> None:
        longest = _longest(problem, table)
        programs, count, known = _scheduled(problem.layout, tile, table is not None, longest, multiprocessors(problem.query.device))
        arguments: dict[str, Argument] = {**known, **problem.tensors, "KEEP": problem.keep_bytes, "RANGES": ranges}
        arguments |= {"TABLE": table, "BOUNDS": bounds}
        arguments["range_b"] = 0 if ranges is None or ranges.shape[0] == 1 else ranges.stride(0)
        arguments["chunks"] = 0 if ranges is None else ranges.shape[1]
        ragged = table is not None and table.dim() == 1
        arguments |= {"table_b": 0 if table is None or ragged else table.stride(0), "ragged": int(ragged)}
        rows, result = problem.batch * problem.heads * problem.queries, {"OUT": output.transpose(1, 2), "LSE": lse.transpose(-1, -2)}
        if count == 1:
            decode_kernel[programs,](**arguments, **result, OPPOSITE=None)
            return
        parts = output.new_empty((1 + problem.balanced, count, rows, problem.value_dim), dtype=torch.float32)
        lses = output.new_empty((1 + problem.balanced, count, rows), dtype=torch.float32)
        opposite = parts[1] if problem.balanced else None
        decode_kernel[programs * count,](**arguments, OUT=parts[0], LSE=lses, OPPOSITE=opposite)
        sizes = {"VALUE_DIM": problem.value_dim, "BLOCK_VALUE": padded_size(problem.value_dim), "BLOCK_S": COMBINED_CHUNKS}
        if problem.balanced:
            combine_halves_kernel[rows,](*parts, lses, arguments["LOG_P"], *result.values(), rows, count, problem.heads, **sizes)
        else:
            combine_kernel[rows,](parts, lses, *result.values(), rows, count, **sizes)

    problem.run(decode_kernel_for(group), _launch)
    return output, lse


def decode_outputs(query: Tensor, value: Tensor, *, balanced: bool) -> tuple[Tensor, Tensor]:
    """Empty results, both of which lie in memory as `[batch, queries, heads, ..]`."""
    batch, heads, queries = query.shape[:3]
    shape = (2, batch, queries, heads) if balanced else (batch, queries, heads)
    return dense(query, value.shape[3]), query.new_empty(shape, dtype=torch.float32).transpose(-1, -2)


@lru_cache(maxsize=CACHED_LAYOUTS)
def _scheduled(layout: Layout, tile: Tile, paged: bool, longest: int, processors: int) -> tuple[int, int, Numbers]:
    """Programs without splitting, the number of chunks of the keys, and the arguments that are no tensors; not to be changed."""
    programs = layout.batch * layout.kv_heads * triton.cdiv(layout.heads // layout.kv_heads * layout.queries, tile.rows)
    count = splits(programs, longest, processors)
    numbers = {name: item for name, item in launch_numbers(layout, tile).items() if name in SHARED}
    numbers |= {"batch": layout.batch, "splits": count, "shortest": SHORTEST, "EXACT": layout.exact, "PARTIAL": count > 1, "PAGE": 1}
    if paged:
        numbers |= {"PAGE": layout.keys, "window": min(layout.window or 0, layout.queries + longest)}
    return programs, count, numbers


def _longest(problem: FusedProblem, table: Tensor | None) -> int:
    """How many keys an entry has at most, as far as sizes tell."""
    return problem.keys if table is None else table.shape[-1] * problem.keys


def _ranges(problem: FusedProblem) -> Tensor | None:
    """Where the mask keeps any key, int32 `[batch or 1, chunks, 2]`; None if it is one for all keys."""
    keep = problem.visibility.keep
    if keep is None or keep.shape[3] == 1:
        return None
    return shared(keep, "ranges", lambda: _scanned(keep.view(torch.uint8)))


def _scanned(mask: Tensor) -> Tensor:
    batch, heads, queries, keys = mask.shape
    chunks = triton.cdiv(keys, SCANNED_KEYS)
    ranges = mask.new_empty((batch, chunks, 2), dtype=torch.int32)
    range_kernel[batch * chunks,](mask, ranges, *mask.stride(), heads, queries, keys, chunks, BLOCK_N=SCANNED_KEYS)
    return ranges
