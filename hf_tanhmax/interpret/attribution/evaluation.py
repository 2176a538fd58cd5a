"""A model as it is evaluated: no dropout, an attention that takes masks as they are, and everything put back after."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...detection.attention_facts import attention_facts
from ...errors import some
from ...model_names import short_name
from ...patching import attention_modules
from ...registration import EAGER, FUSED

# Implementations whose masks say exactly which keys are seen, boolean or additive; the others pack or compile theirs.
UNDERSTOOD = ("eager", "sdpa", FUSED, EAGER)
NO_TOKEN = -1


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode, gradients possible, masks that can be read, no padding; what was before comes back after, also on errors.

    A decoder that classifies reads its last token that is not padding, and refuses a batch if it knows no padding token. Nothing is padded
    here, so for the time of the block no token is padding, be it one that stands in the text or one that masks.

    Args:
        model: a Transformers model. Neither `requires_grad` nor `.grad` of any parameter changes.
    """
    modes = [(module, module.training) for module in model.modules()]
    name = getattr(model.config, "_attn_implementation", None)
    switched = name not in UNDERSTOOD
    padding = getattr(model.config, "pad_token_id", None)
    reads_last = "ForSequenceClassification" in type(model).__name__
    try:
        model.eval()
        if reads_last:
            model.config.pad_token_id = NO_TOKEN
        if switched:
            model.set_attn_implementation("eager")
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        if switched:
            model.set_attn_implementation(name)
        if reads_last:
            model.config.pad_token_id = padding
        for module, mode in modes:
            module.training = mode


def unwrapped(model: Any) -> Any:
    """A Transformers model, also out of `DataParallel` and `DistributedDataParallel`.

    Raises:
        TypeError: something else.
    """
    inner = model.module if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else model
    if not isinstance(inner, nn.Module) or not hasattr(inner, "config"):
        raise TypeError(f"a loaded Transformers model is explained, but got {type(inner).__name__}; load one by from_pretrained")
    return inner


def name_of(model: Any) -> str:
    """What a model is called in titles: its name on the Hub, the last part of its folder's path, or its class."""
    return short_name(str(getattr(model.config, "_name_or_path", None) or type(model).__name__))


def check_attentions(model: nn.Module, layers: Any = None) -> list[int]:
    """The layers to explain, or a sentence on why there is nothing to explain.

    Args:
        model: any model.
        layers: indices of layers, negative ones from the end; None is all.

    Raises:
        ValueError: the attention of the model cannot be seen, or there is no such layer.
    """
    kind = type(model).__name__
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ValueError(
            f"{kind} is an encoder and a decoder, whose weights have no common positions; explain an encoder or a decoder alone"
        )
    seen = attention_modules(model)
    hidden = hidden_attentions(model)
    if not seen:
        which = f"{some(hidden)} compute it themselves" if hidden else "it has no attention modules"
        raise ValueError(
            f"no attentions to be had from {kind}: {which}, without Transformers' attention interface; take BERT, ViT or LLaMA"
        )
    if layers is None:
        return list(range(len(seen)))
    wanted = [layers] if isinstance(layers, int) else list(layers)
    for layer in wanted:
        if not -len(seen) <= layer < len(seen):
            raise ValueError(f"there is no layer {layer}: {kind} has {len(seen)} layers, counted from 0")
    if not wanted:
        raise ValueError("layers is empty; name at least one layer, or leave it None for all")
    return sorted({layer % len(seen) for layer in wanted})


def hidden_attentions(model: nn.Module) -> list[str]:
    """Paths of the modules that compute attention by themselves, without Transformers' attention interface, so that no weights are seen."""
    return [name for name, module in model.named_modules() if attention_facts(module).bypasses]


def check_finite(model: nn.Module, named: dict[str, Tensor]) -> None:
    """Refuse results that are not numbers, and say where they come from.

    Args:
        model: the model that computed them, whose parameters are searched.
        named: tensors, each under what it is called in the sentence.

    Raises:
        ValueError: a tensor holds NaN or infinity.
    """
    for what, tensor in named.items():
        if bool(torch.isfinite(tensor).all()):
            continue
        broken = [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
        why = f"{some(broken)} of the model hold NaN or infinity; load a sound checkpoint" if broken else "try float32"
        raise ValueError(f"{what} hold NaN or infinity, so there is nothing to explain: {why}")
