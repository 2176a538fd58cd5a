"""Which sign of the weights carries information: a trained model with its weights changed, row by row beside the model as it is.

`hf_tanhmax.interpret.ablation.interventions` defines the changes; here they are made to the weights of any map. Where keys are masked, the
map is computed again over those that are left; differential attention and a balanced shift, whose weights are differences, may then have
negative weights among them.
"""

from dataclasses import replace
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tanhmax.integration.hooks import AttentionCall, AttentionFunction, replace_attention
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.interpret.ablation.ablate import AS_IS, paired_intervals
from hf_tanhmax.interpret.ablation.interventions import MASKED, changed_weights

from ..data.batches import LABELS, Batch
from ..maps.registry import MAPS, output_of
from ..plan import Task
from ..training import row_scores

INTERVENTIONS = (
    *("negatives_masked", "positives_masked", "positives_renormalised"),
    *("negatives_spread", "negatives_permuted", "made_positive"),
)
SAMPLES, SEED = 1000, 0


@torch.no_grad()
def sign_effects(model: PreTrainedModel, map_name: str, task: Task, batches: list[Batch]) -> dict[str, Any]:
    """`as_is`, and for each intervention `cost`: how much better the metric is without it, with the interval `low` to `high` of 95 %.

    The metric is accuracy, or less the loss; the interval is a bootstrap over rows, paired. Softmax has no negative weights, so nothing is
    measured of it but what masking its positive ones would be: nothing is returned.
    """
    if not MAPS[map_name].signed:
        return {}
    model.eval()
    modules = attention_modules(model)
    totals = {AS_IS: torch.cat([row_scores(model, task, batch) for batch in batches])}
    for name in INTERVENTIONS:
        scores, index = [], 0
        for batch in batches:
            rows = len(batch[LABELS])
            functions = [_changed(name, map_name, [(SEED, index + row, place) for row in range(rows)]) for place in range(len(modules))]
            with replace_attention(modules, functions):
                scores.append(row_scores(model, task, batch))
            index += rows
        totals[name] = torch.cat(scores)
    arrays = {name: found.double().numpy() for name, found in totals.items()}
    intervals = paired_intervals(arrays, numpy.ones(len(totals[AS_IS])), samples=SAMPLES, seed=SEED)
    as_is = float(arrays[AS_IS].mean())
    effects = {}
    for name in INTERVENTIONS:
        low, high = intervals[name]  # of the metric with it less the metric as is
        effects[name] = {"cost": as_is - float(arrays[name].mean()), "low": -high, "high": -low}
    return {"as_is": as_is, "rows": len(totals[AS_IS]), "effects": effects}


def _changed(name: str, map_name: str, seeds: list[tuple[int, ...]]) -> AttentionFunction:
    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
        weights = MAPS[map_name].weights(call)
        per_weight = call.query.shape[1] // weights.shape[1]
        if name in MASKED:
            keep = ~MASKED[name](weights).repeat_interleave(per_weight, dim=1)
            found = MAPS[map_name].weights(call.seeing(keep))
        else:
            found = changed_weights(name, _halved(call, per_weight), weights, seeds)
        return output_of(call, found), found

    return _attend


def _halved(call: AttentionCall, per_weight: int) -> AttentionCall:
    """The call as if it had one query per weight, for which keys are visible to each."""
    return call if per_weight == 1 else replace(call, query=call.query[:, ::per_weight])
