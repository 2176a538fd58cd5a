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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..call import JointRows
from .problem import SMALL_LIMIT, Block, BlockedProblem

LOG2_OF_E = math.log2(math.e)


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
