"""A model while it is explained: no dropout, readable attention masks, everything put back afterwards; and checks that it can be."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...errors import some
from ...integration.detection.attention_facts import attention_facts
from ...integration.hooks import without_dropout
from ...integration.model_names import short_name
from ...integration.patching import attention_modules
from ...integration.registration import EAGER, FUSED

# Implementations whose masks say exactly which keys take part, boolean or additive; the others pack or compile theirs.
READABLE_MASKS = ("eager", "sdpa", FUSED, EAGER)
NO_TOKEN = -1


@contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """No dropout, gradients enabled, masks that can be read and no padding token; what was before comes back, also after an error.

    A decoder that classifies reads its last token that is not padding, and refuses a batch if it knows no padding token. Nothing is padded
    here, so inside the block no token is padding, neither one of the text nor one that masks.

    Args:
        model: a Transformers model. Neither `requires_grad` nor `.grad` of any parameter changes.
    """
    implementation = model.config._attn_implementation
    switched = implementation not in READABLE_MASKS
    padding = getattr(model.config, "pad_token_id", None)
    reads_last_token = "ForSequenceClassification" in type(model).__name__
    try:
        if reads_last_token:
            model.config.pad_token_id = NO_TOKEN
        if switched:
            model.set_attn_implementation("eager")
        with without_dropout(model), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        if switched:
            model.set_attn_implementation(implementation)
        if reads_last_token:
            model.config.pad_token_id = padding


def unwrap(model: object) -> PreTrainedModel:
    """A Transformers model, taken out of `DataParallel` or `DistributedDataParallel`.

    Raises:
        TypeError: something else.
    """
    inner = model.module if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else model
    if not isinstance(inner, nn.Module) or not hasattr(inner, "config"):
        raise TypeError(f"a loaded Transformers model is explained, but got {type(inner).__name__}; load one by from_pretrained")
    return cast(PreTrainedModel, inner)


def display_name(model: PreTrainedModel) -> str:
    """The name of a model in titles: its name on the Hub, the last part of its folder's path, or its class."""
    return short_name(str(getattr(model.config, "_name_or_path", None) or type(model).__name__))


def resolve_layers(model: nn.Module, layers: int | Sequence[int] | None = None) -> list[int]:
    """Indices of the layers to explain, sorted and counted from 0.

    Args:
        model: any model.
        layers: indices of attention layers, negative ones from the end; None is all.

    Raises:
        ValueError: the attention of the model cannot be recorded, or there is no such layer.
    """
    kind = type(model).__name__
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ValueError(
            f"{kind} is an encoder and a decoder, whose weights have no common positions; explain an encoder or a decoder alone"
        )
    count = len(attention_modules(model))
    if not count:
        outside = modules_outside_interface(model)
        reason = f"{some(outside)} compute it themselves" if outside else "it has no attention modules"
        raise ValueError(
            f"no attentions to be had from {kind}: {reason}, without Transformers' attention interface; take BERT, ViT or LLaMA"
        )
    if layers is None:
        return list(range(count))
    indices = [layers] if isinstance(layers, int) else list(layers)
    for layer in indices:
        if not -count <= layer < count:
            raise ValueError(f"there is no layer {layer}: {kind} has {count} layers, counted from 0")
    if not indices:
        raise ValueError("layers is empty; name at least one layer, or leave it None for all")
    return sorted({layer % count for layer in indices})


def modules_outside_interface(model: nn.Module) -> list[str]:
    """Paths of the modules that compute attention without Transformers' attention interface, so that no weights can be recorded."""
    return [name for name, module in model.named_modules() if attention_facts(module).bypasses]


def check_finite(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Refuse results that are not finite, and name the cause.

    Args:
        model: the model that computed them, whose parameters are searched.
        tensors: results, by their name in the message.

    Raises:
        ValueError: a tensor holds NaN or infinity.
    """
    for name, tensor in tensors.items():
        if bool(torch.isfinite(tensor).all()):
            continue
        broken = [path for path, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
        reason = f"{some(broken)} of the model hold NaN or infinity; load a sound checkpoint" if broken else "try float32"
        raise ValueError(f"{name} hold NaN or infinity, so there is nothing to explain: {reason}")
