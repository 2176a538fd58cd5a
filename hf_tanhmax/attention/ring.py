"""Context parallelism: exact attention over a sequence that the ranks of a process group share out, in memory linear in a rank's part.

Each rank keeps its queries, and keys and values go round the ring. In every step a rank computes attention of its queries over the keys
that it has at the time, while these are on their way to the next rank, and joins what it finds by the log-sum-exps (`ring_parts`). The
backward pass goes round once more, with the joint log-sum-exp and the joint product of output and gradient; the gradients of keys and
values travel with them, in float32. Of what causality, windows and packing hide, whole rectangles are not computed (`ring_layout`), and in
a zigzag layout all ranks have equally much to do.

Two doors lead here:

* `ring_attention`, by name;
* `torch.distributed.tensor.experimental.context_parallel`, which is also what `accelerate.ParallelismConfig(cp_size=...)` and through it
  the Trainer use: within it `tanhmax_attention`, and so every TanhMax model, goes through the ring.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..functional import Shift
from .call import AutogradContext, Call, Causal, Flat, OperatorInputs, autocasts
from .kernels.support import fused_unsupported
from .ring_exchange import Description, Ring, check_agreement, refusing_together, ring_of
from .ring_layout import Layout, Rectangle, Visibility, bounds_of, rectangles
from .ring_parts import Joined, as_computed, backward_part, forward_part, joint_gradient, polarity_gradient

IMPLEMENTATIONS = ("auto", "cpu", "triton")
BLOCKS, SUMS = 0, 1  # tags of messages: keys and values, and their gradients


@torch.compiler.disable
def ring_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    group: torch.distributed.ProcessGroup | None = None,
    zigzag: bool = True,
    keep: Tensor | None = None,
    is_causal: Causal = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    polarity: float | Tensor = 1.0,
    shift: Shift = None,
    cu_seqlens: Tensor | None = None,
    implementation: str = "auto",
) -> Tensor:
    """`tanhmax_attention` over a sequence of which every rank of a group holds a part; all of them call it at once.

    Args:
        query: `[batch, heads, queries, head_dim]`, this rank's.
        key: `[batch, kv_heads, keys, head_dim]`, this rank's; `kv_heads` divides `heads` (GQA), and travels as it is.
        value: `[batch, kv_heads, keys, value_dim]`.
        group: of the ranks that share the sequence; None is all.
        zigzag: how it is shared out, which matters where a position does: rank r holds chunks r and 2 n - 1 - r of 2 n, as torch's
            `context_parallel` shards, or else piece r of n.
        keep: boolean, broadcasts to `[batch, heads, 1, keys]`: which of this rank's keys take part. None is all, whatever others have.
        is_causal: hide later keys of the whole sequence; both alignments are one, as there are as many queries as keys.
        scale, window, softcap: as in `tanhmax_attention`.
        dropout_p: must be 0.
        polarity: a number in [0, 1] or a differentiable tensor `[heads]`, whose gradient is that of this rank's queries, as every
            parameter's is.
        shift: None or `"balanced"`.
        cu_seqlens: the bounds of sequences packed into the whole one, in its own order, the same on every rank: int32 or int64
            `[sequences + 1]`. They are read, so let them be on the CPU.
        implementation: `"cpu"`, `"triton"`, or `"auto"`, which is the one that belongs to the device.

    Returns:
        Output `[batch, heads, queries, value_dim]` of this rank's queries. It has first derivatives.

    Raises:
        RuntimeError: there is no process group.
        ValueError, TypeError: an argument that does not fit, or that is another one on another rank; the sentence names it.
        NotImplementedError: dropout, or tensors that neither implementation takes.
    """
    ring = ring_of(group)
    with refusing_together(ring, query.device):
        if dropout_p:
            raise NotImplementedError(
                f"ring attention has no dropout, as each rank would drop other weights of a row, but dropout_p is {dropout_p}; set it to 0"
            )
        call = Call(query, key, value, keep, None, None, is_causal, scale, window, softcap, 0.0, polarity, None, None, False, shift)
        _check_keep(call)
        kernels = _runs_kernels(implementation, call)
        layout = _checked_layout(call, ring, zigzag, cu_seqlens)
        bounds = None if cu_seqlens is None else _checked_bounds(cu_seqlens, call, layout)
        seen = Visibility(bool(is_causal), call.mask.window, bounds)
    heads_of_mask = check_agreement(ring, _described(call, layout, seen, kernels), _heads_of_mask(call), query.device)
    inputs = call.operator_inputs(kernels=kernels)
    arguments = (*inputs[:4], _padding(call, heads_of_mask), _Run(ring, layout, seen, inputs[NUMBERS:]))
    if not autocasts(query.device.type):
        return _RingAttention.apply(*arguments)
    with torch.autocast(query.device.type, enabled=False):
        return _RingAttention.apply(*arguments)


NUMBERS = OperatorInputs._fields.index("scale")


@dataclass(frozen=True)
class _Run:
    """What does not travel. `numbers` are the fields of `OperatorInputs` from the scale on."""

    ring: Ring
    layout: Layout
    seen: Visibility
    numbers: tuple[Flat, ...]

    def step(self, number: int, queries: int) -> list[Rectangle]:
        """What so many queries have to compute in a step of the ring."""
        rank, size = self.ring.rank, self.ring.size
        return rectangles(self.layout, self.seen, rank, (rank - number) % size, queries)

    def inputs(
        self, query: Tensor, block: tuple[Tensor, ...], polarity: Tensor | None, rectangle: Rectangle | None = None
    ) -> OperatorInputs:
        """The call of a rectangle, or without one that of all rows and columns, with no mask but `keep`."""
        key, value, keep = block[0], block[1], block[2].bool() if len(block) > 2 else None
        rows, columns = (slice(None), slice(None)) if rectangle is None else (slice(*rectangle.rows), slice(*rectangle.columns))
        mask = (False, 0, None) if rectangle is None else (rectangle.causal, rectangle.offset, rectangle.window)
        segments = None if rectangle is None or rectangle.segments is None else rectangle.segments.to(query.device)
        tensors = (query[:, :, rows], key[:, :, columns], value[:, :, columns], polarity, None, None)
        found = OperatorInputs(*tensors, None if keep is None else keep[..., columns], segments, None, *mask, *cast(Any, self.numbers))
        exact = [as_computed(found, tensor) for tensor in found[:3]]
        return found._replace(query=exact[0], key=exact[1], value=exact[2])


class _RingAttention(torch.autograd.Function):
    """The ring, forward and backward."""

    @staticmethod
    def forward(ctx: AutogradContext, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> Tensor:
        """After the value come the polarity and `keep` of `OperatorInputs`, and what does not travel."""
        polarity, keep, run = rest
        block: tuple[Tensor, ...] = (key.contiguous(), value.contiguous())
        if keep is not None:
            block = (*block, keep.view(torch.uint8))
        joined = Joined(run.inputs(query, block, polarity))
        first = block
        for number in range(run.ring.size):
            pending = run.ring.pass_on(block, BLOCKS) if number < run.ring.size - 1 else None
            for rectangle in run.step(number, query.shape[2]):
                joined.take(slice(*rectangle.rows), forward_part(run.inputs(query, block, polarity, rectangle)))
            if pending is not None:
                block, pending = pending.wait(), None  # which holds what was sent
        outputs = [output.to(query.dtype) for output in joined.outputs]
        ctx.save_for_backward(query, polarity, *outputs, *joined.lses, *first)
        ctx.constants = (run, len(outputs))
        return outputs[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: AutogradContext, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Keys and values go round once more, and their gradients once and home."""
        query, polarity, *saved = ctx.saved_tensors
        run, halves = ctx.constants
        outputs, lses, block = saved[:halves], saved[halves : 2 * halves], tuple(saved[2 * halves :])
        wants_polarity, size = polarity is not None and ctx.needs_input_grad[3], run.ring.size
        whole = run.inputs(query, block, polarity)
        joint = joint_gradient(whole, grad_output, outputs, lses)
        exact = lses[0].dtype
        grad_query, grad_polarity = query.new_zeros(query.shape, dtype=exact), None
        if wants_polarity:
            grad_polarity = polarity_gradient(whole, joint) if whole.balanced else lses[0].new_zeros(query.shape[1])
        coming = None
        for number in range(size):
            pending = run.ring.pass_on(block, BLOCKS) if number < size - 1 else None
            parts: list[tuple[slice, tuple[Tensor, Tensor]]] = []
            for rectangle in run.step(number, query.shape[2]):
                rows = slice(*rectangle.rows)
                inputs = run.inputs(query, block, polarity, rectangle)
                found = backward_part(inputs, joint.rows(rows), polarity=wants_polarity and not whole.balanced)
                grad_query[:, :, rows] += found.query
                parts.append((slice(*rectangle.columns), (found.key, found.value)))
                if grad_polarity is not None and found.polarity is not None:
                    grad_polarity += found.polarity
                del inputs, found
            if coming is None:
                sums = tuple(tensor.new_zeros(tensor.shape, dtype=exact) for tensor in block[:2])
            else:
                sums, coming = coming.wait(), None  # which holds what was sent
            while parts:
                columns, both = parts.pop()
                for total, part in zip(sums, both, strict=True):
                    total[:, :, columns] += part
                del both, part
            coming = run.ring.pass_on(sums, SUMS) if size > 1 else None
            if pending is not None:
                block, pending = pending.wait(), None
        if coming is not None:
            sums = coming.wait()
        grad_key, grad_value = (total.to(tensor.dtype) for total, tensor in zip(sums, block[:2], strict=True))
        return grad_query.to(query.dtype), grad_key, grad_value, grad_polarity, None, None


def _runs_kernels(implementation: str, call: Call) -> bool:
    """Whether the Triton kernels compute, else the code for CPUs."""
    if implementation not in IMPLEMENTATIONS:
        raise NotImplementedError(f"ring attention has the implementations {', '.join(IMPLEMENTATIONS)}, but not {implementation!r}")
    device = call.query.device.type
    if implementation == "auto":
        implementation = "cpu" if device == "cpu" else "triton"
    reason = fused_unsupported(call.query, call.value) if implementation == "triton" else None
    if implementation == "cpu" and device != "cpu":
        reason = f"runs on the CPU alone, but the tensors are on {call.query.device}"
    if reason is not None:
        raise NotImplementedError(f"ring attention with implementation={implementation!r} {reason}; there is no other way round the ring")
    return implementation == "triton"


def _checked_layout(call: Call, ring: Ring, zigzag: bool, cu_seqlens: Tensor | None) -> Layout:
    queries, keys = call.query.shape[2], call.key.shape[2]
    ordered = call.is_causal or call.window is not None or cu_seqlens is not None
    if ordered and queries != keys:
        raise ValueError(
            f"with causality, a window or packed sequences a rank holds as many queries as keys, but rank {ring.rank} has {queries} and "
            f"{keys}"
        )
    if ordered and zigzag and keys % 2:
        raise ValueError(
            f"a zigzag layout gives each of {ring.size} ranks two chunks of one length, but rank {ring.rank} has {keys} positions; pad the "
            f"sequence to a multiple of {2 * ring.size}, or shard it with zigzag=False"
        )
    return Layout(ring.size, keys, zigzag)


def _heads_of_mask(call: Call) -> int:
    """In how many heads this rank's mask differs: 0 without one, 1 if in none."""
    return 0 if call.mask.keep is None else call.mask.keep.shape[1]


def _padding(call: Call, heads: int) -> Tensor | None:
    """The mask of this rank's keys, dense `[batch, heads, 1, keys]`, as the others expect it; None if no rank has one."""
    if not heads:
        return None
    keep = call.query.new_ones(1, dtype=torch.bool) if call.mask.keep is None else call.mask.keep
    return keep.expand(call.query.shape[0], heads, 1, call.key.shape[2]).contiguous()


def _check_keep(call: Call) -> None:
    if call.mask.keep is not None and call.mask.keep.shape[2] != 1:
        raise NotImplementedError(
            f"in ring attention keep says which of this rank's keys take part, [batch, heads, 1, keys], but has shape "
            f"{tuple(call.mask.keep.shape)}; give causality, windows and packed sequences by their own arguments"
        )


def _checked_bounds(cu_seqlens: Tensor, call: Call, layout: Layout) -> tuple[int, ...]:
    if cu_seqlens.dim() != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be int32 or int64 [sequences + 1], but is {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}")
    if call.query.shape[0] != 1:
        raise ValueError(f"cu_seqlens packs sequences into a batch of one, but the batch is {call.query.shape[0]}")
    bounds, length = bounds_of(cu_seqlens), layout.size * layout.length
    if bounds[:1] != (0,) or bounds[-1] != length or list(bounds) != sorted(bounds):
        raise ValueError(
            f"on a ring cu_seqlens must ascend from 0 to the length of the whole sequence, {layout.size} times {layout.length}, but is "
            f"{list(bounds)}"
        )
    return bounds


def _described(call: Call, layout: Layout, seen: Visibility, kernels: bool) -> Description:
    tensors = (call.query, call.key, call.value, call.polarity)
    batch, heads, queries, head_size = call.query.shape
    return Description(
        batch=batch,
        heads=heads,
        queries=queries,
        head_size=head_size,
        key_heads=call.key.shape[1],
        keys=call.key.shape[2],
        value_size=call.value.shape[3],
        dtype=call.query.dtype,
        zigzag=layout.zigzag,
        is_causal=seen.causal,
        window=seen.window,
        packed_sequences=None if seen.bounds is None else hash(seen.bounds) >> 2,
        scale=float(call.factor),
        softcap=None if call.softcap is None else float(call.softcap),
        polarity=None if isinstance(call.polarity, Tensor) else float(call.polarity),
        balanced_shift=call.shift is not None,
        kernels=kernels,
        gradient=torch.is_grad_enabled() and any(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors),
    )
