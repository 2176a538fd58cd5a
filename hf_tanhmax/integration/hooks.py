"""Hooks on attention modules: see what every attention module is called with, and compute something else in its place.

As in `patching`, an attention module gets a view of its config, for the length of a `with` block, that names another function of
Transformers' attention interface. That function passes the module's call on to an `AttentionFunction`, which computes what the module
computes anyway (TanhMax at its own polarity; softmax is polarity 0), or something else. Nothing else of the model changes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig

from ..settings import LEARNED, TanhMaxSettings
from .patching import ConfigView
from .registration import EAGER, FUSED, PAGED, eager_forward, fused_forward

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
    """Whether an attention module with this config calls TanhMax: by its class, by patching, or by `attn_implementation`."""
    return getattr(config, "_attn_implementation", None) in (FUSED, EAGER, PAGED)


def is_signed(config: object) -> bool:
    """Whether an attention module with this config has weights below 0: TanhMax at a polarity above 0, with a balanced shift or without."""
    if not computes_tanhmax(config):
        return False
    polarity = getattr(config, "tanhmax_polarity", 1.0)
    return polarity == LEARNED or float(polarity) > 0


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
