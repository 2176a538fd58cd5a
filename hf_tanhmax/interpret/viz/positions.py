"""Positions that a reader may hide: special tokens, attention sinks and padding.

A *sink* of one head is a key that holds at least 30 % of the head's absolute weight over all queries (the threshold of Gu et al. 2025,
"When attention sink emerges in language models"), and at least twice its even share. A position is a sink if it is one in a tenth of all
heads.
"""

import torch
from torch import Tensor

from ..attribution.explanation import Explanation

SPECIAL, SINK, PADDING = 1, 2, 4  # bits of a position's kind
SHARE, EVEN_SHARES, HEADS = 0.3, 2, 0.1


def position_kinds(explanation: Explanation) -> list[int]:
    """For each position the sum of its bits; 0 is an ordinary token. Of an image no position is special but those that are no patch."""
    sinks, padding = set(sink_positions(explanation)), set(explanation.padding)
    return [
        SPECIAL * (word is None) + SINK * (position in sinks) + PADDING * (position in padding)
        for position, word in enumerate(explanation.words)
    ]


def sink_positions(explanation: Explanation) -> tuple[int, ...]:
    """Positions on which many heads rest, in order."""
    sizes = explanation.weights.abs().sum(-2)
    shares = sizes / sizes.sum(-1, keepdim=True).clamp(min=torch.finfo(sizes.dtype).tiny)
    is_sink = shares >= max(SHARE, EVEN_SHARES / shares.shape[-1])
    return tuple((is_sink.flatten(0, 1).double().mean(0) >= HEADS).nonzero().flatten().tolist())


def parts_of_heads(explanation: Explanation, contributions: Tensor, kinds: list[int]) -> dict[int, dict[str, dict[str, Tensor]]]:
    """What keys of each kind add to the one number of every head, and the largest number among them.

    Both are `[L, H]`: of "numbers" for each view the sums add up to `head_numbers`, of "reach" for each kind of matrix the largest is that
    of the head. So a page can leave kinds out.

    Args:
        explanation: of anything.
        contributions: those that a page holds, `[L, H, Q or 1, K]`.
        kinds: as `position_kinds` gives them.
    """
    each = torch.tensor(kinds)
    weights, shares = explanation.weights, explanation.contributions
    # Of every key, [L, H, K].
    raw = weights.sum(-2) / weights.shape[-2]
    sums = {"raw": raw, "oriented": raw * explanation.orientation[..., None], "contributions": shares.sum(-2)}
    peaks = {"weights": weights.abs().amax(-2), "contributions": contributions.abs().amax(-2)}
    parts = {}
    for kind in sorted(set(kinds)):
        columns = (each == kind).nonzero().flatten()
        parts[kind] = {
            "numbers": {view: values[..., columns].sum(-1) for view, values in sums.items()},
            "reach": {name: values[..., columns].amax(-1) for name, values in peaks.items()},
        }
    return parts
