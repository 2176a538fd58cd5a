r"""Weighted ridge regression of an output projection, in sums that do not grow with the data.

For rows :math:`x = [o, 1]` of heads' outputs with what they should add and do not yet, :math:`r`, and weights :math:`\omega`,

.. math:: D = \arg\min_D \sum \omega |r - x D|^2 + \lambda |D_o - C|^2 + \mu |D_1|^2
            = (X^T \Omega X + \Lambda)^{-1} (X^T \Omega R + \lambda C)

is what is added to the projection, :math:`D_o^T` to its weight and :math:`D_1` to its bias. :math:`\lambda` is `ridge` times the mean of
the diagonal of :math:`O^T \Omega O`, and :math:`\mu` is 1e-3 times the sum of the weights. C is what the weight is pulled towards.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

BIAS_RIDGE = 1e-3
TINY = torch.finfo(torch.float64).tiny
SMALLEST_PENALTY = TINY**0.5  # where all that is measured is 0: numbers times it are not subnormal yet


class Change(NamedTuple):
    """What to add to a projection, and the relative error of what it adds to its stream, without that and with it.

    Attributes:
        weight: `[hidden, width]`, float64.
        bias: `[hidden]`, float64; zeros where none was wanted.
        before: the norm of what is left over the norm of what was wanted, both weighted.
        after: the same, with the change.
    """

    weight: Tensor
    bias: Tensor
    before: float
    after: float


class Stream(NamedTuple):
    """A residual stream at one layer, `[rows, hidden]`.

    Attributes:
        before: the hidden states before the layer.
        added: what the output projection adds to them.
    """

    before: Tensor
    added: Tensor


@dataclass
class OutputSums:
    """Sums in float64 over the rows x `[width + 1]` of one layer.

    Attributes:
        rows: how many there were.
        weight: of the weights.
        squares: of w x x', `[width + 1, width + 1]`.
        products: of w x r', `[width + 1, hidden]`.
        left: of w |r|^2.
        wanted: of w |y|^2, where y is what the softmax model adds.
    """

    rows: int
    weight: Tensor
    squares: Tensor
    products: Tensor
    left: Tensor
    wanted: Tensor

    @classmethod
    def of(cls, heads: Tensor, student: Stream, softmax: Stream) -> "OutputSums":
        """The sums over rows, each weighted by the inverse of the mean square of the softmax model's stream after attention.

        Without these weights, the few rows with massive activations would decide the fit.

        Args:
            heads: outputs of the student's heads, `[rows, width]`.
            student: the stream that is to be corrected.
            softmax: the stream that it should be.
        """
        device = torch.device("cpu") if heads.device.type == "mps" else heads.device  # which has no float64
        o, h, y, wanted_h, wanted_y = (tensor.to(device, torch.float64) for tensor in (heads, *student, *softmax))
        weights = 1 / (wanted_h + wanted_y).square().mean(-1, keepdim=True).clamp(min=TINY)
        root = weights.sqrt()
        x = torch.cat([o, torch.ones_like(root)], -1).mul_(root)
        left = (wanted_h - h + (wanted_y - y)).mul_(root)
        return cls(len(x), weights.sum(), x.mT @ x, x.mT @ left, left.square().sum(), (wanted_y * root).square().sum())

    def __add__(self, other: "OutputSums") -> "OutputSums":
        return OutputSums(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def finite(self) -> bool:
        """Whether nothing that was summed is NaN or infinite."""
        return all(bool(total.isfinite().all()) for total in vars(self).values() if isinstance(total, Tensor))

    def solve(self, ridge: float, pull: Tensor, *, bias: bool) -> Change:
        """The change of the projection.

        Args:
            ridge: the penalty, over the mean square of the heads' outputs.
            pull: C, `[width, hidden]`, float64.
            bias: whether the bias may change.
        """
        size = len(self.squares) - (not bias)
        squares, right = self.squares[:size, :size], self.products[:size].clone()
        width = len(pull)
        penalty = (ridge * squares.diagonal()[:width].mean()).clamp(min=SMALLEST_PENALTY).expand(size).clone()
        right[:width] += penalty[0] * pull.to(right.device)
        penalty[width:] = BIAS_RIDGE * self.weight
        change = torch.linalg.solve(squares + penalty.diag(), right)
        after = self.left - 2 * (change * self.products[:size]).sum() + (change * (squares @ change)).sum()
        before, after = ((each.clamp(min=0) / self.wanted.clamp(min=TINY)).sqrt() for each in (self.left, after))
        zeros = torch.zeros_like(right[0])
        return Change(change[:width].mT, change[width] if bias else zeros, float(before), float(after))
