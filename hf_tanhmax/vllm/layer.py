"""What a layer of vLLM computes, from its own attributes and the config view of its attention module."""

from typing import Any, cast

import torch
from torch import Tensor

from ..functional import Shift
from ..integration.registration import SCORE_BIAS
from ..settings import LEARNED
from .refusal import refuse
from .step import LayerCall


def layer_call(impl: Any, window: int) -> LayerCall:
    """The call of a layer.

    Args:
        impl: with vLLM's attributes, `module` and `view`.
        window: as `LayerCall` has it, or less than 1 for none.
    """
    shift = cast(Shift, impl.view.tanhmax_shift)
    return LayerCall(impl.scale, window if window > 0 else None, impl.logits_soft_cap or None, layer_polarity(impl), shift)


def layer_polarity(impl: Any) -> float | Tensor:
    """A number, or `[heads]` where heads differ or learned."""
    polarity, heads = impl.view.tanhmax_polarity, impl.view.tanhmax_heads
    if polarity == LEARNED:
        polarity = torch.exp(-2.0 * getattr(impl.module, SCORE_BIAS).detach().float())
    if heads is None:
        return polarity if isinstance(polarity, Tensor) else float(polarity)
    found = torch.zeros(impl.num_heads, device=next(impl.module.parameters()).device)
    found[list(heads)] = polarity[list(heads)] if isinstance(polarity, Tensor) else float(polarity)
    return found


def refuse_fused_output(*scales: Tensor | None) -> None:
    """Refuse an output that is quantized as it is written."""
    if any(scale is not None for scale in scales):
        refuse("fused quantization of attention outputs", "switch the pass fuse_attn_quant off")
