"""What the attention of a TanhMax model computes, in sentences: settings, layers of each part, and parts that compute softmax."""

import re
from collections import defaultdict

from transformers import PreTrainedModel

from .chosen_modules import modules_by_layer
from .detection.attention_facts import softmax_parts
from .patching import ConfigView


def attention_summary(model: PreTrainedModel) -> str:
    """Polarity, shift, layers and heads of a model of a TanhMax class, in words, with the number of its layers."""
    return str(model.config.tanhmax_settings.describe(layers=len(modules_by_layer(model))))


def parts_summary(model: PreTrainedModel) -> list[str]:
    """For each part of a model of several, such as an encoder and a decoder, how many of its layers compute TanhMax; else empty."""
    parts: dict[str, list[bool]] = defaultdict(list)
    for path, modules in modules_by_layer(model).items():
        name = re.split(r"\.?\d+(?:\.|$)", path)[0]
        parts[name].append(all(isinstance(module.config, ConfigView) for module in modules))
    if len(parts) == 1:
        return []
    return [f"{name}: {_counted(layers)}" for name, layers in parts.items()]


def softmax_summary(model: PreTrainedModel) -> list[str]:
    """For each class of modules that compute softmax by themselves, where no setting reaches them, a sentence with their places."""
    found = softmax_parts(model)
    return [f"{name} ({', '.join(paths)}) computes softmax by itself, whatever the settings are" for name, paths in found.items()]


def _counted(layers: list[bool]) -> str:
    noun = "layer" if len(layers) == 1 else "layers"
    if all(layers):
        return f"TanhMax in {'its' if len(layers) == 1 else f'all {len(layers)}'} {noun}"
    if not any(layers):
        return f"softmax in {'its' if len(layers) == 1 else f'all {len(layers)}'} {noun}"
    return f"TanhMax in {sum(layers)} of {len(layers)} {noun}, softmax in the others"
