r"""The contribution of every attention weight to a logit, and the sign that orients the weights of a head towards that logit.

A head computes :math:`o_i = \sum_j w_{ij} v_j`. With :math:`g_i = \partial\, logit / \partial o_i` the *contribution* of key j to query i
is :math:`c_{ij} = w_{ij} \langle v_j, g_i \rangle`, and exactly :math:`\sum_j c_{ij} = \langle o_i, g_i \rangle`.

The sign of a raw weight is not identified: W_q and W_v (or W_o) of a head can change sign together, which changes no output of a TanhMax
model, but every weight. So weights are *oriented*: multiplied by one sign for each head,

.. math:: \sigma = \mathrm{sign} \sum_{ij} |w_{ij}| \langle v_j, g_i \rangle .

Why this sign: :math:`\sigma w_{ij}` and :math:`c_{ij}` agree in sign where :math:`\sigma = \mathrm{sign} \langle v_j, g_i \rangle`, so
the sum is the size of the contributions that agree for :math:`\sigma = 1` less that of those that do not: the sign is the one that is
right for the larger part of the head's contributions. Under the flip above either v or g changes sign, and so do w and :math:`\sigma`;
oriented weights and contributions stay. For softmax w is positive, and sigma says whether the head as a whole speaks for the target.
"""

from torch import Tensor

# A head is one-signed where the rarer sign has less than this share of the weights' mass. A head that ignores a token still gives it a
# little weight of some sign, so the share is not 0; below a twentieth no reader of a heat map sees it.
ONE_SIGNED = 0.05


def contributions_of(weights: Tensor, values: Tensor, gradients: Tensor) -> Tensor:
    """The contribution of each weight to the logit, to first order.

    Args:
        weights: `[..., Q, K]`.
        values: `[..., K, D]`.
        gradients: of the logit with respect to the head's output, `[..., Q, D]`.

    Returns:
        `[..., Q, K]`, in logits.
    """
    return weights * (gradients @ values.transpose(-1, -2))


def orientation_of(weights: Tensor, contributions: Tensor) -> Tensor:
    """One sign per head, 1 where the sum is 0.

    Args:
        weights: `[..., Q, K]`.
        contributions: `[..., Q, K]`, of the same weights.

    Returns:
        `[...]`, 1 or -1, in the dtype of the weights.
    """
    agreement = (contributions * weights.sign()).sum((-1, -2))
    return (agreement >= 0).to(weights.dtype) * 2 - 1


def oriented(weights: Tensor, orientation: Tensor) -> Tensor:
    """Weights `[L, H, Q, K]` times the orientation `[L, H]` of their head: positive speaks for the target."""
    return weights * orientation[:, :, None, None]


def one_signed(weights: Tensor, share: float = ONE_SIGNED) -> Tensor:
    """Heads whose weights have nearly one sign, so that orientation says little within them.

    Args:
        weights: `[..., Q, K]`.
        share: the rarer sign's largest share of the sum of |w|.

    Returns:
        `[...]`, boolean.
    """
    positive, negative = weights.clamp(min=0).sum((-1, -2)), (-weights).clamp(min=0).sum((-1, -2))
    return positive.minimum(negative) <= share * (positive + negative)
