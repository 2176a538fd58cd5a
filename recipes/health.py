"""Attention health: how much of the attention is negative, and how much there is of it.

Over the weights w of real (not padded) queries and keys of one layer:

* negative mass = sum of |w| where w < 0, divided by sum of |w|; softmax has 0
* weight sum = sum over keys of |w|, mean over heads and queries; softmax has 1, TanhMax at most 1, and 0 is attention that does nothing
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


class AttentionHealth:
    """Sums over batches, layer by layer."""

    def __init__(self) -> None:
        self._layers: list[list[float]] = []

    def add(self, attentions: Iterable[Tensor], attention_mask: Tensor) -> None:
        """Count one batch.

        Args:
            attentions: for each layer, weights `[batch, heads, queries, keys]`.
            attention_mask: `[batch, length]`, not 0 where a token is real.
        """
        real = attention_mask.bool()
        pairs = real[:, None, :, None] & real[:, None, None, :]
        for index, weights in enumerate(attentions):
            if index == len(self._layers):
                self._layers.append([0.0, 0.0, 0.0])
            kept = torch.where(pairs, weights.double(), 0.0)
            queries = int(real.sum()) * weights.shape[1]
            counted = (float(-kept.clamp(max=0.0).sum()), float(kept.abs().sum()), float(queries))
            self._layers[index] = [total + new for total, new in zip(self._layers[index], counted, strict=True)]

    def report(self) -> dict[str, Any]:
        """`overall` and `layers`, each with `negative_mass` and `weight_sum`.

        Raises:
            ValueError: nothing was counted, as with attention that returns no weights.
        """
        if not self._layers:
            raise ValueError('the model returned no attention weights; load it with attn_implementation="eager"')
        overall = [sum(column) for column in zip(*self._layers, strict=True)]
        return {"overall": _ratios(overall), "layers": [_ratios(layer) for layer in self._layers]}


def attention_health(model: PreTrainedModel, batches: Iterable[dict[str, Tensor]]) -> dict[str, Any]:
    """Run a model over batches and report on its attention, with `polarity_per_head` `[layer][head]` if polarity is learned.

    Args:
        model: a model with weights to show (`attn_implementation="eager"`), left in evaluation mode.
        batches: inputs of the model, with `attention_mask`.
    """
    health = AttentionHealth()
    model.eval()
    with torch.no_grad():
        for batch in batches:
            inputs = {key: value.to(model.device) for key, value in batch.items()}
            health.add(model(**inputs, output_attentions=True).attentions, inputs["attention_mask"])
    report = health.report()
    biases = [value for name, value in model.named_parameters() if name.endswith("tanhmax_score_bias")]
    if biases:
        report["polarity_per_head"] = [torch.exp(-2.0 * bias.detach().double()).tolist() for bias in biases]
    return report


def _ratios(sums: list[float]) -> dict[str, float]:
    negative, absolute, queries = sums
    return {"negative_mass": negative / absolute if absolute else 0.0, "weight_sum": absolute / queries if queries else 0.0}
