r"""TanhMax attention on the CPU in blocks of queries: exact, memory linear in the length, float32 inside (float64 for float64).

For one block of queries:

* **plain blocks**, where :math:`|a|` is known to stay below 60: :math:`E = 2^{a \log_2 e}` (the cheaper exponential) and
  :math:`W' = E - p/E`. No maximum is taken and no second exponential: since cosh is at least 1 the sum cannot vanish, and within the bound
  nothing overflows. The bound is the scale times the longest query times the longest key (Cauchy and Schwarz), or the softcap, plus the
  largest bias and the largest log-polarity above 0. Where it is below 1, :math:`W' = 2p\sinh a + (1 - p) E`, which keeps the digits that
  the difference of two numbers near 1 loses;
* **shifted blocks** otherwise: :math:`E = e^{a-m}` and :math:`W' = E - p\,e^{-a-m}` with
  :math:`m = \max_k \max(a_k, \log p - a_k)` over the visible keys. The base stays e: rounding :math:`\log_2 e` would cost digits here.

An additive mask counts as less by its largest visible number of the row, :math:`M`, which changes no weight: so its exponentials
:math:`f = e^{m - M}` are at most 1, and 1 somewhere. Plain blocks multiply E and W' by f, with a bound of 30: what of f underflows, is then
lost against the sum. Shifted blocks have it in the exponent, and in the maximum.

The denominator is :math:`\ell = \sum 2E - W'`, the output :math:`O = W' V / \ell`, and :math:`L = \log \ell` (plus the shift, plus M).
The backward pass recomputes the blocks and uses the closed form :math:`dA = C \circ dP - W \circ D` with :math:`C = 2E - W'` and
:math:`W = W'` over :math:`\ell`, :math:`dP = dO\,V^\top`, :math:`D = \mathrm{rowsum}(W \circ dP)`; for an additive mask
:math:`dM = W \circ dP - C \circ D`; and
:math:`dL/d\log p = -\sum_j n_j (dP_j + D)` with the negative exponentials :math:`n = E - W'` over :math:`\ell`.

A query without a visible key gets output 0, L = +inf and zero gradients.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import hides
from ..call import OperatorInputs

LOG2_OF_E = math.log2(math.e)
PLAIN_LIMIT, SMALL_LIMIT = 60.0, 1.0
PLAIN_LIMIT_FADED = 30.0
TILE = 1 << 19
ROWS = 128


@dataclass(frozen=True)
class Block:
    """One rectangle of scores: some batch entries, some key heads with their query heads, some queries, a range of keys."""

    batch: slice
    kv_heads: slice
    heads: slice
    rows: tuple[int, int]
    columns: tuple[int, int]
    first_hidden: int


class BlockedProblem:
    """One attention call, cut into blocks. Forward and backward walk the same blocks in the same order."""

    def __init__(self, inputs: OperatorInputs) -> None:
        self.exact = torch.promote_types(inputs.query.dtype, torch.float32)
        self.given = {"query": inputs.query, "key": inputs.key, "value": inputs.value}
        self.mask, self.bias, self.additive_mask = inputs.mask, inputs.bias, inputs.additive_mask
        self.scale, self.softcap, self.dropout_p = inputs.scale, inputs.softcap, inputs.dropout_p
        self.batch, self.heads, self.queries, self.width = inputs.query.shape
        self.kv_heads, self.keys, self.value_width = inputs.value.shape[1:]
        self.groups = self.heads // self.kv_heads
        self.balanced = inputs.balanced
        self.signed, self.polarity = inputs.signed, inputs.polarity
        self.generator = torch.Generator()
        if inputs.seed is not None:
            self.generator.manual_seed(int(inputs.seed))

    def blocks(self) -> Iterator[Block]:
        """Rectangles of about `TILE` scores: whole batch entries where they are small, else some heads of one entry."""
        rows = max(1, min(self.queries, max(16, ROWS // self.groups)))
        area = max(1, rows * self.groups * self.keys)
        many_heads = max(1, min(self.kv_heads, TILE // area))
        many_entries = max(1, TILE // (area * self.kv_heads)) if many_heads == self.kv_heads else 1
        for entry in range(0, self.batch, many_entries):
            for head in range(0, self.kv_heads, many_heads):
                kv = slice(head, min(head + many_heads, self.kv_heads))
                for start in range(0, self.queries, rows):
                    stop = min(start + rows, self.queries)
                    low, high = self.mask.key_range(start, stop)
                    if low == high:
                        continue
                    yield Block(
                        batch=slice(entry, min(entry + many_entries, self.batch)),
                        kv_heads=kv,
                        heads=slice(kv.start * self.groups, kv.stop * self.groups),
                        rows=(start, stop),
                        columns=(low, high),
                        first_hidden=low if self.additive_mask is not None else self.mask.hidden_from(start, low),
                    )

    @cached_property
    def query(self) -> Tensor:
        """In the dtype that is computed in, as are key and value."""
        return self.given["query"].to(self.exact)

    @cached_property
    def key(self) -> Tensor:
        """`[batch, kv_heads, keys, head_dim]`."""
        return self.given["key"].to(self.exact)

    @cached_property
    def value(self) -> Tensor:
        """`[batch, kv_heads, keys, value_dim]`."""
        return self.given["value"].to(self.exact)

    @cached_property
    def log_polarity(self) -> Tensor:
        """`[heads]`."""
        if self.polarity is None:
            return self.given["query"].new_full((self.heads,), 0.0 if self.signed else -math.inf, dtype=self.exact)
        polarity = self.polarity.to(self.exact)
        return torch.log(polarity) if self.balanced else polarity

    @cached_property
    def bounds(self) -> Tensor:
        """A bound of |a| for each batch entry and key head: `[batch, kv_heads]`."""
        query, key = self.given["query"], self.given["key"]
        longest_key = torch.linalg.vector_norm(key, dim=-1, dtype=self.exact).amax(-1)
        longest_query = torch.linalg.vector_norm(query, dim=-1, dtype=self.exact).amax(-1).unflatten(1, (self.kv_heads, self.groups)).amax(-1)
        bound = longest_key * longest_query * abs(self.scale)
        if self.softcap is not None:
            bound = bound.clamp(max=abs(self.softcap))
        bound = bound + self.log_polarity.amax().clamp(min=0.0)  # a learned polarity may be above 1
        return bound if self.bias is None else bound + self.bias.abs().amax().to(self.exact)

    @cached_property
    def hides_outright(self) -> bool:
        """Whether the additive mask hides any key as a boolean mask does."""
        return self.additive_mask is not None and bool(hides(self.additive_mask).any())

    def plain(self, block: Block) -> bool:
        """Whether no shift is needed in this block."""
        return self.below(block, PLAIN_LIMIT if self.additive_mask is None else PLAIN_LIMIT_FADED)

    def below(self, block: Block, limit: float) -> bool:
        """Whether all scores of a block are below a limit."""
        return bool((self.bounds[block.batch, block.kv_heads] < limit).all())

    def rows_of(self, tensor: Tensor, block: Block) -> Tensor:
        """`[batch, heads, queries, n]` -> the block's `[entries * kv_heads, groups * rows, n]`."""
        part = tensor[block.batch, block.heads, slice(*block.rows)]
        return part.reshape(-1, self.groups * part.shape[2], part.shape[3])

    def columns_of(self, tensor: Tensor, block: Block) -> Tensor:
        """`[batch, kv_heads, keys, n]` -> the block's `[entries * kv_heads, columns, n]`."""
        part = tensor[block.batch, block.kv_heads, slice(*block.columns)]
        return part.flatten(0, 1)

    def by_head(self, tile: Tensor, block: Block) -> Tensor:
        """`[entries * kv_heads, groups * rows, columns]` seen as `[entries, heads, rows, columns]`."""
        entries = block.batch.stop - block.batch.start
        return tile.view(entries, -1, block.rows[1] - block.rows[0], tile.shape[-1])

    def per_head(self, values: Tensor, block: Block) -> Tensor:
        """`[heads]` -> what broadcasts to the block's tiles: `[entries * kv_heads, groups * rows or 1, 1]`."""
        part = values[block.heads]
        entries, rows = block.batch.stop - block.batch.start, block.rows[1] - block.rows[0]
        if self.groups == 1:
            return part.view(-1, 1).repeat(entries, 1).unsqueeze(-1)
        return part.view(-1, self.groups, 1).repeat(entries, 1, rows).reshape(-1, self.groups * rows, 1)

    def scores(self, block: Block, out: Tensor, unit: float) -> Tensor | None:
        """Write `unit` times the block's scores to `out`; with a softcap, return the capped ones over the cap (for the derivative)."""
        query, key = self.rows_of(self.query, block), self.columns_of(self.key, block)
        factor = self.scale * unit if self.softcap is None else self.scale / self.softcap
        torch.baddbmm(out, query, key.transpose(1, 2), beta=0, alpha=factor, out=out)
        capped = None
        if self.softcap is not None:
            capped = torch.tanh(out)
            torch.mul(capped, self.softcap * unit, out=out)
        if self.bias is not None:
            self.by_head(out, block).add_(self.part_of(self.bias, block).to(self.exact), alpha=unit)
        return capped

    def part_of(self, tensor: Tensor, block: Block) -> Tensor:
        """The block's part of a 4-dimensional tensor that broadcasts to `[batch, heads, queries, keys]`, as a view."""
        for dim, wanted in enumerate((block.batch, block.heads, slice(*block.rows), slice(*block.columns))):
            if tensor.shape[dim] != 1:
                tensor = tensor[(slice(None),) * dim + (wanted,)]
        return tensor

    def seen(self, block: Block) -> Tensor | None:
        """True where a key is visible, for the columns from `first_hidden` on: broadcasts to `[entries, heads, rows, columns]`."""
        if block.first_hidden >= block.columns[1]:
            return None
        columns = (block.first_hidden, block.columns[1])
        seen = self.mask.tile(block.rows, columns, self.query.device, block.batch, block.heads)
        if self.additive_mask is None or not self.hides_outright:
            return seen
        shown = ~hides(self.part_of(self.additive_mask, block))
        return shown if seen is None else seen & shown

    def levels(self, block: Block, seen: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The additive mask less its largest visible number of each row, -inf where a key is hidden, and that number; None without a mask.

        Both broadcast to `[entries, heads, rows, columns]`.
        """
        if self.additive_mask is None:
            return None
        part = self.part_of(self.additive_mask, block).to(self.exact)
        if seen is not None:
            part = torch.where(seen, part, -math.inf)
        highest = part.amax(-1, keepdim=True)
        highest = highest.masked_fill(highest == -math.inf, 0.0)
        return part - highest, highest

    def maskable(self, tile: Tensor, block: Block) -> Tensor:
        """The columns of a tile from `first_hidden` on, as `[entries, heads, rows, columns]`."""
        return self.by_head(tile, block)[..., block.first_hidden - block.columns[0] :]

    def dropout(self, block: Block) -> Tensor | None:
        """The block's dropout factors, 0 or 1 / (1 - dropout_p): `[entries * kv_heads, groups * rows, columns]`."""
        if self.dropout_p == 0.0:
            return None
        entries = (block.batch.stop - block.batch.start) * (block.kv_heads.stop - block.kv_heads.start)
        shape = (entries, self.groups * (block.rows[1] - block.rows[0]), block.columns[1] - block.columns[0])
        factors = torch.empty(shape, dtype=self.exact).bernoulli_(1.0 - self.dropout_p, generator=self.generator)
        return factors.div_(1.0 - self.dropout_p)

    def scratch(self, count: int) -> list[Tensor]:
        """`count` flat buffers, each as large as the largest tile."""
        largest = 0
        for block in self.blocks():
            largest = max(largest, self.tile_size(block))
        return [torch.empty(largest, dtype=self.exact) for _ in range(count)]

    def tile_size(self, block: Block) -> int:
        """The number of scores in a block."""
        sides = (block.batch, block.heads, slice(*block.rows), slice(*block.columns))
        return math.prod(side.stop - side.start for side in sides)

    def tile_in(self, buffer: Tensor, block: Block) -> Tensor:
        """A tile of the block's shape at the start of a flat buffer."""
        rows, columns = self.groups * (block.rows[1] - block.rows[0]), block.columns[1] - block.columns[0]
        return buffer[: self.tile_size(block)].view(-1, rows, columns)


def blocked_forward(problem: BlockedProblem) -> tuple[Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]` in float32 (or float64), and L `[batch, heads, queries]` likewise."""
    shape = (problem.batch, problem.heads, problem.queries)
    output = torch.zeros(*shape, problem.value.shape[-1], dtype=problem.exact)
    lse = torch.full(shape, math.inf, dtype=problem.exact)
    buffers = problem.scratch(2)
    for block in problem.blocks():
        scores, weights = (problem.tile_in(buffer, block) for buffer in buffers)
        total, shift, _, _ = _weigh(problem, block, scores, weights)
        factors = problem.dropout(block)
        if factors is not None:
            weights.mul_(factors)
        empty = total == 0
        result = torch.bmm(weights, problem.columns_of(problem.value, block)).div_(total.masked_fill(empty, 1.0))
        row_lse = total.log_().add_(shift).masked_fill_(empty, math.inf)
        here = (block.batch, block.heads, slice(*block.rows))
        output[here] = problem.by_head(result, block)
        lse[here] = problem.by_head(row_lse, block).squeeze(-1)
    return output, lse


def _weigh(
    problem: BlockedProblem, block: Block, scores: Tensor, weights: Tensor, *, negative: bool = False
) -> tuple[Tensor, Tensor | float, Tensor | None, Tensor | None]:
    """Fill in the positive exponentials (into `scores`) and the signed weights, both without their denominator.

    Returns the denominator and the shift, both per row, the negative exponentials if they are wanted, and what `scores` returns.
    """
    seen = problem.seen(block)
    shift: Tensor | float = 0.0
    plain, levels = problem.plain(block), problem.levels(block, seen)
    capped = problem.scores(block, scores, LOG2_OF_E if plain else 1.0)
    if plain:
        polarity = problem.per_head(torch.exp(problem.log_polarity), block)
        small = problem.below(block, SMALL_LIMIT)
        if small:
            torch.mul(scores, math.log(2.0), out=weights).sinh_().mul_(2.0 * polarity)
        positive = scores.exp2_()
        if small:
            weights.addcmul_(1.0 - polarity, positive)
        else:
            torch.addcdiv(positive, polarity, positive, value=-1, out=weights)
        opposite = torch.div(polarity, positive) if negative else None
    else:
        shift = _shift(problem, block, seen, levels, scores, spare=weights)
        torch.sub(problem.per_head(problem.log_polarity, block) - shift, scores, out=weights)
        scores.sub_(shift)
        if levels is not None:
            for tile in (scores, weights):
                problem.by_head(tile, block).add_(levels[0])
        weights.exp_()
        positive = scores.exp_()
        opposite = weights.clone() if negative else None
        torch.sub(positive, weights, out=weights)
    tiles = [problem.maskable(item, block) for item in (positive, weights, opposite) if item is not None]
    factor = levels[0].exp() if levels is not None else None if seen is None else seen.to(problem.exact)
    for tile in tiles:
        # Where all is finite, a product masks as well as a fill, and several times as fast.
        if plain and factor is not None:
            tile.mul_(factor)
        elif seen is not None:
            tile.masked_fill_(~seen, 0.0)
    if levels is not None:
        shift = shift + levels[1].expand(*problem.by_head(scores, block).shape[:3], 1).reshape(*scores.shape[:2], 1)
    return positive.sum(-1, keepdim=True).mul_(2.0).sub_(weights.sum(-1, keepdim=True)), shift, opposite, capped


def _shift(
    problem: BlockedProblem, block: Block, seen: Tensor | None, levels: tuple[Tensor, Tensor] | None, scores: Tensor, *, spare: Tensor
) -> Tensor:
    """The largest exponent of each row over its visible keys; hidden scores are 0 afterwards, infinite ones finite."""
    limit = torch.finfo(scores.dtype).max / 4
    scores.clamp_(-limit, limit)
    extremes = []
    for sign, extreme in ((1, torch.amax), (-1, torch.amin)):
        tile = scores
        if levels is not None:
            tile = spare
            torch.add(problem.by_head(scores, block), levels[0], alpha=sign, out=problem.by_head(tile, block))
        if seen is not None:
            problem.maskable(tile, block).masked_fill_(~seen, -sign * math.inf)
        extremes.append(extreme(tile, -1, keepdim=True))
    if seen is not None:
        problem.maskable(scores, block).masked_fill_(~seen, 0.0)
    shift = torch.maximum(extremes[0], problem.per_head(problem.log_polarity, block) - extremes[1])
    return shift.masked_fill_(shift == -math.inf, 0.0)


@dataclass
class BlockedGradients:
    """What `blocked_backward` returns: gradients in the shapes of their tensors, None where none was asked for."""

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    additive_mask: Tensor | None
    polarity: Tensor | None

    @classmethod
    def zeros(cls, problem: BlockedProblem, *, bias: bool, additive_mask: bool, polarity: bool) -> "BlockedGradients":
        """Of those that are wanted, in the dtype that is computed in."""

        def _like(tensor: Tensor | None, wanted: bool = True) -> Any:
            return torch.zeros(tensor.shape, dtype=problem.exact) if wanted and tensor is not None else None

        added = _like(problem.bias, bias), _like(problem.additive_mask, additive_mask)
        return cls(_like(problem.query), _like(problem.key), _like(problem.value), *added, _like(problem.log_polarity, polarity))


class JointRows(NamedTuple):
    """L and D of each row over more keys than those of the call, `[batch, heads, queries]` in the dtype that is computed in."""

    lse: Tensor
    delta: Tensor


def blocked_backward(
    problem: BlockedProblem,
    grad_output: Tensor,
    joint: JointRows | None = None,
    *,
    bias: bool = False,
    additive_mask: bool = False,
    polarity: bool = False,
) -> BlockedGradients:
    """Gradients from that of the output; `bias`, `additive_mask` and `polarity` (its logarithm) say whether theirs are wanted.

    Every block holds whole rows, so the denominator and D are computed anew: L and O carry a rounding that grows with the scores. But with
    `joint` the keys are some of a row's alone, and its denominator and D are given.
    """
    grad_output = grad_output.to(problem.exact)
    gradients = BlockedGradients.zeros(problem, bias=bias, additive_mask=additive_mask, polarity=polarity)
    buffers = problem.scratch(4)
    for block in problem.blocks():
        scores, weights, grad_scores, product = (problem.tile_in(buffer, block) for buffer in buffers)
        total, shift, negative, capped = _weigh(problem, block, scores, weights, negative=polarity)
        empty = total == 0
        if joint is not None:
            total = torch.exp(problem.rows_of(joint.lse[..., None], block) - shift)
        inverse = total.reciprocal().masked_fill_(empty, 0.0)
        row_grad = problem.rows_of(grad_output, block) * inverse
        factors = problem.dropout(block)
        torch.bmm(row_grad, problem.columns_of(problem.value, block).transpose(1, 2), out=grad_scores)
        if factors is not None:
            grad_scores.mul_(factors)
        row_delta = torch.mul(grad_scores, weights, out=product).sum(-1, keepdim=True)
        row_delta = row_delta.mul_(inverse) if joint is None else problem.rows_of(joint.delta[..., None], block) * inverse
        if negative is not None and gradients.polarity is not None:
            per_row = negative.mul_(grad_scores + row_delta).sum(-1, keepdim=True)
            gradients.polarity[block.heads] -= problem.by_head(per_row, block).sum((0, 2, 3))
        # The gradient of the scores: C dP - W D, with C = 2E - W.
        torch.sub(weights, scores, alpha=2.0, out=scores)
        if gradients.additive_mask is not None:  # W dP - C D
            add_up(problem, block, gradients.additive_mask, product.addcmul_(scores, row_delta))
        grad_scores.mul_(scores.neg_()).addcmul_(weights, row_delta, value=-1.0)
        if factors is not None:
            weights.mul_(factors)
        problem.columns_of(gradients.value, block).baddbmm_(weights.transpose(1, 2), row_grad)
        back_to_inputs(problem, block, gradients, grad_scores, capped)
    return gradients


def add_up(problem: BlockedProblem, block: Block, total: Tensor, tile: Tensor) -> None:
    """Add a tile to the block's part of a gradient that broadcasts to `[batch, heads, queries, keys]`."""
    part = problem.part_of(total, block)
    part += problem.by_head(tile, block).sum_to_size(part.shape)


def back_to_inputs(problem: BlockedProblem, block: Block, gradients: BlockedGradients, grad_scores: Tensor, capped: Tensor | None) -> None:
    """From the gradient of a block's scores to those of bias, query and key."""
    if gradients.bias is not None:
        add_up(problem, block, gradients.bias, grad_scores)
    if capped is not None:
        grad_scores.addcmul_(grad_scores * capped, capped, value=-1.0)
    grad_query = torch.bmm(grad_scores, problem.columns_of(problem.key, block)).mul_(problem.scale)
    gradients.query[block.batch, block.heads, slice(*block.rows)] = problem.by_head(grad_query, block)
    query = problem.rows_of(problem.query, block)
    problem.columns_of(gradients.key, block).baddbmm_(grad_scores.transpose(1, 2), query, alpha=problem.scale)
