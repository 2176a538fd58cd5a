"""Tiny random models of every model type of Transformers, and inputs for them."""

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import re
from collections.abc import Iterator

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from .inputs import tiny_inputs
from .sizes import tiny_config
from .untried import UNTRIED, Untried

__all__ = ["Untried", "tiny_inputs", "tiny_model"]

# Auto classes from the most telling head to the least.
AUTO = (
    "AutoModelForImageTextToText",
    "AutoModelForMultimodalLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForSeq2SeqLM",
    "AutoModelForTextToWaveform",
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForCTC",
    "AutoModel",
)
STANDARD_DEVIATION = 0.3


def tiny_model(model_type: str, auto: str | None = None) -> PreTrainedModel:
    """A tiny upstream model with random weights, the same at every call, in eval mode and float32.

    Args:
        model_type: a key of `CONFIG_MAPPING`.
        auto: name of an Auto class; by default the head that shows most.

    Raises:
        Untried: the type has no class of its own, or needs a package that is not installed.
    """
    if model_type in UNTRIED:
        raise Untried(UNTRIED[model_type])
    model_class, auto = _model_class(CONFIG_MAPPING[model_type], auto)
    fields = {field.name for field in dataclasses.fields(CONFIG_MAPPING[model_type])}
    more = {"is_decoder": True} if auto == "AutoModelForCausalLM" and "is_decoder" in fields else {}
    with torch.random.fork_rng(devices=[]), _new_memory_is_nan():
        torch.manual_seed(0)
        try:
            config = _config_of_head(model_class, tiny_config(CONFIG_MAPPING[model_type], model_type, more=more))
            model = model_class(config).float().eval()
        except ImportError as error:
            missing = re.search(r"requires the (\w+) library", str(error))
            raise Untried(f"{model_type} needs the package {missing[1] if missing else error}") from error
        except OSError as error:
            raise Untried(f"the config of {model_type} is completed from the Hub") from error
        _make_telling(model)
    return model


@functools.cache
def _auto_names() -> tuple[str, ...]:
    return tuple(name for name in dir(transformers) if name.startswith("AutoModel"))


def _model_class(config_class: type[PreTrainedConfig], auto: str | None) -> tuple[type[PreTrainedModel], str | None]:
    """The class, and the Auto class that has it."""
    for name in [auto] if auto else [*AUTO, *_auto_names()]:
        mapping = getattr(getattr(transformers, name, None), "_model_mapping", None)
        try:
            found = mapping[config_class]
        except (KeyError, TypeError, ValueError):  # no such Auto class, no head, or the name of a class that is not exported
            continue
        return found[0] if isinstance(found, list | tuple) else found, name
    if auto:
        raise Untried(f"{auto} has no head of {config_class.model_type}")
    return _class_of_part(config_class), None


def _config_of_head(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedConfig:
    """The config that a class is made from: that of its part of the whole, or else the whole."""
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    return next((part for part in parts if isinstance(part, model_class.config_class)), config)


def _class_of_part(config_class: type[PreTrainedConfig]) -> type[PreTrainedModel]:
    """The model class that is made from a config that no Auto class knows."""
    name = config_class.__module__.replace(".configuration_", ".modeling_")
    if importlib.util.find_spec(name) is None:
        raise Untried(f"{config_class.__name__} has no models of its own: its checkpoints use those of other types")
    module = importlib.import_module(name)
    found = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, PreTrainedModel) and each.config_class is config_class
    ]
    runnable = [each for each in found if each.forward is not torch.nn.Module.forward]
    found = runnable or [each for each in found if not each.__name__.endswith("PreTrainedModel")]
    if not found:
        raise Untried(f"{config_class.__name__} is a part of another type's config and has no model class of its own")
    return next((each for each in found if each.__name__.endswith("Model")), found[0])


@contextlib.contextmanager
def _new_memory_is_nan() -> Iterator[None]:
    """Fill memory that is allocated, so that parameters which a model forgets to initialise are the same at every call."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _make_telling(model: PreTrainedModel) -> None:
    """Draw again the weights that would hide attention: queries and keys that are small, and scales, gates and codebooks at zero."""
    for name, buffer in model.named_buffers():
        if re.search(r"embed_sum|codebook", name) and buffer.is_floating_point() and not buffer.any():
            buffer.normal_()
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        with torch.no_grad():
            if not torch.isfinite(parameter).all() or parameter.abs().max() < 0.01:
                parameter.normal_(std=0.2)
            elif re.search(r"(^|[._])(q|k|query|key|qkv|wqkv|c_attn|in_proj|query_key_value)(_proj|_lin|_linear)?\.weight$", name, re.I):
                parameter.mul_(max(1.0, STANDARD_DEVIATION / parameter.std(correction=0).clamp(min=1e-3).item()))
