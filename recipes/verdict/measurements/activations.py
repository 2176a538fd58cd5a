"""Outliers of hidden states, and what coarse weights and inputs of the linear layers cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.batches import Batch
from ..plan import Task
from ..training import evaluate, inputs_of

BITS = {"int8": 8, "int4": 4}  # of weights
INPUT_BITS = 8


@torch.no_grad()
def kurtosis(model: PreTrainedModel, batches: list[Batch]) -> dict[str, float]:
    """Of the hidden states after each layer: fourth central moment over the squared variance (3 of normal numbers), over the features of
    each real token, in the mean over tokens.

    Returns:
        `largest` of the layers, and `last`.
    """
    model.eval()
    sums, tokens = torch.zeros(0), 0.0
    for batch in batches:
        states = model(**inputs_of(batch), output_hidden_states=True).hidden_states[1:]
        hidden = torch.stack([state.double() for state in states])  # [layers, batch, tokens, width]
        centred = hidden - hidden.mean(-1, keepdim=True)
        found = (centred**4).mean(-1) / (centred**2).mean(-1).clamp(min=1e-30) ** 2
        mask = batch.get("attention_mask")
        real = torch.ones(found.shape[1:], dtype=torch.float64) if mask is None else mask.double()
        total = (found * real).sum((1, 2))
        sums, tokens = total if not len(sums) else sums + total, tokens + real.sum().item()
    layers = sums / tokens
    return {"largest": layers.max().item(), "last": layers[-1].item()}


def quantised(model: PreTrainedModel, task: Task, batches: list[Batch]) -> dict[str, Any]:
    """Metrics with the linear layers of all layers rounded: weights to as many bits as it says, a scale per output; inputs to 8 bits, a
    scale per batch. Embeddings and the head stay as they are.

    Returns:
        `float`, `int8`, `int4`: each `loss`, and `accuracy` of a classifier.
    """
    found = {"float": _summary(evaluate(model, task, batches))}
    for name, bits in BITS.items():
        with _rounded(model, bits):
            found[name] = _summary(evaluate(model, task, batches))
    return found


def rounded(values: Tensor, bits: int, dim: int | None = None) -> Tensor:
    """Values on a symmetric grid of 2^bits - 1 points, up to the largest absolute value (of each slice along `dim`, if given)."""
    levels = 2 ** (bits - 1) - 1
    largest = values.abs().amax() if dim is None else values.abs().amax(dim, keepdim=True)
    scale = largest / levels
    scale = scale.masked_fill(scale == 0, 1)  # also of a subnormal number where those count as 0
    return (values / scale).round().clamp(-levels, levels) * scale


@contextmanager
def _rounded(model: PreTrainedModel, bits: int) -> Iterator[None]:
    layers = linear_layers(model)
    before = [layer.weight.detach().clone() for layer in layers]
    hooks = [layer.register_forward_pre_hook(lambda _, arguments: (rounded(arguments[0], INPUT_BITS),)) for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                layer.weight.copy_(rounded(layer.weight, bits, dim=1))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for layer, weight in zip(layers, before, strict=True):
                layer.weight.copy_(weight)


def linear_layers(model: PreTrainedModel) -> list[nn.Linear]:
    """Those inside the layers of attention and MLP."""
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [layer for stack in stacks for layer in stack.modules() if isinstance(layer, nn.Linear)]


def _summary(found: dict[str, Any]) -> dict[str, float]:
    return {name: found[name] for name in ("loss", "accuracy") if name in found}
