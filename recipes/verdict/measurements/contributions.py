r"""Faithfulness of attention: contributions of words to the answer, beside what hiding each word does.

From the first token, in the last layer, word j contributes :math:`\sum_h w_{hj}\, v_{hj} \cdot \partial z / \partial o_h` to the logit z of
the answer, with :math:`o_h` the output of head h at the first token. The effect is the answer's probability less that with the word hidden
by the attention mask.
"""

import math
import statistics
from typing import Any

import torch
from scipy.stats import kendalltau
from torch import Tensor
from transformers import PreTrainedModel

from hf_tanhmax.integration.hooks import AttentionCall, AttentionFunction, replace_attention
from hf_tanhmax.integration.patching import attention_modules

from ..data.batches import LABELS, Batch
from ..maps.registry import MAPS, output_of
from ..training import inputs_of

ROWS = 64  # the first ones


def contributions_tau(model: PreTrainedModel, map_name: str, batches: list[Batch]) -> dict[str, Any]:
    """Kendall's tau-b of contributions and effects in each text, and its mean over the texts in which it is defined.

    Returns:
        `tau`; `weights_tau`, the same of the weights from the first token alone (mean over heads); `texts`, of which it is the mean.
    """
    model.eval()
    taus: dict[str, list[float]] = {"tau": [], "weights_tau": []}
    for inputs in _single_rows(batches):
        contributions, weights, answer = _contributions(model, map_name, inputs)
        words = [place for place in inputs["attention_mask"][0].nonzero().flatten().tolist() if place]
        effects = _effects(model, inputs, words, answer)
        for name, scores in (("tau", contributions), ("weights_tau", weights)):
            tau = float(kendalltau(scores[words].double().numpy(), effects.numpy()).statistic) if len(words) > 1 else math.nan
            if not math.isnan(tau):
                taus[name].append(tau)
    means = {name: statistics.fmean(found) if found else None for name, found in taus.items()}
    return {**means, "texts": len(taus["tau"])}


def _single_rows(batches: list[Batch]) -> list[Batch]:
    rows = [(inputs_of(batch), row) for batch in batches for row in range(len(batch[LABELS]))]
    return [{name: value[row : row + 1] for name, value in inputs.items()} for inputs, row in rows[:ROWS]]


def _contributions(model: PreTrainedModel, map_name: str, inputs: Batch) -> tuple[Tensor, Tensor, int]:
    """Contributions and weights of all places `[length]`, and the class that the model predicts."""
    seen: dict[str, Tensor] = {}

    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
        weights = MAPS[map_name].weights(call)
        output = output_of(call, weights)
        heads = weights.shape[1]
        seen["value"] = call.value.repeat_interleave(heads // call.value.shape[1], dim=1)[0]
        seen["weights"], seen["output"] = weights[0, :, 0], output
        return output, weights

    function: AttentionFunction = _attend
    with torch.enable_grad(), replace_attention(attention_modules(model)[-1:], function):
        logits = model(**inputs).logits[0]
        answer = int(logits.argmax())
        (gradient,) = torch.autograd.grad(logits[answer], seen["output"])
    per_head = torch.einsum("hj,hjd,hd->j", seen["weights"], seen["value"], gradient[0, 0])
    return per_head.detach(), seen["weights"].detach().mean(0), answer


@torch.no_grad()
def _effects(model: PreTrainedModel, inputs: Batch, words: list[int], answer: int) -> Tensor:
    """Of hiding each word, [words], float64."""
    copies = {name: value.expand(len(words) + 1, *value.shape[1:]) for name, value in inputs.items()}
    mask = copies["attention_mask"].clone()
    mask[torch.arange(1, len(words) + 1), words] = 0
    probabilities = model(**{**copies, "attention_mask": mask}).logits.double().softmax(-1)[:, answer]
    return probabilities[0] - probabilities[1:]
