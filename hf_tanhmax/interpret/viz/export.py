"""Arguments of other viewers, bertviz and circuitsvis, which need not be installed to make them."""

from typing import TypedDict

import torch
from torch import Tensor

from ..attribution.explanation import Explanation
from .colours import NEGATIVE, POSITIVE


class BertvizArguments(TypedDict):
    """`attention`, one tensor `[1, 2H, Q, K]` per layer, and `tokens`."""

    attention: list[Tensor]
    tokens: list[str]


class CircuitsvisArguments(TypedDict):
    """`attention`, `[L H, Q, K]`, names of tokens and heads, and the range and colours of its numbers."""

    attention: Tensor
    tokens: list[str]
    attention_head_names: list[str]
    min_value: float
    max_value: float
    negative_color: str
    positive_color: str
    mask_upper_tri: bool


def to_bertviz(explanation: Explanation, *, oriented: bool = True) -> BertvizArguments:
    """Arguments for `bertviz.head_view(**...)` and `bertviz.model_view(**...)`.

    bertviz makes a weight the opacity of a line, so negative ones would vanish. Here every head becomes two, side by side: bertviz's head
    2h draws the positive weights of head h, and its head 2h + 1 the absolute values of the negative ones. Layers are counted from 0 in the
    order of `explanation.layers`.

    Args:
        explanation: what to show.
        oriented: whether to show oriented weights, so that even heads speak for the target and odd ones against it; else raw ones.
    """
    weights = explanation.oriented if oriented else explanation.weights
    positive_and_negative = torch.stack([weights.clamp(min=0), (-weights).clamp(min=0)], dim=2).flatten(1, 2)
    return {"attention": list(positive_and_negative[:, None]), "tokens": list(explanation.tokens)}


def to_circuitsvis(explanation: Explanation, *, oriented: bool = True) -> CircuitsvisArguments:
    """Arguments for `circuitsvis.attention.attention_heads(**...)`: every head of every layer, by name.

    circuitsvis colours negative weights; both ends of its range are set to the largest |w| here, so that white is 0 and colours can be
    compared, and the colours are safe for the colour-blind. (`attention_patterns`, its older function, is deprecated and takes no colours.)

    Args:
        explanation: what to show.
        oriented: whether to show oriented weights; else raw ones.
    """
    weights = explanation.oriented if oriented else explanation.weights
    largest = float(weights.abs().max())
    return {
        "attention": weights.flatten(0, 1),
        "tokens": list(explanation.tokens),
        "attention_head_names": [f"L{layer}H{head}" for layer in explanation.layers for head in range(weights.shape[1])],
        "min_value": -largest,
        "max_value": largest,
        "negative_color": NEGATIVE[-1],
        "positive_color": POSITIVE[-1],
        "mask_upper_tri": weights.shape[-1] > 1 and not bool(weights.triu(1).any()),
    }
