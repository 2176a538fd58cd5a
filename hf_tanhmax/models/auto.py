"""Registration with the Auto classes: model types, heads, tokenizer and image processor."""

import importlib.util

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, BertTokenizer, PreTrainedConfig, PreTrainedModel

from .bert import TanhMaxBertConfig
from .family import HEADS
from .llama import TanhMaxLlamaConfig
from .vit import TanhMaxViTConfig, register_checkpoint_conversion

# For each family: its config, and the Auto class of every head.
FAMILIES: dict[type[PreTrainedConfig], dict[str, type[PreTrainedModel]]] = {
    config: HEADS[config] for config in (TanhMaxBertConfig, TanhMaxViTConfig, TanhMaxLlamaConfig)
}


def register_models() -> None:
    """Register the three families; calling it again changes nothing."""
    for config in FAMILIES:
        AutoConfig.register(config.model_type, config, exist_ok=True)
    register_heads()


def register_heads() -> None:
    """Register what Transformers finds by the class of a config, and not by the name of its model type."""
    register_checkpoint_conversion()
    for config, heads in FAMILIES.items():
        for auto, cls in heads.items():
            getattr(transformers, auto).register(config, cls, exist_ok=True)
    AutoTokenizer.register(TanhMaxBertConfig, BertTokenizer, exist_ok=True)
    _register_image_processors()


def _register_image_processors() -> None:
    try:
        register = AutoImageProcessor.register
    except ImportError:  # some releases of Transformers have image processors only beside torchvision; nothing loads one there
        return
    processors: dict[str, type] = {"pil": transformers.ViTImageProcessorPil}
    if importlib.util.find_spec("torchvision") is not None:
        processors["torchvision"] = transformers.ViTImageProcessor
    register(TanhMaxViTConfig, image_processor_classes=processors, exist_ok=True)
