"""Signs, sinks and two-signed heads: sums over the attention weights of all heads."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tanhmax.integration.hooks import AttentionCall, AttentionFunction, replace_attention
from hf_tanhmax.integration.patching import attention_modules

from ..data.batches import Batch
from ..maps.registry import MAPS, output_of, polarities_of
from ..training import inputs_of

TWO_SIGNED = 0.1  # the least share of either sign
SINK = 0.3  # of the absolute weight on the first token, from which on a head counts as a sink


@dataclass
class _Sums:
    """Of one module: absolute weight, negative weight and that on the first token, each `[heads]`, and the number of rows of weights."""

    absolute: Tensor
    negative: Tensor
    first: Tensor
    rows: int


@torch.no_grad()
def attention_signs(model: PreTrainedModel, map_name: str, batches: list[Batch]) -> dict[str, Any]:
    """Means over real queries.

    Returns:
        `negative_mass`, the negative share of the sum of absolute weights; `weight_sum`, that sum per query; `two_signed`, the share of
        heads in which each sign has at least a tenth of it; `sink_share`, the share of it on the first token, and `sink_heads`, the share
        of heads where that is above 0.3; `per_head`, negative mass `[layer][head]`; `polarities`, those that were learned.
    """
    model.eval()
    modules = attention_modules(model)
    sums: dict[int, _Sums] = {}
    for batch in batches:
        real = batch.get("attention_mask")
        functions = [_counting(map_name, place, real, sums) for place in range(len(modules))]
        with replace_attention(modules, functions):
            model(**inputs_of(batch))
    found = [sums[place] for place in range(len(modules))]
    absolute, negative, first = (torch.stack([getattr(each, name) for each in found]) for name in ("absolute", "negative", "first"))
    share, sink = negative / absolute, first / absolute
    return {
        "negative_mass": (negative.sum() / absolute.sum()).item(),
        "weight_sum": (absolute.sum() / sum(each.rows for each in found) / absolute.shape[1]).item(),
        "two_signed": ((share >= TWO_SIGNED) & (share <= 1 - TWO_SIGNED)).double().mean().item(),
        "sink_share": (first.sum() / absolute.sum()).item(),
        "sink_heads": (sink > SINK).double().mean().item(),
        "per_head": [[round(value, 4) for value in layer] for layer in share.tolist()],
        "polarities": polarities_of(model),
    }


def _counting(map_name: str, place: int, real: Tensor | None, sums: dict[int, _Sums]) -> AttentionFunction:
    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
        weights = MAPS[map_name].weights(call)
        exact = weights.double()
        if real is not None:
            exact = exact * real[:, None, :, None]
        queries = weights.shape[0] * weights.shape[2] if real is None else int(real.sum())
        dims = (0, 2, 3)
        new = _Sums(exact.abs().sum(dims), -exact.clamp(max=0).sum(dims), exact[..., 0].abs().sum((0, 2)), queries)
        old = sums.get(place)
        sums[place] = new if old is None else _added(old, new)
        return output_of(call, weights), weights

    return _attend


def _added(old: _Sums, new: _Sums) -> _Sums:
    return _Sums(old.absolute + new.absolute, old.negative + new.negative, old.first + new.first, old.rows + new.rows)
