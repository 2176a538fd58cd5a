"""What a layer of vLLM computes, from its own attributes and the config view of its attention module."""

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ..functional import Shift
from ..integration.patching import ConfigView
from ..integration.registration import SCORE_BIAS
from ..settings import LEARNED
from .refusal import refuse
from .step import LayerCall


class TanhMaxLayer(Protocol):
    """What vLLM says of a layer that was taken over, and the attention module and its config view, of which it is the layer.

    Under tensor parallelism a layer has `num_heads` of the model's heads, those from `rank * num_heads` on.
    """

    scale: float
    logits_soft_cap: float | None
    num_heads: int
    rank: int
    ranks: int
    module: nn.Module
    view: ConfigView


def layer_call(impl: TanhMaxLayer, window: int) -> LayerCall:
    """The call of a layer.

    Args:
        impl: vLLM's, with the module and its view.
        window: as `LayerCall` has it, or less than 1 for none.
    """
    shift = cast(Shift, impl.view.tanhmax_shift)
    return LayerCall(impl.scale, window if window > 0 else None, impl.logits_soft_cap or None, layer_polarity(impl), shift)


def layer_polarity(impl: TanhMaxLayer) -> float | Tensor:
    """A number, or `[num_heads]` where heads differ or learned."""
    polarity, heads = impl.view.tanhmax_polarity, impl.view.tanhmax_heads
    if polarity == LEARNED:
        polarity = torch.exp(-2.0 * getattr(impl.module, SCORE_BIAS).detach().float())
    if heads is not None:
        found = torch.zeros(impl.num_heads * impl.ranks, device=next(impl.module.parameters()).device)
        found[list(heads)] = polarity[list(heads)] if isinstance(polarity, Tensor) else float(polarity)
        polarity = found
    if not isinstance(polarity, Tensor):
        return float(polarity)
    return polarity[impl.rank * impl.num_heads :][: impl.num_heads].contiguous()


def refuse_fused_output(*scales: Tensor | None) -> None:
    """Refuse an output that is quantized as it is written."""
    if any(scale is not None for scale in scales):
        refuse("fused quantization of attention outputs", "switch the pass fuse_attn_quant off")
