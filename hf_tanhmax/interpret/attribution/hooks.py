"""Hooks on attention modules: record what every head computes in a forward pass, or compute attention with other weights.

As in `patching`, an attention module gets a view of its config, for the length of a `with` block, that names another function of
Transformers' attention interface. That function passes the module's call on to an `AttentionFunction`, which records what the module
computes anyway (TanhMax at its own polarity; softmax is polarity 0), or computes something else. Nothing else of the model changes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import numpy
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig

from ...integration.patching import ConfigView, attention_modules
from ...integration.registration import EAGER, FUSED, PAGED, eager_forward, fused_forward
from ...settings import LEARNED, TanhMaxSettings

HOOKED = f"{FUSED}_hooked"


@dataclass(frozen=True)
class AttentionCall:
    """The arguments of one call of an attention function.

    Attributes:
        module: the attention module that calls.
        query: `[batch, heads, queries, head_dim]`.
        key: `[batch, kv_heads, keys, head_dim]`.
        value: `[batch, kv_heads, keys, value_dim]`.
        mask: None, boolean (True takes part) or additive.
        options: whatever else Transformers passes, such as `scaling`.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: Mapping[str, Any]

    @property
    def value_per_head(self) -> Tensor:
        """Values, repeated where query heads share them, `[batch, heads, keys, value_dim]`."""
        return self.value.repeat_interleave(self.query.shape[1] // self.value.shape[1], dim=1)

    def compute(self) -> tuple[Tensor, Tensor | None]:
        """Output `[batch, queries, heads, value_dim]` by the fastest implementation, and weights if the model was asked for them."""
        return fused_forward(self.module, self.query, self.key, self.value, self.mask, **self.options)

    def compute_with_weights(self) -> tuple[Tensor, Tensor]:
        """The same output by the reference, and weights `[batch, heads, queries, keys]`."""
        output, weights = eager_forward(self.module, self.query, self.key, self.value, self.mask, **self.options)
        return output, cast(Tensor, weights)


AttentionFunction: TypeAlias = Callable[[AttentionCall], tuple[Tensor, Tensor | None]]


@dataclass
class LayerRecord:
    """One layer's attention in one forward pass; B inputs, H heads, Q queries, K keys, D the size of a value.

    Attributes:
        layer: index of the layer in the model, counted from 0.
        name: the module's path in the model.
        signed: whether the layer computes TanhMax at a polarity above 0.
        weights: `[B, H, Q, K]`, as multiplied with the values. The three tensors are set when the layer is called.
        values: `[B, H, K, D]`, repeated where query heads share them.
        outputs: `[B, Q, H, D]`, part of the graph: gradients with respect to it can be asked for.
    """

    layer: int
    name: str
    signed: bool
    weights: Tensor = field(init=False)
    values: Tensor = field(init=False)
    outputs: Tensor = field(init=False)

    @property
    def recorded(self) -> bool:
        """Whether the layer was called."""
        return hasattr(self, "weights")


class HookedConfig(ConfigView):
    """A config view whose module calls `function` for its attention."""

    def __init__(self, config: PreTrainedConfig | ConfigView, function: AttentionFunction) -> None:
        super().__init__(config, None if computes_tanhmax(config) else TanhMaxSettings(polarity=0.0))
        vars(self)["function"] = function

    @property
    def _attn_implementation(self) -> str:
        return HOOKED


def hooked_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **options: object
) -> tuple[Tensor, Tensor | None]:
    """What Transformers calls for a hooked module.

    Raises:
        ValueError: the module has no hook.
    """
    function = getattr(getattr(module, "config", None), "function", None)
    if function is None:
        raise ValueError(f'"{HOOKED}" is no attention implementation to choose; {type(module).__name__} should have "sdpa" or "eager"')
    return function(AttentionCall(module, query, key, value, attention_mask, options))


AttentionInterface.register(HOOKED, hooked_forward)


def computes_tanhmax(config: object) -> bool:
    """Whether an attention module with this config calls TanhMax: by its class, by patching, or by `attn_implementation`."""
    return getattr(config, "_attn_implementation", None) in (FUSED, EAGER, PAGED)


def is_signed(config: object) -> bool:
    """Whether an attention module with this config has weights below 0: TanhMax at a polarity above 0, with a balanced shift or without."""
    if not computes_tanhmax(config):
        return False
    polarity = getattr(config, "tanhmax_polarity", 1.0)
    return polarity == LEARNED or float(polarity) > 0


@contextmanager
def replace_attention(modules: list[nn.Module], functions: AttentionFunction | list[AttentionFunction]) -> Iterator[None]:
    """Let attention modules call other functions inside a `with` block.

    Args:
        modules: attention modules, as `patching.attention_modules` finds them.
        functions: what they call instead, one for all modules or one per module.
    """
    per_module = functions if isinstance(functions, list) else [functions] * len(modules)
    before = [(module, cast(PreTrainedConfig | ConfigView, module.config)) for module in modules]
    try:
        for (module, config), function in zip(before, per_module, strict=True):
            module.config = HookedConfig(config, function)  # type: ignore[assignment]
        yield
    finally:
        for module, config in before:
            module.config = config  # type: ignore[assignment]


@contextmanager
def record_attention(model: nn.Module, layers: list[int]) -> Iterator[list[LayerRecord]]:
    """Record the attention of some layers inside a `with` block; the last forward pass is kept.

    Args:
        model: a model whose attention asks Transformers' interface.
        layers: indices into its attention modules, counted from 0.

    Yields:
        One record per layer, filled by a forward pass.
    """
    names = {module: name for name, module in model.named_modules()}
    all_modules = attention_modules(model)
    modules = [all_modules[layer] for layer in layers]
    records = [LayerRecord(layer, names[module], is_signed(module.config)) for layer, module in zip(layers, modules, strict=True)]
    with replace_attention(modules, [_recorder(record) for record in records]):
        yield records


def _recorder(record: LayerRecord) -> AttentionFunction:
    def _record(call: AttentionCall) -> tuple[Tensor, Tensor]:
        outputs, weights = call.compute_with_weights()
        if torch.is_grad_enabled() and not outputs.requires_grad:
            outputs.requires_grad_()
        record.weights, record.values, record.outputs = weights, call.value_per_head, outputs
        return outputs, weights

    return _record


def zeroed_keys(positions: list[list[int]]) -> AttentionFunction:
    """Attention in which some keys have weight 0 for every query; the other weights stay, and nothing is divided again.

    Args:
        positions: the keys, per input of the batch.
    """
    factors: list[Tensor] = []  # once for all layers, as each copy from the host would be waited for

    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        if not factors:
            factor = torch.ones(len(positions), 1, call.value.shape[-2], 1)
            for row, keys in enumerate(positions):
                factor[row, 0, keys] = 0
            factors.append(factor.to(call.value.device, call.value.dtype))
        return replace(call, value=call.value * factors[0]).compute()

    return _attend


def shuffled_weights(seeds: list[tuple[int, ...]]) -> AttentionFunction:
    """Attention whose weights are shuffled over the keys that are not masked, separately for every head and query.

    Args:
        seeds: one per input of the batch.
    """

    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
        weights = call.compute_with_weights()[1]
        masked = (weights == 0).all((0, 1))
        noise = _seeded_noise(seeds, tuple(weights.shape[1:]), torch.rand, weights.float()).masked_fill(masked, torch.inf)
        unmasked_first = masked.to(torch.uint8).argsort(stable=True).expand_as(weights)
        weights = torch.zeros_like(weights).scatter(-1, unmasked_first, weights.gather(-1, noise.argsort(-1)))
        return (weights @ call.value_per_head.to(weights.dtype)).transpose(1, 2).contiguous(), weights

    return _attend


def random_weights(seeds: list[tuple[int, ...]]) -> AttentionFunction:
    """Attention of random queries to random keys: scores of standard deviation 1 under the module's own map.

    Args:
        seeds: one per input of the batch.
    """

    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
        query = _seeded_noise(seeds, tuple(call.query.shape[1:]), torch.randn, call.query)
        key = _seeded_noise([(*seed, 1) for seed in seeds], tuple(call.key.shape[1:]), torch.randn, call.key)
        options = {**call.options, "scaling": query.shape[-1] ** -0.5}
        return replace(call, query=query, key=key, options=options).compute_with_weights()

    return _attend


def _seeded_noise(seeds: list[tuple[int, ...]], shape: tuple[int, ...], make: Callable[..., Tensor], like: Tensor) -> Tensor:
    """Random tensors `[len(seeds), *shape]`, each row from its own seed, so that the batch does not change them."""
    rows = []
    for seed in seeds:
        state = int(numpy.random.SeedSequence(seed).generate_state(1)[0])
        rows.append(make(shape, generator=torch.Generator().manual_seed(state)))
    return torch.stack(rows).to(like.device, like.dtype)
