"""Adadelta for tables of which a step touches few rows: what `torch.optim.Adadelta` computes, without walking through the other rows.

Where the gradient is 0, Adadelta (Zeiler 2012) changes nothing but its two averages, which shrink by rho a step. So a row's averages are
shrunk by all the steps it missed when it is next touched.
"""

import torch
from torch import Tensor

RHO, EPSILON = 0.9, 1e-6  # torch's defaults


class RowAdadelta:
    """Adadelta over the rows of a table.

    Args:
        table: [S, V, E], changed in place.
        learning_rate: as Adadelta's.
    """

    def __init__(self, table: Tensor, learning_rate: float) -> None:
        self.table = table
        self.learning_rate = learning_rate
        self.squares, self.changes = torch.zeros_like(table), torch.zeros_like(table)
        self.steps = 0
        self.touched = torch.zeros(table.shape[1], dtype=torch.int64)

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor) -> None:
        """One step, in which only some rows have a gradient.

        Args:
            rows: [U] different numbers of rows.
            gradient: of those rows, [S, U, E].
        """
        self.steps += 1
        shrink = torch.pow(RHO, (self.steps - self.touched[rows]).to(gradient.dtype))[:, None]
        self.touched[rows] = self.steps
        squares = self.squares[:, rows].mul_(shrink).addcmul_(gradient, gradient, value=1 - RHO)
        changes = self.changes[:, rows].mul_(shrink / RHO)  # this step's own shrinking comes after its change is known
        change = (changes + EPSILON).sqrt_().div_((squares + EPSILON).sqrt_()).mul_(gradient)
        changes.mul_(RHO).addcmul_(change, change, value=1 - RHO)
        self.squares.index_copy_(1, rows, squares)
        self.changes.index_copy_(1, rows, changes)
        self.table.index_add_(1, rows, change, alpha=-self.learning_rate)
