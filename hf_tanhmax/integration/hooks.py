"""Hooks on attention modules: see what every attention module is called with, and compute something else in its place.

As in `patching`, an attention module gets a view of its config, for the length of a `with` block, that names another function of
Transformers' attention interface. That function passes the module's call on to an `AttentionFunction`, which computes what the module
computes anyway (TanhMax at its own polarity; softmax is polarity 0), or something else. Nothing else of the model changes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig

from ..attention.mask import AttentionMask, packed_segments
from ..functional import hides
from ..settings import LEARNED, TanhMaxSettings
from .patching import ConfigView
from .registration import EAGER, FUSED, PAGED, eager_forward, fused_forward, packed_bounds, runs_causally, split_mask
from .serving import PassedArguments

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

    @property
    def visible(self) -> Tensor:
        """The keys that each query sees, boolean, `[batch, heads, queries, keys]`: by mask, causality and packing alike."""
        shape = (*self.query.shape[:3], self.key.shape[-2])
        options = cast(PassedArguments, self.options)
        bounds = packed_bounds(self.query, self.key, self.mask, options)
        keep, additive = split_mask(self.mask, options.get("position_bias"), shape[3], paged=False)
        if additive is not None:
            keep = ~hides(additive) if keep is None else keep & ~hides(additive)
        mask = AttentionMask(
            queries=shape[2],
            keys=shape[3],
            causal=self.mask is None and runs_causally(self.module, self.query, options.get("is_causal")),
            keep=None if keep is None else keep[(None,) * (4 - keep.dim())],
            segments=None if bounds is None else packed_segments(bounds, self.query, self.key),
        )
        found = mask.full(self.query.device)
        return torch.ones(shape, dtype=torch.bool, device=self.query.device) if found is None else found.broadcast_to(shape)

    def seeing(self, keep: Tensor) -> "AttentionCall":
        """The same call, in which queries see no other keys than those in `keep`, boolean `[batch, heads, queries, keys]`."""
        keep = keep & self.visible
        if self.mask is None or self.mask.dtype == torch.bool:
            return replace(self, mask=keep)
        return replace(self, mask=self.mask[..., : keep.shape[-1]].masked_fill(~keep, -math.inf))

    def weighted(self, weights: Tensor) -> Tensor:
        """Output `[batch, queries, heads, value_dim]` for given weights `[batch, heads, queries, keys]`."""
        exact = torch.promote_types(weights.dtype, torch.float32)
        output = weights.to(exact) @ self.value_per_head.to(exact)
        return output.to(self.query.dtype).transpose(1, 2).contiguous()

    def compute(self) -> tuple[Tensor, Tensor | None]:
        """Output `[batch, queries, heads, value_dim]` by the fastest implementation, and weights if the model was asked for them."""
        return fused_forward(self.module, self.query, self.key, self.value, self.mask, **self.options)

    def compute_with_weights(self) -> tuple[Tensor, Tensor]:
        """The same output by the reference, and weights `[batch, heads, queries, keys]`."""
        output, weights = eager_forward(self.module, self.query, self.key, self.value, self.mask, **self.options)
        return output, cast(Tensor, weights)


AttentionFunction: TypeAlias = Callable[[AttentionCall], tuple[Tensor, Tensor | None]]


class HookedConfig(ConfigView):
    """A config view whose module calls `function` for its attention."""

    def __init__(self, config: PreTrainedConfig | ConfigView, function: AttentionFunction, polarity: float | None = None) -> None:
        own = polarity is None and computes_tanhmax(config)
        super().__init__(config, None if own else TanhMaxSettings(polarity=polarity or 0.0, heads=getattr(config, "tanhmax_heads", None)))
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
    """Whether an attention module with this config calls TanhMax: by its class, by patching, by `attn_implementation`, or from a hook."""
    return getattr(config, "_attn_implementation", None) in (FUSED, EAGER, PAGED, HOOKED)


def is_signed(config: object) -> bool:
    """Whether an attention module with this config has weights below 0: TanhMax at a polarity above 0, with a balanced shift or without."""
    if not computes_tanhmax(config):
        return False
    polarity = getattr(config, "tanhmax_polarity", 1.0)
    return polarity == LEARNED or float(polarity) > 0


def signed_heads(config: object, heads: int) -> Tensor:
    """Which of a number of heads have weights below 0 in an attention module with this config, boolean `[heads]`."""
    signed = torch.zeros(heads, dtype=torch.bool)
    if is_signed(config):
        chosen = getattr(config, "tanhmax_heads", None)
        signed[list(range(heads) if chosen is None else chosen)] = True
    return signed


@contextmanager
def replace_attention(
    modules: list[nn.Module], functions: AttentionFunction | list[AttentionFunction], *, polarity: float | None = None
) -> Iterator[None]:
    """Let attention modules call other functions inside a `with` block.

    Args:
        modules: attention modules, as `patching.attention_modules` finds them.
        functions: what they call instead, one for all modules or one per module.
        polarity: what their calls compute at, in the heads that compute TanhMax; None is each module's own, and 0 for softmax.
    """
    per_module = functions if isinstance(functions, list) else [functions] * len(modules)
    before = [(module, cast(PreTrainedConfig | ConfigView, module.config)) for module in modules]
    try:
        for (module, config), function in zip(before, per_module, strict=True):
            module.config = HookedConfig(config, function, polarity)  # type: ignore[assignment]
        yield
    finally:
        for module, config in before:
            module.config = config  # type: ignore[assignment]


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode inside a `with` block, and back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
