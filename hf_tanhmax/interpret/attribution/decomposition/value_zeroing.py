r"""Value zeroing (Mohebbi, Zuidema, Chrupała and Alishahi 2023, *Quantifying Context Mixing in Transformers*).

A layer is called again with the value of one token set to 0 in all heads, everything else as it was. How much token j matters to token i
is how far that turns the layer's output, residual stream, MLP and norms included:

.. math:: C_{ij} = 1 - \cos(\tilde x_i^{\neg j}, \tilde x_i),

divided by the sum of its row. Layers are multiplied up as in rollout, without an identity for the residual stream, which is in C already.

The distance says how much, and not for or against what: scores are 0 or more for TanhMax as for softmax, and do not change where query and
value weights of a head change sign together. They are shares, and add up to 1.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ....integration.hooks import replace_attention
from ....integration.patching import attention_modules
from ..evaluation_mode import resolve_layers
from ..forward_passes import without_cache
from ..hooks import zeroed_keys
from .layers import LayerCall, as_shares, enclosing_layers, first_of, record_calls, repeated

TOKENS_PER_BATCH = 8192  # of copies that go through a layer at once: memory, not result


@torch.no_grad()
def value_zeroing(model: PreTrainedModel, inputs: Mapping[str, Tensor], layers: tuple[int, ...]) -> Tensor:
    """How much every token matters to every other after each layer, `[L, K, K]` float32 on the CPU; rows add up to 1.

    Args:
        model: in evaluation mode.
        inputs: a batch of one.
        layers: indices of attention modules that are called.

    Raises:
        ValueError: the layers cannot be called again.
    """
    modules, attentions = enclosing_layers(model, layers), attention_modules(model)
    with record_calls(modules) as calls:
        model(**inputs, **without_cache(model))
    return torch.stack(
        [mixing(module, attentions[layer], call).float().cpu() for module, layer, call in zip(modules, layers, calls, strict=True)]
    )


def check_layers(model: nn.Module) -> None:
    """Refuse a model whose attention modules are not each in a layer that is a module of its own.

    Raises:
        ValueError: one is not.
    """
    for layer in range(len(attention_modules(model))):  # one by one, as some of those in one layer may not be called
        enclosing_layers(model, (layer,))


def check_zeroing(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> None:
    """Zero values once, by which the layers are seen to return hidden states, and the same for several inputs as for one.

    Raises:
        ValueError: one does not.
    """
    modules = attention_modules(model)
    with torch.no_grad(), record_calls(modules) as calls:
        model(**inputs, **without_cache(model))
    value_zeroing(model, inputs, tuple(layer for layer in resolve_layers(model) if calls[layer].output is not None))


def mixing(layer: nn.Module, attention: nn.Module, call: LayerCall) -> Tensor:
    """The shares C of one layer, `[K, K]` float64.

    Args:
        layer: the module.
        attention: its attention module.
        call: how it was called.

    Raises:
        ValueError: it was not called with hidden states `[1, K, D]`.
    """
    output = _hidden_states(layer, call)
    count = output.shape[1]
    columns: list[Tensor] = []
    at_once = max(1, TOKENS_PER_BATCH // count)
    for start in range(0, count, at_once):
        keys = list(range(start, min(start + at_once, count)))
        with replace_attention([attention], zeroed_keys([[key] for key in keys])):
            changed = _called_again(layer, call, len(keys))
        columns.append(1 - torch.cosine_similarity(changed.double(), output.double(), dim=-1))
    return as_shares(torch.cat(columns).T.clamp(min=0))


def _hidden_states(layer: nn.Module, call: LayerCall) -> Tensor:
    output = call.output
    if output is None or output.dim() != 3 or output.shape[0] != 1:
        what = "nothing" if output is None else f"{output.dim()} dimensions for one input"
        raise ValueError(f"its {type(layer).__name__} returns {what}, and not hidden states [1, tokens, size]")
    return output


def _called_again(layer: nn.Module, call: LayerCall, count: int) -> Tensor:
    try:
        return first_of(layer(*repeated(call.arguments, count), **repeated(call.keywords, count)))
    except (IndexError, RuntimeError, TypeError) as error:
        raise ValueError(f"its {type(layer).__name__} cannot be called again for several inputs of one call") from error
