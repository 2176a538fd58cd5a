"""Launches the forward and backward kernels: arguments, grids and results. Nothing here copies from host to device or waits for it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor
from triton.testing import do_bench
from triton.tools.tensor_descriptor import TensorDescriptor

from ..mask import AttentionMask
from ..sharing import shared
from .backward import bias_kernel, delta_kernel, key_value_kernel, query_kernel
from .forward import forward_kernel
from .interpreter import faithful
from .layout import ALIGN, Layout, Numbers, broadcast_strides, launch_constants, launch_numbers
from .masks import NO_MASK, PackedMask, pack_mask
from .primitives import LOG2E
from .schedule import Kernel, Tile, adds_atomically, autotuning, fastest, group_splits, length_bucket, padded_size, splits_products, tiles
from .shift import NORM_BLOCK, norm_kernel
from .support import capability, multiprocessors
from .tuned import tuned_tile

# What a kernel is compiled for, besides its tile and which tensors there are.
FEATURES = ("BLOCK_DIM", "BLOCK_VALUE", "PRECISION", "POLARITY", "CAUSAL", "WINDOW", "CAPPED", "DROPOUT", "ADDITIVE", "BALANCED")
Argument: TypeAlias = Tensor | TensorDescriptor | int | float | str | None
LONGEST_ROW_STRIDE = 1 << 23  # a row stride in elements; offsets within a tile are 32-bit


@dataclass
class FusedProblem:
    """One attention call. Shapes are those of `tanhmax_attention`; `polarity` is `[heads]`, or None at polarity 0 and 1.

    It is the logarithm of the polarity, or the polarity itself if `balanced`. `signed` without it is polarity 1, not signed is polarity 0
    (softmax); `seed` is an int64 scalar on the device. `exact` is decided once, by the forward pass (`is_exact`): torch's setting may be
    another one when the gradient is computed. If `additive`, the bias is an additive mask: the two share a pointer.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    polarity: Tensor | None
    signed: bool
    visibility: AttentionMask
    bias: Tensor | None
    scale: float
    softcap: float | None
    dropout_p: float
    seed: Tensor | None
    exact: bool
    additive: bool = False
    balanced: bool = False

    def __post_init__(self) -> None:
        self.query, self.key, self.value = _rows(self.query), _rows(self.key), _rows(self.value)
        self.batch, self.heads, self.queries, self.dim = self.query.shape
        _, self.kv_heads, self.keys, self.value_dim = self.value.shape
        self.layout = self._layout()

    @property
    def keep_bytes(self) -> Tensor | None:
        """The boolean mask as the kernels read it that take bytes."""
        keep = self.visibility.keep
        return None if keep is None else keep.view(torch.uint8)

    def run(self, kernel: Kernel, launch: Callable[[Tile], None]) -> None:
        """Launch a kernel with the default tile, with that of the user's file (`tuned`), or (HF_TANHMAX_AUTOTUNE=1) with the fastest."""
        table = tiles(kernel, max(self.dim, self.value_dim), self.query.element_size(), capability(self.query.device))
        if len(table) == 1:
            return launch(table[0])
        absent = (self.visibility.keep is None, self.visibility.segments is None, self.bias is None)
        if not autotuning():
            tuned = tuned_tile(kernel, self.layout, self.query, absent)
            return launch(tuned if tuned is not None and self.fits(tuned) else self._default(table))
        rows = tuple(tile for tile in table if self.fits(tile))
        compiled = tuple(self.constants(rows[0])[name] for name in FEATURES)
        lengths = (length_bucket(self.queries), length_bucket(self.keys))
        key = (kernel, str(self.query.device), self.query.dtype, self.exact, *absent, *compiled, *lengths, rows)
        return launch(fastest(key, rows, launch, do_bench) if len(rows) > 1 else rows[0])

    def _default(self, table: tuple[Tile, ...]) -> Tile:
        """The first tile that is for such calls; where there is none, the first that this call may have."""
        rounded, crowded = self.rounded, self.crowded
        for tile in table:
            if tile.rounded == rounded and tile.crowded == crowded and self.fits(tile):
                return tile
        return next(filter(self.fits, table))

    def fits(self, tile: Tile) -> bool:
        """Whether this call may have a tile.

        A static shift wants polarity 1, no balanced shift, no bias or additive mask (whose size nobody bounds) and weights that hold 2^60,
        which float16 does not; the polynomial wants weights that are rounded to bfloat16. A descriptor wants what `_describable` says.
        `reduced` has tiles of its own.
        """
        if tile.described and not (self.alignment == ALIGN and _describable(self.key) and _describable(self.value)):
            return False
        if tile.polynomial and self.query.dtype != torch.bfloat16:
            return False
        if tile.reduced or (tile.rounded and not self.rounded):
            return False
        bounded = self.signed and not self.balanced and self.query.dtype != torch.float16
        bounded = bounded and self.polarity is None and self.bias is None
        return bounded or not tile.static

    def reduced(self, *, polarity: bool) -> Tile | None:
        """The tile with which one kernel does the whole backward pass, if the user asks for that, and there is one for this call.

        It adds dQ up in float32 in no certain order. It neither finds the gradient of log p, nor what exact float32 needs.
        """
        if (polarity and not self.balanced) or self.exact or not adds_atomically() or self.dim % 4:
            return None
        rows = tiles("key_value", max(self.dim, self.value_dim), self.query.element_size(), capability(self.query.device))
        return next((tile for tile in rows if tile.reduced), None)

    @property
    def rounded(self) -> bool:
        """Whether tensor cores multiply float32."""
        return self.layout.precision != "ieee"

    @property
    def crowded(self) -> bool:
        """Whether registers hold more than the scores and a mask of bits."""
        return self.bias is not None or self.dropout_p > 0 or self.softcap is not None or self.visibility.segments is not None

    def norms(self) -> Tensor:
        """The largest squared norms of the keys by blocks of `NORM_BLOCK`, float32 `[batch * kv_heads, blocks]`."""
        blocks = math.ceil(self.keys / NORM_BLOCK.value)
        norms = self.key.new_empty((self.batch * self.kv_heads, blocks), dtype=torch.float32)
        if norms.numel():
            strides = [stride // self.alignment for stride in self.row_strides[3:6]]
            block_dim = padded_size(self.dim)
            norm_kernel[norms.numel(),](
                self.key, norms, *strides, self.keys, self.kv_heads, self.dim, block_dim, self.alignment, NORM_BLOCK.value, num_warps=8
            )  # fmt: skip
        return norms

    @cached_property
    def bounds(self) -> tuple[Tensor | None, Tensor | None]:
        """Where the packed sequence of each position begins and ends, int32 `[keys]`."""
        segments = self.visibility.segments
        if segments is None:
            return None, None
        starts = torch.searchsorted(segments, segments, out_int32=True)
        return starts, torch.searchsorted(segments, segments, right=True, out_int32=True)

    @property
    def row_strides(self) -> tuple[int, ...]:
        """Strides of query, key and value by batch entry, head and row."""
        return (*self.query.stride()[:3], *self.key.stride()[:3], *self.value.stride()[:3])

    @property
    def alignment(self) -> int:
        """What all strides and sizes are multiples of: `ALIGN`, or 1. It does not change with the lengths of dense tensors."""
        return self.layout.alignment

    def _layout(self) -> Layout:
        """Sizes, strides and numbers of the call."""
        seen = self.visibility
        sizes = (self.batch, self.heads, self.queries, self.dim, self.kv_heads, self.keys, self.value_dim)
        return Layout(
            *sizes, self.row_strides, broadcast_strides(self.bias), broadcast_strides(seen.keep),
            seen.causal, seen.offset, seen.window, self.scale, self.softcap, self.dropout_p,
            polarity=2 if self.polarity is not None and not self.balanced else int(self.signed),
            single=self.query.dtype == torch.float32, exact=self.exact, split=self.exact and splits_products(),
            additive=self.additive, balanced=self.balanced,
        )  # fmt: skip

    def arguments(self, tile: Tile) -> dict[str, Argument]:
        """The arguments that every kernel takes, but for decoding."""
        found: dict[str, Argument] = {**launch_numbers(self.layout, tile)}
        packed = NO_MASK if self.visibility.keep is None else self.packed_mask
        for more in (packed.tensors, packed.strides, self.tensors):
            found.update(more)
        found["STARTS"], found["ENDS"] = (None, None) if self.visibility.segments is None else self.bounds
        found["SEED"] = self.seed
        return found

    @property
    def tensors(self) -> dict[str, Tensor | None]:
        """The tensors that every kernel takes, whatever its tile, but for the mask."""
        log_p = self.polarity
        if log_p is not None:
            log_p = log_p.float() if self.exact or self.balanced else log_p.float() * LOG2E.value
        return {"Q": self.query, "K": self.key, "V": self.value, "BIAS": self.bias, "LOG_P": log_p}

    @property
    def polarities(self) -> Tensor:
        """The polarities of a balanced call, float32 `[heads or 1, 1]`."""
        return self.query.new_ones((1, 1), dtype=torch.float32) if self.polarity is None else self.polarity.float()[:, None]

    def constants(self, tile: Tile) -> Numbers:
        """What a kernel is compiled for: no length is among it."""
        return launch_constants(self.layout, tile)

    @cached_property
    def packed_mask(self) -> PackedMask:
        """The boolean mask as the kernels read it; one launch per pass, in the interpreter one for all layers."""
        keep = self.visibility.keep
        return NO_MASK if keep is None else shared(keep, "packed", lambda: pack_mask(keep))


def is_exact(tensor: Tensor) -> bool:
    """Whether a call is computed in full float32 precision: torch multiplies so unless it was told that TF32 is enough.

    This attribute knows what either of torch's two ways to say so has said; the function of the older way raises once the newer was used.
    """
    return tensor.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32"


@faithful()
def launch_forward(problem: FusedProblem) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output `[batch, heads, queries, value_dim]` (a transposed view of `[batch, queries, heads, value_dim]`), and L in float32.

    For float32 inputs that are multiplied exactly the third tensor is `[2, batch, heads, queries]`, the statistics that the backward pass
    needs; else it is None. With a balanced shift there are two L of each row, so that both are `[2, ..]` once more, and what is else None
    is the output of the negative half.
    """
    output, lse, stats = outputs(problem.query, problem.value, balanced=problem.balanced)
    programs = problem.batch * problem.heads
    if programs * problem.queries == 0:
        return output, lse, stats

    def _launch(tile: Tile) -> None:
        arguments = problem.arguments(tile)
        arguments["O"], arguments["LSE"] = output, lse
        arguments["STATS"], arguments["OPPOSITE"] = (stats, None) if problem.exact else (None, stats if problem.balanced else None)
        arguments["NORMS"] = problem.norms() if tile.static else None
        arguments["POLYNOMIAL"], arguments["DESCRIBED"] = tile.polynomial, tile.described
        if tile.described:
            arguments |= {"K": _described(problem.key, tile.columns), "V": _described(problem.value, tile.columns)}
        forward_kernel[math.ceil(problem.queries / tile.rows) * programs,](**arguments)

    problem.run("balanced" if problem.balanced else "forward", _launch)
    return output, lse, stats


def _describable(tensor: Tensor) -> bool:
    """Whether the hardware's descriptors can tell of a tensor: 16-byte addresses and strides, none of these 0, and no empty dimension."""
    size = tensor.element_size()
    aligned = tensor.data_ptr() % 16 == 0 and all(stride > 0 and stride * size % 16 == 0 for stride in tensor.stride()[:3])
    return aligned and tensor.stride(3) == 1 and tensor.numel() > 0


def _described(tensor: Tensor, columns: int) -> TensorDescriptor:
    """A descriptor of `[batch, heads, length, dim]` that loads `columns` rows of a head; what lies beyond its bounds is 0."""
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [1, 1, columns, padded_size(tensor.shape[3])])


def outputs(query: Tensor, value: Tensor, *, balanced: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Empty results in the layout of `launch_forward`."""
    batch, heads, queries, _ = query.shape
    shape = (2, batch, heads, queries) if balanced else (batch, heads, queries)
    lse = query.new_empty(shape, dtype=torch.float32)
    output, exact = dense(query, value.shape[3]), is_exact(query)
    if exact:
        return output, lse, query.new_empty((2, *shape), dtype=torch.float32)
    return output, lse, dense(query, value.shape[3]) if balanced else None


def was_exact(statistics: Tensor | None, *, balanced: bool) -> bool:
    """Whether these are the statistics of a forward pass in full float32 precision."""
    return statistics is not None and statistics.dim() == (5 if balanced else 4)


def dense(like: Tensor, dim: int) -> Tensor:
    """An empty `[batch, heads, length, dim]` that lies in memory as `[batch, length, heads, dim]`, as Transformers wants it next."""
    batch, heads, length, _ = like.shape
    return like.new_empty_strided((batch, heads, length, dim), (length * heads * dim, dim, heads * dim, 1))


@dataclass
class FusedGradients:
    """What `launch_backward` returns; None where nothing was asked for."""

    query: Tensor
    key: Tensor
    value: Tensor
    polarity: Tensor | None
    bias: Tensor | None


@faithful()
def launch_backward(
    problem: FusedProblem,
    grad_output: Tensor,
    output: Tensor,
    lse: Tensor,
    stats: Tensor,
    joint_delta: Tensor | None = None,
    *,
    polarity: bool,
    bias: bool,
) -> FusedGradients:
    """Gradients in the dtypes of their tensors (polarity: float32), from that of the output; the flags ask for two of them.

    With a `joint_delta`, D, L and the statistics are those over more keys than these.
    """
    grad_query, grad_key, grad_value = (dense(tensor, tensor.shape[3]) for tensor in (problem.query, problem.key, problem.value))
    grad_output, lse = grad_output.transpose(1, 2).contiguous(), lse.contiguous()
    if joint_delta is not None:
        delta = joint_delta.contiguous()
    else:
        delta = torch.empty_like(lse) if problem.exact else _row_products(problem, grad_output, output, stats)
    passes = 2 if problem.exact and joint_delta is None else 1
    by_row = torch.zeros_like(lse) if polarity and not problem.balanced else None
    shared = {"GRAD": grad_output, "LSE": lse, "STATS": stats if problem.exact else None, "DELTA": delta}
    reduced = problem.reduced(polarity=polarity)
    summed = lse.new_zeros(grad_query.transpose(1, 2).shape).transpose(1, 2) if reduced else None
    if lse.numel() and not reduced:
        results = {"DQ": grad_query.transpose(1, 2), "D_LOG_P": by_row, "PASSES": passes, "factor": problem.scale}

        def _launch_rows(tile: Tile) -> None:
            arguments = problem.arguments(tile)
            query_kernel[math.ceil(problem.queries / tile.rows) * problem.batch * problem.heads,](**arguments, **shared, **results)

        problem.run("query", _launch_rows)
    if problem.batch * problem.keys:
        into = {"DK": grad_key.transpose(1, 2), "DV": grad_value.transpose(1, 2)}

        def _launch_columns(tile: Tile) -> None:
            arguments = problem.arguments(tile)
            arguments["SUM_Q"] = None if summed is None or not summed.numel() else _described(summed, tile.rows)
            programs = math.ceil(problem.keys / tile.columns) * problem.batch * problem.kv_heads
            splits = group_splits(programs, problem.heads // problem.kv_heads, problem.queries, multiprocessors(problem.query.device))
            parts = {name: _parts(whole, splits) for name, whole in into.items()}
            key_value_kernel[programs * splits,](**arguments, **shared, **parts, splits=splits, factor=problem.scale)
            for name, whole in into.items() if splits > 1 else ():
                whole.copy_(parts[name].sum(1))

        if reduced:
            _launch_columns(reduced)
        else:
            problem.run("key_value", _launch_columns)
    if summed is not None:
        grad_query.copy_(summed)
    by_head = None if by_row is None else by_row.sum((0, 2))
    if polarity and problem.balanced:
        by_head = -delta.sum((0, 1, 3)) / (1.0 + problem.polarities.flatten()) ** 2
    return FusedGradients(grad_query, grad_key, grad_value, by_head, _bias_gradient(problem, shared) if bias else None)


def _parts(whole: Tensor, splits: int) -> Tensor:
    """The tensor itself, or room for the parts of it that several programs compute, float32 `[batch, splits, ..]`."""
    return whole if splits == 1 else whole.new_empty((whole.shape[0], splits, *whole.shape[1:]), dtype=torch.float32)


def _row_products(problem: FusedProblem, grad_output: Tensor, output: Tensor, opposite: Tensor) -> Tensor:
    """D of each row, `[batch, heads, queries]`, or (balanced) those of both halves, `[2, ..]`, from the products of dO with the outputs."""
    sizes = (problem.batch, problem.heads, problem.queries)
    products = [grad_output.new_empty(sizes, dtype=torch.float32) for _ in range(1 + problem.balanced)]
    for tensor, product in zip((output, opposite), products, strict=False):
        if product.numel():
            delta_kernel[math.ceil(product.numel() / 64),](
                tensor.transpose(1, 2).contiguous(), grad_output, product, *sizes, problem.value_dim, padded_size(problem.value_dim), 64
            )  # fmt: skip
    if not problem.balanced:
        return products[0]
    return torch.stack([(1.0 + problem.polarities) * products[0] + problem.polarities * products[1], products[1]])


def _bias_gradient(problem: FusedProblem, shared: dict[str, Tensor | None]) -> Tensor | None:
    bias = problem.bias
    if bias is None or bias.numel() == 0 or problem.queries * problem.keys == 0:
        return None if bias is None else torch.zeros_like(bias)
    batch, heads, rows, columns = bias.shape
    tile = tiles("bias", max(problem.dim, problem.value_dim), problem.query.element_size())[0]
    blocks = math.ceil(problem.queries / tile.rows), math.ceil(problem.keys / tile.columns)
    shared_rows, shared_columns = rows < problem.queries, columns < problem.keys
    sizes = (blocks[0] if shared_rows else rows, blocks[1] if shared_columns else columns)
    partial = bias.new_empty((batch, heads, *sizes), dtype=torch.float32)
    strides = dict(zip(("out_b", "out_h", "out_m", "out_n"), partial.stride(), strict=True))
    bias_kernel[blocks[0] * blocks[1] * batch * heads,](
        **problem.arguments(tile),
        **shared,
        **strides,
        D_BIAS=partial,
        batch=problem.batch,
        bias_batch=batch,
        bias_heads=heads,
        SHARED_M=shared_rows,
        SHARED_N=shared_columns,
    )
    return partial.sum_to_size(bias.shape).to(bias.dtype)


def _rows(tensor: Tensor) -> Tensor:
    """The tensor, copied if its last dimension is not dense or its rows lie too far apart for 32-bit offsets within a tile."""
    _, _, row, element = tensor.stride()
    return tensor if element == 1 and row < LONGEST_ROW_STRIDE else tensor.contiguous()
