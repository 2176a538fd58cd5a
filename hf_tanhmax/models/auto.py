"""Registration with the Auto classes: model type, heads, tokenizer and image processor."""

import importlib.util
from typing import Any

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, BertTokenizer, PreTrainedModel

from . import bert, llama, vit

# For each family: its config, and the Auto class of every head.
FAMILIES: dict[type, dict[str, type[PreTrainedModel]]] = {
    bert.TanhMaxBertConfig: {
        "AutoModel": bert.TanhMaxBertModel,
        "AutoModelForPreTraining": bert.TanhMaxBertForPreTraining,
        "AutoModelForCausalLM": bert.TanhMaxBertLMHeadModel,
        "AutoModelForMaskedLM": bert.TanhMaxBertForMaskedLM,
        "AutoModelForNextSentencePrediction": bert.TanhMaxBertForNextSentencePrediction,
        "AutoModelForSequenceClassification": bert.TanhMaxBertForSequenceClassification,
        "AutoModelForMultipleChoice": bert.TanhMaxBertForMultipleChoice,
        "AutoModelForTokenClassification": bert.TanhMaxBertForTokenClassification,
        "AutoModelForQuestionAnswering": bert.TanhMaxBertForQuestionAnswering,
        "AutoModelForTextEncoding": bert.TanhMaxBertModel,
    },
    vit.TanhMaxViTConfig: {
        "AutoModel": vit.TanhMaxViTModel,
        "AutoModelForMaskedImageModeling": vit.TanhMaxViTForMaskedImageModeling,
        "AutoModelForImageClassification": vit.TanhMaxViTForImageClassification,
    },
    llama.TanhMaxLlamaConfig: {
        "AutoModel": llama.TanhMaxLlamaModel,
        "AutoModelForCausalLM": llama.TanhMaxLlamaForCausalLM,
        "AutoModelForSequenceClassification": llama.TanhMaxLlamaForSequenceClassification,
        "AutoModelForQuestionAnswering": llama.TanhMaxLlamaForQuestionAnswering,
        "AutoModelForTokenClassification": llama.TanhMaxLlamaForTokenClassification,
    },
}


def register_models() -> None:
    """Register the three families; calling it again changes nothing."""
    vit.register_checkpoint_conversion()
    for config, heads in FAMILIES.items():
        AutoConfig.register(config.model_type, config, exist_ok=True)  # type: ignore[attr-defined]
        for auto, cls in heads.items():
            getattr(transformers, auto).register(config, cls, exist_ok=True)
    AutoTokenizer.register(bert.TanhMaxBertConfig, BertTokenizer, exist_ok=True)
    _register_image_processors()


def _register_image_processors() -> None:
    try:
        register = AutoImageProcessor.register
    except ImportError:  # some releases of Transformers have image processors only beside torchvision; nothing loads one there
        return
    processors: dict[str, Any] = {"pil": transformers.ViTImageProcessorPil}
    if importlib.util.find_spec("torchvision") is not None:
        processors["torchvision"] = transformers.ViTImageProcessor
    register(vit.TanhMaxViTConfig, image_processor_classes=processors, exist_ok=True)
