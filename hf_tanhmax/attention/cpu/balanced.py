r"""TanhMax attention with a balanced shift on the CPU, by torch's operators, in the blocks of `blocked`.

.. math:: W = s_+ P - s_- N, \quad P = \mathrm{softmax}(a + m), \quad N = \mathrm{softmax}(-a + m), \quad
          s_+ = \frac{1}{1 + p}, \quad s_- = \frac{p}{1 + p}

Every block holds whole rows, so P and N are torch's softmax of a tile of scores and of its negatives; m is the additive mask less its
largest visible number of the row, and :math:`-\infty` where a key is hidden. The backward pass recomputes both. With
:math:`dP = dO\,V^\top`, :math:`D_+ = \mathrm{rowsum}(P \circ dP)` and :math:`D_- = \mathrm{rowsum}(N \circ dP)`,

.. math:: dA = s_+ P \circ (dP - D_+) + s_- N \circ (dP - D_-), \quad dM = s_+ P \circ (dP - D_+) - s_- N \circ (dP - D_-), \quad
          \frac{dL}{dp} = -\frac{\sum D_+ + D_-}{(1 + p)^2}.

A query without a visible key gets output 0 and zero gradients. No log-sum-exp is returned: partial results over disjoint keys do not merge
by one.
"""

import math

import torch
from torch import Tensor

from .blocked import LOG2_OF_E, BlockedGradients, add_up, back_to_inputs
from .problem import SMALL_LIMIT, Block, BlockedProblem


def balanced_forward(problem: BlockedProblem) -> tuple[Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]` in float32 (or float64), and an empty tensor, as there is no log-sum-exp."""
    output = torch.zeros(problem.batch, problem.heads, problem.queries, problem.value.shape[-1], dtype=problem.exact)
    buffers = problem.scratch(3)
    for block in problem.blocks():
        positive, negative, weights, _ = _shares(problem, block, [problem.tile_in(buffer, block) for buffer in buffers])
        _join(problem, block, positive, negative, weights)
        factors = problem.dropout(block)
        if factors is not None:
            weights.mul_(factors)
        result = torch.bmm(weights, problem.columns_of(problem.value, block))
        output[block.batch, block.heads, slice(*block.rows)] = problem.by_head(result, block)
    return output, output.new_empty(0)


def balanced_backward(
    problem: BlockedProblem, grad_output: Tensor, *, bias: bool = False, additive_mask: bool = False, polarity: bool = False
) -> BlockedGradients:
    """As `blocked_backward`, but `polarity` asks for the gradient of the polarity itself."""
    grad_output = grad_output.to(problem.exact)
    gradients = BlockedGradients.zeros(problem, bias=bias, additive_mask=additive_mask, polarity=polarity)
    buffers = problem.scratch(4)
    for block in problem.blocks():
        *tiles, grads = (problem.tile_in(buffer, block) for buffer in buffers)
        positive, negative, spare, capped = _shares(problem, block, tiles)
        _join(problem, block, positive, negative, spare)
        row_grad = problem.rows_of(grad_output, block)
        torch.bmm(row_grad, problem.columns_of(problem.value, block).transpose(1, 2), out=grads)
        factors = problem.dropout(block)
        if factors is not None:
            grads.mul_(factors)
            spare.mul_(factors)
        problem.columns_of(gradients.value, block).baddbmm_(spare.transpose(1, 2), row_grad)
        deltas = [torch.mul(grads, half, out=spare).sum(-1, keepdim=True) for half in (positive, negative)]
        shares = _halves(problem, block)
        if gradients.polarity is not None:
            per_row = (deltas[0] + deltas[1]) * shares[0].square()
            gradients.polarity[block.heads] -= problem.by_head(per_row, block).sum((0, 2, 3))
        torch.sub(grads, deltas[0], out=spare).mul_(positive.mul_(shares[0]))
        grads.sub_(deltas[1]).mul_(negative.mul_(shares[1]))
        if gradients.additive_mask is not None:
            add_up(problem, block, gradients.additive_mask, torch.sub(spare, grads, out=positive))
        back_to_inputs(problem, block, gradients, grads.add_(spare), capped)
    return gradients


def _halves(problem: BlockedProblem, block: Block) -> tuple[Tensor, Tensor]:
    """1 / (1 + p) and p / (1 + p) of a block's heads, which broadcast to its tiles."""
    log_polarity = problem.per_head(problem.log_polarity, block)
    return torch.sigmoid(-log_polarity), torch.sigmoid(log_polarity)


def _join(problem: BlockedProblem, block: Block, positive: Tensor, negative: Tensor, weights: Tensor) -> None:
    """Fill in the weights from P and N."""
    shares = _halves(problem, block)
    torch.mul(positive, shares[0], out=weights).addcmul_(negative, shares[1], value=-1.0)


def _shares(problem: BlockedProblem, block: Block, tiles: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """P and N of a block in two of three tiles, the third, and what `BlockedProblem.scores` returns."""
    plain = problem.plain(block) and not problem.below(block, SMALL_LIMIT)
    return (_plain_shares if plain else _softmax_shares)(problem, block, *tiles)


def _plain_shares(
    problem: BlockedProblem, block: Block, scores: Tensor, opposite: Tensor, spare: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    seen = problem.seen(block)
    capped = problem.scores(block, scores, LOG2_OF_E)
    torch.reciprocal(scores.exp2_(), out=opposite)
    levels = problem.levels(block, seen)
    factor = levels[0].exp() if levels is not None else None if seen is None else seen.to(problem.exact)
    for tile in (scores, opposite):
        if factor is not None:
            problem.maskable(tile, block).mul_(factor)
        total = tile.sum(-1, keepdim=True)
        tile.mul_(total.reciprocal_().masked_fill_(total == math.inf, 0.0))
    return scores, opposite, spare, capped


def _softmax_shares(
    problem: BlockedProblem, block: Block, scores: Tensor, opposite: Tensor, spare: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    seen, finite = problem.seen(block), problem.below(block, math.inf)
    capped = problem.scores(block, scores, 1.0)
    if not finite:
        limit = torch.finfo(scores.dtype).max / 4
        scores.clamp_(-limit, limit)
    level, empty = _level(problem, block, seen)
    if level is None or block.first_hidden > block.columns[0]:
        torch.neg(scores, out=opposite)
    if level is not None:
        maskable = problem.maskable(scores, block)
        torch.sub(level, maskable, out=problem.maskable(opposite, block))
        maskable.add_(level)
    if seen is not None and not finite:  # a sum with -inf hides what is a number, but not NaN
        for tile in (scores, opposite):
            problem.maskable(tile, block).masked_fill_(~seen, -math.inf)
    positive, negative = torch.softmax(scores, -1, out=spare), torch.softmax(opposite, -1, out=scores)
    if empty is not None:
        for tile in (positive, negative):
            problem.by_head(tile, block).masked_fill_(empty, 0.0)
    return positive, negative, opposite, capped


def _level(problem: BlockedProblem, block: Block, seen: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """What is added to the scores and to their negatives, -inf where a key is hidden, and which rows are empty; 0 there."""
    levels = problem.levels(block, seen)
    if levels is not None:
        level = levels[0]
    elif seen is not None:
        level = torch.zeros_like(seen, dtype=problem.exact).masked_fill_(~seen, -math.inf)
    else:
        return None, None
    if block.first_hidden > block.columns[0]:  # every row sees the keys before
        return level, None
    empty = (level == -math.inf).all(-1, keepdim=True)
    return level.masked_fill(empty, 0.0), empty
