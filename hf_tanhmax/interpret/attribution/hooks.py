"""Weights, values and outputs of every attention head in one forward pass, and a hand on them.

As in `patching`, an attention module gets a view of its config, for the length of a `with` block, that names another function of
Transformers' attention interface. That function computes what the module would have computed (TanhMax at its own polarity; softmax is
polarity 0) by the reference, which has weights, and hands weights, values and output to a recorder. Nothing else of the model changes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from ...patching import ConfigView, attention_modules
from ...registration import EAGER, FUSED, PAGED, eager_forward, fused_forward
from ...settings import LEARNED, TanhMaxSettings

WATCHED = f"{FUSED}_watched"
Attend = Callable[..., tuple[Tensor, Tensor | None]]


@dataclass
class LayerRecord:
    """One layer's attention in one forward pass; B inputs, H heads, Q queries, K keys, D the size of a value.

    Attributes:
        layer: index of the layer in the model, counted from 0.
        name: the module's path in the model.
        signed: whether the layer computes TanhMax at a polarity above 0.
        weights: `[B, H, Q, K]`, as they met the values.
        values: `[B, H, K, D]`, repeated where query heads share them.
        outputs: `[B, Q, H, D]`, part of the graph: gradients with respect to it can be asked for.
    """

    layer: int
    name: str
    signed: bool
    weights: Any = None
    values: Any = None
    outputs: Any = None


class WatchedConfig(ConfigView):
    """A config view whose module calls `attend(module, query, key, value, mask, **kwargs)` for its attention."""

    def __init__(self, config: Any, attend: Attend) -> None:
        super().__init__(config, None if computes_tanhmax(config) else TanhMaxSettings(polarity=0.0))
        vars(self)["attend"] = attend

    @property
    def _attn_implementation(self) -> str:
        return WATCHED


def watched_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """What Transformers calls for a watched module.

    Raises:
        ValueError: the module is not being watched.
    """
    attend = getattr(getattr(module, "config", None), "attend", None)
    if attend is None:
        raise ValueError(f'"{WATCHED}" is no attention implementation to choose; {type(module).__name__} should have "sdpa" or "eager"')
    return attend(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(WATCHED, watched_forward)


def computes_tanhmax(config: Any) -> bool:
    """Whether an attention module with this config calls TanhMax, be it by its class, by patching, or by `attn_implementation`."""
    return getattr(config, "_attn_implementation", None) in (FUSED, EAGER, PAGED)


def is_signed(config: Any) -> bool:
    """Whether an attention module with this config has weights below 0: TanhMax at a polarity above 0."""
    if not computes_tanhmax(config):
        return False
    polarity = getattr(config, "tanhmax_polarity", 1.0)
    return polarity == LEARNED or float(polarity) > 0


@contextmanager
def watching(modules: list[nn.Module], attend: Attend | list[Attend]) -> Iterator[None]:
    """Let attention modules call other functions inside a `with` block.

    Args:
        modules: attention modules, as `patching.attention_modules` finds them.
        attend: what they call instead, one for all or one for each; see `WatchedConfig`.
    """
    functions = attend if isinstance(attend, list) else [attend] * len(modules)
    before = [(module, module.config) for module in modules]
    try:
        for (module, config), function in zip(before, functions, strict=True):
            module.config = WatchedConfig(config, function)  # type: ignore[assignment]
        yield
    finally:
        for module, config in before:
            module.config = config


@contextmanager
def recording(model: nn.Module, layers: list[int]) -> Iterator[list[LayerRecord]]:
    """Record the attention of some layers inside a `with` block; what is recorded is that of the last forward pass.

    Args:
        model: a model whose attention asks Transformers' interface.
        layers: indices into its attention modules, counted from 0.

    Yields:
        One record for each layer, filled by a forward pass.
    """
    named = {module: name for name, module in model.named_modules()}
    modules = attention_modules(model)
    chosen = [modules[layer] for layer in layers]
    records = [LayerRecord(layer, named[modules[layer]], is_signed(modules[layer].config)) for layer in layers]
    with watching(chosen, [_recorder(record) for record in records]):
        yield records


def _recorder(record: LayerRecord) -> Attend:
    def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        outputs, weights = eager_forward(module, query, key, value, mask, **kwargs)
        if torch.is_grad_enabled() and not outputs.requires_grad:
            outputs.requires_grad_()
        record.weights, record.values, record.outputs = weights, repeated(value, query), outputs
        return outputs, weights

    return _attend


def repeated(value: Tensor, query: Tensor) -> Tensor:
    """Values of every query head, `[batch, heads, keys, value_dim]`, from those of the key heads (GQA)."""
    return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)


def plainly(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
    """What a module computes anyway, by the fastest implementation: an `attend` that later ones are built on."""
    return fused_forward(module, query, key, value, mask, **kwargs)
