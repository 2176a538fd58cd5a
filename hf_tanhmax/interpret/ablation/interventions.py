r"""What `ablate_negatives` does to the attention weights: each row (one query of one head) w over its visible keys V becomes another one.

Let :math:`w^+ = \max(w, 0)` and :math:`w^- = \min(w, 0)`; let J be the keys whose weight is negative. Sums run over V.

* `negatives_masked`: the map over the keys that are not in J; those in J are hidden from the sum and from the normaliser. Without a shift
  no other weight changes its sign thereby, so none is negative. With a balanced shift P and N are recomputed over the keys that are left,
  so some of these may be negative now, and the row still sums to (1 - p) / (1 + p).
* `positives_masked`: the map over the keys whose weight is not above 0, in the same way.
* `negatives_zeroed`: :math:`w^+`. This is no test of whether negative weights are used: in the normaliser the share of the negative keys
  stays, and still tells how much weight was negative. It is there to be compared with `negatives_masked`.
* `positives_renormalised`: :math:`w^+ s / \sum w^+`, with s the whole absolute weight :math:`\sum |w|` of the row; with a balanced shift
  s is its net weight :math:`\sum w`, which the shift fixes at (1 - p) / (1 + p) (from p = 1 on nothing is left of the row).
* `negatives_spread`: :math:`w^+ + \sum w^- / |V|`, every visible key the same part of the negative weight.
* `negatives_permuted`: :math:`w^+_j + w^-_{\pi(j)}` with a random permutation of V.
* `negatives_shuffled`: :math:`w_{\pi(j)}` for j in J, with a random permutation of J; other weights stay. Signs stay where they are.
* `made_positive`: :math:`|w|`.

A row without a negative weight stays as it is under all of them but `positives_masked`. A row of which no key is left is 0, as any row
without a key. Keys that are not visible (the future, padding) have weight 0 before and after. Heads that compute softmax stay as they are.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...integration.hooks import AttentionCall, AttentionFunction, signed_heads
from ..attribution.hooks import seeded_noise

# Which keys are hidden, by their weights.
MASKED: dict[str, Callable[[Tensor], Tensor]] = {
    "negatives_masked": lambda weights: weights < 0,
    "positives_masked": lambda weights: weights > 0,
}
SHUFFLED = ("negatives_permuted", "negatives_shuffled")


def intervention(name: str, seeds: Sequence[tuple[int, ...]]) -> AttentionFunction:
    """Attention with an intervention on the weights of the signed heads.

    Args:
        name: of `hf_tanhmax.choices.INTERVENTIONS`.
        seeds: one per input of the batch, for those that are random.
    """

    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
        weights = call.compute_with_weights()[1]
        if name in MASKED:
            signed = signed_heads(call.module.config, weights.shape[1]).to(weights.device)[:, None, None]
            return call.seeing(~(MASKED[name](weights) & signed)).compute_with_weights()
        changed = changed_weights(name, call, weights, seeds)  # the same where no weight is negative
        return call.weighted(changed), changed

    return _attend


def changed_weights(name: str, call: AttentionCall, weights: Tensor, seeds: Sequence[tuple[int, ...]]) -> Tensor:
    """Weights `[batch, heads, queries, keys]` after an intervention that is no mask.

    Args:
        name: of the intervention.
        call: that the weights come from.
        weights: as the module computes them.
        seeds: as in `intervention`.
    """
    positive, negative = weights.clamp(min=0), weights.clamp(max=0)
    if name == "negatives_zeroed":
        return positive
    if name == "positives_renormalised":
        balanced = getattr(call.module.config, "tanhmax_shift", None) is not None
        whole = (weights if balanced else weights.abs()).sum(-1, keepdim=True).clamp(min=0)
        total = positive.sum(-1, keepdim=True)
        return positive * whole / total.masked_fill(total == 0, 1.0)
    if name == "negatives_spread":
        visible = call.visible
        count = visible.sum(-1, keepdim=True).clamp(min=1)
        return positive + (negative.sum(-1, keepdim=True) / count).to(weights.dtype) * visible
    if name == "made_positive":
        return weights.abs()
    noise = seeded_noise(list(seeds), tuple(weights.shape[1:]), torch.rand, weights.float())
    if name == "negatives_permuted":
        return positive + permuted(negative, call.visible, noise)
    return permuted(weights, weights < 0, noise)


def permuted(values: Tensor, among: Tensor, noise: Tensor) -> Tensor:
    """Values of each row that change places among some of the keys; the others stay where they are.

    Args:
        values: `[..., keys]`.
        among: boolean, of the same shape.
        noise: numbers below infinity, of the same shape, all different; their order among the keys in question is the permutation.
    """
    places = (~among).to(torch.uint8).argsort(dim=-1, stable=True)
    order = noise.masked_fill(~among, torch.inf).argsort(dim=-1, stable=True)
    return torch.zeros_like(values).scatter(-1, places, values.gather(-1, order))
