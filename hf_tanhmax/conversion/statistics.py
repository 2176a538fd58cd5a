r"""What the gauge of one attention module is fitted to, in sums that do not grow with the data.

For a query row with scores :math:`a_j` over its kept keys, :math:`P = softmax(a)`, :math:`N = softmax(-a)`, and the logarithms of their
normalisers :math:`L^+` and :math:`L^-`,

.. math:: tanhmax(a) = \sigma P - (1 - \sigma) N, \qquad \sigma = sigmoid(L^+ - L^-)

A constant :math:`c` added to the row adds :math:`2c` to :math:`L^+ - L^-` and changes neither P nor N. With an additive mask, P is
:math:`softmax(a + m)` and N is :math:`softmax(m - a)`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..integration.hooks import AttentionCall
from ..integration.registration import runs_causally, split_mask
from .regression import SMALLEST_PENALTY


class SplitRows(NamedTuple):
    """The two halves of signed attention for one call; B inputs, H heads, Q queries, K keys, D the size of a value.

    Attributes:
        query: `[B, H, Q, head_dim]`, times the scale of the scores.
        half_odds: `[B, H, Q]`, (Lp - Ln) / 2.
        outputs: `[B, H, Q, D]`, (P V + N V) / 2.
        real: `[B, Q]`, False for padding.
    """

    query: Tensor
    half_odds: Tensor
    outputs: Tensor
    real: Tensor


def split_rows(call: AttentionCall) -> SplitRows:
    """Softmax of the scores of a call and of their negatives, in float32 at least.

    Raises:
        NotImplementedError: query heads share keys, scores pass through a softcap, or sequences are packed without a mask.
    """
    _refuse(call)
    dtype = torch.promote_types(call.query.dtype, torch.float32)
    scale = call.options.get("scaling")
    query = call.query.to(dtype) * (call.query.shape[-1] ** -0.5 if scale is None else scale)
    scores = query @ call.key.to(dtype).mT
    keep, added = _mask(call)
    shares = torch.zeros_like(scores) if added is None else added.to(dtype).expand_as(scores)
    if keep is not None:
        shares = shares.masked_fill(~keep, -torch.inf)
    value = call.value.to(dtype)
    half, odds = torch.zeros_like(query[..., :1]), torch.zeros_like(scores[..., 0])
    for sign in (1, -1):
        logits = shares + sign * scores
        odds = odds + sign * logits.logsumexp(-1)
        half = half + logits.softmax(-1) @ value
    return SplitRows(query, odds / 2, half / 2, real_rows(call))


def real_rows(call: AttentionCall) -> Tensor:
    """`[B, Q]`: False where a query is padding, which its own key says, or sees no key."""
    batch, _, queries, _ = call.query.shape
    keep, _ = _mask(call)
    if keep is None:
        return torch.ones(batch, queries, dtype=torch.bool, device=call.query.device)
    keep = keep.expand(batch, -1, queries, call.key.shape[2])[:, 0]
    return keep.diagonal(dim1=-2, dim2=-1) if queries == keep.shape[-1] else keep.any(-1)


def keys_seen(call: AttentionCall) -> Tensor:
    """`[B, Q]`: how many keys take part for each query."""
    batch, _, queries, _ = call.query.shape
    keep, _ = _mask(call)
    if keep is None:
        return torch.full((batch, queries), call.key.shape[2], device=call.query.device)
    return keep.expand(batch, -1, queries, call.key.shape[2])[:, 0].sum(-1)


@dataclass
class RowSums:
    """Sums in float64 over query rows x `[head_dim]`, and their half odds z, for each of H heads.

    Attributes:
        rows: how many rows there were.
        squares: of x x', `[H, head_dim, head_dim]`.
        queries: of x, `[H, head_dim]`.
        products: of x z, `[H, head_dim]`.
        odds: of z, `[H]`.
        squared_odds: of z squared, `[H]`.
        outputs: of (P V + N V) / 2, `[H, D]`.
    """

    rows: int
    squares: Tensor
    queries: Tensor
    products: Tensor
    odds: Tensor
    squared_odds: Tensor
    outputs: Tensor

    @classmethod
    def of(cls, split: SplitRows) -> "RowSums":
        """The sums over the real rows of one call."""
        query, outputs = (tensor.double().transpose(1, 2)[split.real].transpose(0, 1) for tensor in (split.query, split.outputs))
        odds = split.half_odds.double().transpose(1, 2)[split.real].T
        return cls(
            query.shape[1],
            query.mT @ query,
            query.sum(1),
            (query * odds[..., None]).sum(1),
            odds.sum(1),
            odds.square().sum(1),
            outputs.sum(1),
        )

    def __add__(self, other: "RowSums") -> "RowSums":
        return RowSums(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def finite(self) -> bool:
        """Whether nothing that was summed is NaN or infinite."""
        return all(bool(total.isfinite().all()) for total in vars(self).values() if isinstance(total, Tensor))

    def fit_keys(self, target: float, ridge: float) -> tuple[Tensor, Tensor]:
        """The key bias u of each head for which x . u is close to `target` - z, by ridge regression.

        Args:
            target: what z should come to, for every row.
            ridge: the penalty, over the mean square of x.

        Returns:
            `[H, head_dim]`, and the standard deviation of what is left, `[H]`.
        """
        moment, mean = self.squares / self.rows, self.queries / self.rows
        right = target * mean - self.products / self.rows
        penalty = (ridge * moment.diagonal(dim1=-2, dim2=-1).mean(-1)).clamp(min=SMALLEST_PENALTY)
        identity = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
        bias = torch.linalg.solve(moment + penalty[:, None, None] * identity, right)
        wanted = target - self.odds / self.rows
        square = target**2 - 2 * target * self.odds / self.rows + self.squared_odds / self.rows
        left = square - 2 * (bias * right).sum(-1) + torch.einsum("hi,hij,hj->h", bias, moment, bias)
        return bias, (left - (wanted - (bias * mean).sum(-1)).square()).clamp(min=0).sqrt()


def _mask(call: AttentionCall) -> tuple[Tensor | None, Tensor | None]:
    """Which keys take part, broadcasting to the scores, and what multiplies their shares."""
    queries, keys = call.query.shape[2], call.key.shape[2]
    keep, added = split_mask(call.mask, call.options.get("position_bias"), keys, paged=False)
    if call.mask is None and runs_causally(call.module, call.query, call.options.get("is_causal")):
        keep = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=call.query.device).tril()
    return keep, added


def _refuse(call: AttentionCall) -> None:
    owner, heads, shared = type(call.module).__name__, call.query.shape[1], call.key.shape[1]
    if heads != shared:
        raise NotImplementedError(f"the {heads} query heads of {owner} share {shared} key biases, so it cannot be aligned yet")
    if call.options.get("softcap") is not None:
        raise NotImplementedError(f"{owner} caps its scores, so a key bias is no constant of a row, and it cannot be aligned")
    if call.mask is None and call.options.get("cu_seq_lens_q") is not None:
        raise NotImplementedError(f"the batch for {owner} is packed without a mask; align with padded batches instead")
