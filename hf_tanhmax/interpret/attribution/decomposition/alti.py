r"""ALTI (Ferrando, Gállego and Costa-jussà 2022) and ALTI-Logit (Ferrando et al. 2023): attention as a sum of vectors of its tokens.

Attention and residual stream together are a sum over tokens, :math:`y_i = \sum_j T_{ij} + b` with

.. math:: T_{ij} = \sum_h w^h_{ij} W_O^h v^h_j + \delta_{ij} x_i,

behind the LayerNorm of the sum in BERT, whose deviation is taken as a constant. **ALTI** says how much token j is in y_i by how much nearer
T brings it, :math:`c_{ij} = \max(0, \|y_i\|_1 - \|y_i - T_{ij}\|_1)`, divided by the sum of its row, and multiplies layers up. MLPs mix no
tokens and are left out.

A signed weight needs no care of its own here: w v does not change where query and value weights of a head change sign together, and a
vector that points away from the output has c = 0 whatever the sign of its weight; how much that leaves out is told. **ALTI-Logit** keeps
the signs. The residual stream brings to the logit, by the path that no later layer touches,

.. math:: \sum_{l, i, h, j} w^{lh}_{ij} \langle v^{lh}_j, g^{lh}_i \rangle + \sum_i \langle x^0_i, g^0_i \rangle + \text{MLPs and biases},

with g the gradient of the logit along that path alone, norms and element-wise functions of the head by the rules of `rules`. The term of
token j in layer l is traced to the input by ALTI's shares of the layers below. What MLPs write is given to no token, and is told.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ....integration.hooks import AttentionCall, AttentionFunction, replace_attention
from ....integration.patching import attention_modules
from ..forward_passes import without_cache
from ..hooks import LayerRecord, record_attention
from ..orientation import contributions_of
from ..target import Target, logits_of
from .attnlrp import first_hidden
from .layers import LayerParts, as_shares, known_layers, layer_parts, record_calls, rolled_out
from .rules import linear_norms_and_activations, normalised, tolerance

NUMBERS_AT_ONCE = 2**24  # of the vectors of a layer: memory, not result


@torch.no_grad()
def alti(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """How much of every token is in every other after each layer's attention.

    Args:
        model: in evaluation mode; its layers are those of BERT, ViT or LLaMA.
        inputs: a batch of one.

    Returns:
        Shares `[L, K, K]`, whose rows add up to 1, and per layer the part of all differences that points away and counts as 0, `[L]`;
        float32 on the CPU.

    Raises:
        ValueError: layers of another kind, or that add something else to the residual stream than what attention writes.
    """
    parts, layers = layer_parts(model), known_layers(model)
    readers = [each.reader for each in parts]
    with record_attention(model, list(range(len(parts)))) as records, record_calls(layers) as calls, record_calls(readers) as sums:
        model(**inputs, **without_cache(model))
    for each, record, call, read in zip(parts, records, calls, sums, strict=True):
        _check_sum(call.hidden[0], each.projection(record.outputs.flatten(2))[0], read.hidden.flatten(0, -2))
    found = [token_shares(each, record, call.hidden[0]) for each, record, call in zip(parts, records, calls, strict=True)]
    shares, away = zip(*found, strict=True)
    return torch.stack(shares).float().cpu(), torch.stack(away).float().cpu()


def _check_sum(stream: Tensor, written: Tensor, found: Tensor) -> None:
    """Architectures whose parts have the same names may multiply, norm or gate what attention writes before it is added."""
    rounding = 8 * torch.finfo(found.dtype).eps * found.abs().max()
    if (stream + written - found).abs().max() > 3 * tolerance(found) * written.abs().max() + rounding:
        raise ValueError("its layers do more to what attention writes than to add it to the residual stream, which ALTI does not know")


def token_shares(parts: LayerParts, record: LayerRecord, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """ALTI's shares of one layer, `[K, K]`, and the part of the differences that is below 0.

    Args:
        parts: of the layer.
        record: weights, values and outputs of its heads.
        hidden: the residual stream before it, `[K, D]`.
    """
    weights, values, heads = record.weights[0], record.values[0], len(record.weights[0])
    projected = torch.stack([_projected(parts.projection, values[head], head, heads) for head in range(heads)])  # [H, K, D]
    outputs = hidden + parts.projection(record.outputs.flatten(2))[0]
    count, rows = len(hidden), []
    at_once = max(1, NUMBERS_AT_ONCE // projected[0].numel())
    for start in range(0, count, at_once):
        queries = range(start, min(start + at_once, count))
        vectors = torch.einsum("hij,hjd->ijd", weights[:, queries.start : queries.stop].to(projected.dtype), projected)
        for row, query in enumerate(queries):
            vectors[row, query] += hidden[query]
        output = outputs[queries.start : queries.stop]
        if parts.norm is not None:
            vectors = normalised(parts.norm, vectors, output[:, None])
            output = parts.norm(output)
        rows.append(output.norm(p=1, dim=-1, keepdim=True) - (output[:, None] - vectors).norm(p=1, dim=-1))
    nearer = torch.cat(rows).double()
    away = (-nearer).clamp(min=0).sum() / nearer.abs().sum().clamp(min=torch.finfo(nearer.dtype).tiny)
    return as_shares(nearer.clamp(min=0)), away


def _projected(projection: nn.Module, values: Tensor, head: int, heads: int) -> Tensor:
    """What the output projection makes of one head's values, without its bias, `[K, D]`."""
    side_by_side = torch.zeros(values.shape[0], heads, values.shape[1], dtype=values.dtype, device=values.device)
    side_by_side[:, head] = values
    return projection(side_by_side.flatten(1)) - projection(torch.zeros_like(side_by_side[:1]).flatten(1))


@dataclass(frozen=True)
class DirectLogit:
    """What the residual stream brings to a logit by the path that no later layer touches; in logits, float32 on the CPU.

    Attributes:
        attention: what each layer's attention takes from every token, all queries together, `[L, K]`.
        embeddings: of the stream before the first layer, `[K]`.
        mlps: of the MLPs together.
    """

    attention: Tensor
    embeddings: Tensor
    mlps: float


def direct_logit(model: PreTrainedModel, inputs: Mapping[str, Tensor], target: Target) -> DirectLogit:
    """Take the target's logit apart into what attention, MLPs and embeddings write into the residual stream.

    Args:
        model: in evaluation mode, gradients enabled; its layers are those of BERT, ViT or LLaMA.
        inputs: a batch of one.
        target: which logit.
    """
    parts = layer_parts(model)
    leaves: list[tuple[AttentionCall, Tensor, Tensor]] = []

    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
        outputs, weights = call.compute_with_weights()
        leaf = outputs.detach().requires_grad_()
        leaves.append((call, weights.detach(), leaf))
        return leaf, weights.detach()

    attend: AttentionFunction = _attend
    with (
        linear_norms_and_activations(model),
        replace_attention(attention_modules(model), attend),
        _cut_off([each.branch for each in parts]) as branches,
        first_hidden(model) as hidden,
    ):
        logit = target.of(logits_of(model(**inputs, **without_cache(model)), model)).sum()
    sources = [*(leaf for _, _, leaf in leaves), *branches, *hidden]
    gradients = torch.autograd.grad(logit, sources, materialize_grads=True)
    attention = []
    for (call, weights, _), gradient in zip(leaves, gradients, strict=False):
        per_query = contributions_of(weights[0], call.value_per_head[0].detach().to(weights.dtype), gradient[0].transpose(0, 1))
        attention.append(per_query.sum((0, 1)).float().cpu())
    written = [(source.detach() * gradient)[0] for source, gradient in zip(sources, gradients, strict=True)]
    return DirectLogit(
        attention=torch.stack(attention),
        embeddings=written[-1].sum(-1).float().cpu(),
        mlps=float(sum(values.double().sum() for values in written[len(leaves) : -1])),
    )


@contextmanager
def _cut_off(branches: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Let no gradient pass through modules, in a `with` block; yields a list that holds their outputs after a forward pass."""
    outputs: list[Tensor] = []

    def _leaf(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        outputs.append(output.detach().requires_grad_())
        return outputs[-1]

    handles = [branch.register_forward_hook(_leaf) for branch in branches]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def alti_logit(direct: DirectLogit, shares: Tensor, layers: tuple[int, ...]) -> Tensor:
    """The scores `[K]`: what each layer takes from its tokens, traced to the input, and the embeddings' own part.

    Args:
        direct: parts of the logit.
        shares: of `alti`, `[L, K, K]`.
        layers: those whose attention counts.
    """
    scores = direct.embeddings.clone()
    for layer in layers:
        below = rolled_out(list(shares[:layer])) if layer else torch.eye(len(scores))
        scores += direct.attention[layer] @ below
    return scores
