r"""Attention rollout with signs, after Abnar and Zuidema 2020, *Quantifying Attention Flow in Transformers*, section 3.

Theirs: each layer's attention, the mean over heads averaged with the identity for the residual connection, is multiplied up through the
layers: :math:`R = A_L \cdots A_1`, :math:`A_l = (\bar W_l + I) / 2`, with rows divided by their sums. The sum of a signed row may be 0, so
here rows are not divided:

.. math:: R^{signed} = \prod_l \tfrac{1}{2} (I + \bar W_l), \quad \bar W_l = \bar W_l^+ - \bar W_l^-, \qquad
          R^{abs} = \prod_l \tfrac{1}{2} (I + \bar W_l^+ + \bar W_l^-),

where :math:`\bar W^\pm` are the means over heads of the positive parts and of the sizes of the negative parts. A product of sums is a sum
over paths through the layers, and a path is negative where an odd number of its weights is. So
:math:`R^{positive} = (R^{abs} + R^{signed}) / 2` adds up the positive paths, and :math:`R^{negative} = (R^{abs} - R^{signed}) / 2` the
sizes of the negative ones. For softmax R is Abnar and Zuidema's, as its rows sum to 1.

Rollout takes values for the identity, so it needs weights whose signs mean something: oriented ones. As the orientation of every layer
refers to the logit, terms of first order have the right sign, while products of several layers' weights are an approximation.
"""

import torch
from torch import Tensor

VARIANTS = ("signed", "abs", "positive", "negative")


def rollout(weights: Tensor, variant: str = "signed", *, residual: bool = True) -> Tensor:
    """Attention multiplied up through the layers.

    Args:
        weights: `[L, H, Q, K]` with Q = K, the first layer first.
        variant: `"signed"`, `"abs"`, `"positive"` or `"negative"`; the last is returned as absolute values.
        residual: whether half of each layer is the identity; without it a layer is its weights alone.

    Returns:
        `[Q, K]`: how much of input K reaches output Q.

    Raises:
        ValueError: another variant, or weights that are not square.
    """
    if variant not in VARIANTS:
        raise ValueError(f"there is no rollout variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    if weights.dim() != 4 or weights.shape[-1] != weights.shape[-2]:
        raise ValueError(f"rollout takes weights [layers, heads, length, length], but got {tuple(weights.shape)}")
    signed, absolute = (_layer_product(layers, residual) for layers in (weights.mean(1), weights.abs().mean(1)))
    return {"signed": signed, "abs": absolute, "positive": (absolute + signed) / 2, "negative": (absolute - signed) / 2}[variant]


def _layer_product(layers: Tensor, residual: bool) -> Tensor:
    identity = torch.eye(layers.shape[-1], dtype=layers.dtype, device=layers.device)
    product = identity
    for layer in layers:
        product = ((identity + layer) / 2 if residual else layer) @ product
    return product
