"""A model while it is explained: no dropout, readable attention masks, everything put back afterwards; and checks that it can be."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...checkpoint import ADAPTER_CONFIG, BASE, text_config
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
    config = text_config(model)  # where heads look their padding up
    padding = getattr(config, "pad_token_id", None)
    reads_last_token = "ForSequenceClassification" in type(model).__name__
    try:
        if reads_last_token:
            config.pad_token_id = NO_TOKEN
        if switched:
            model.set_attn_implementation("eager")
        with without_dropout(model), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        if switched:
            model.set_attn_implementation(implementation)
        if reads_last_token:
            config.pad_token_id = padding


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
    """The name of a model in titles: its name on the Hub, the last part of its folder's path, or its class.

    That of an adapter's base, which lies in the folder of its run, is the run's.
    """
    name = str(getattr(model.config, "_name_or_path", None) or type(model).__name__)
    inside = Path(name)
    return short_name(str(inside.parent) if inside.name == BASE and (inside.parent / ADAPTER_CONFIG).is_file() else name)


def encoder_of(model: nn.Module) -> nn.Module | None:
    """The part of an encoder-decoder whose self-attention has the positions of the input; None of a model of another kind.

    Its decoder has the positions of the output, and its cross attention both.
    """
    is_both = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return cast(PreTrainedModel, model).get_encoder() if is_both else None


def input_embeddings(model: PreTrainedModel) -> nn.Module:
    """The module that embeds the tokens of the input.

    Raises:
        ValueError: a model that does not say which it is.
    """
    encoder = model.get_encoder()  # the model itself where it has none; the encoder of T5 has embeddings of its own, with the same weights
    try:
        return (encoder if isinstance(encoder, PreTrainedModel) else model).get_input_embeddings()
    except NotImplementedError as error:
        raise ValueError(
            f"{type(model).__name__} has several parts that embed inputs; explain one of them that has a head, such as a classifier"
        ) from error


def resolve_layers(model: nn.Module, layers: int | Sequence[int] | None = None) -> list[int]:
    """Indices of the layers to explain, sorted and counted from 0; of an encoder and decoder those of the encoder.

    Args:
        model: any model.
        layers: indices of attention layers, negative ones from the end; None is all.

    Raises:
        ValueError: the attention of the model cannot be recorded, or there is no such layer, or it has other positions than the input.
    """
    kind, modules, encoder = type(model).__name__, attention_modules(model), encoder_of(model)
    count = len(modules)
    check_recordable(model)
    shown = list(range(count))
    if encoder is not None:
        inside = set(attention_modules(encoder))
        shown = [index for index, module in enumerate(modules) if module in inside]
    if layers is None:
        return shown
    indices = [layers] if isinstance(layers, int) else list(layers)
    for layer in indices:
        if not -count <= layer < count:
            raise ValueError(f"there is no layer {layer}: {kind} has {count} layers, counted from 0")
    if not indices:
        raise ValueError("layers is empty; name at least one layer, or leave it None for all")
    if others := {layer % count for layer in indices}.difference(shown):
        raise ValueError(
            f"layer {min(others)} of {kind} has the positions of its output, which has no common positions with the input; the layers of "
            f"its encoder are {', '.join(map(str, shown))}"
        )
    return sorted({layer % count for layer in indices})


def check_recordable(model: nn.Module) -> None:
    """Refuse a model whose attention cannot be recorded.

    Raises:
        ValueError: no module asks Transformers' attention interface.
    """
    if not attention_modules(model):
        outside = modules_outside_interface(model)
        reason = f"{some(outside)} compute it themselves" if outside else "it has no attention modules"
        raise ValueError(
            f"no attentions to be had from {type(model).__name__}: {reason}, without Transformers' attention interface; take BERT, ViT or "
            "LLaMA"
        )


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
