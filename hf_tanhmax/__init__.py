"""TanhMax attention for Hugging Face Transformers: attention weights with a sign.

Importing this package registers the attention functions and the model types with Transformers; it loads no kernel and starts no CUDA.
"""

from typing import Any

from . import registration
from .attention.api import tanhmax_attention, why_not
from .functional import tanhmax
from .models import auto
from .models.bert import (
    TanhMaxBertConfig,
    TanhMaxBertForMaskedLM,
    TanhMaxBertForMultipleChoice,
    TanhMaxBertForNextSentencePrediction,
    TanhMaxBertForPreTraining,
    TanhMaxBertForQuestionAnswering,
    TanhMaxBertForSequenceClassification,
    TanhMaxBertForTokenClassification,
    TanhMaxBertLMHeadModel,
    TanhMaxBertModel,
)
from .models.conversion import convert, to_softmax
from .models.llama import (
    TanhMaxLlamaConfig,
    TanhMaxLlamaForCausalLM,
    TanhMaxLlamaForQuestionAnswering,
    TanhMaxLlamaForSequenceClassification,
    TanhMaxLlamaForTokenClassification,
    TanhMaxLlamaModel,
)
from .models.vit import TanhMaxViTConfig, TanhMaxViTForImageClassification, TanhMaxViTForMaskedImageModeling, TanhMaxViTModel
from .patching import restore, set_polarity, tanhmax_on, use_tanhmax
from .settings import TanhMaxSettings

__version__ = "0.1.0"

__all__ = [
    "PolarityCallback",
    "TanhMaxBertConfig",
    "TanhMaxBertForMaskedLM",
    "TanhMaxBertForMultipleChoice",
    "TanhMaxBertForNextSentencePrediction",
    "TanhMaxBertForPreTraining",
    "TanhMaxBertForQuestionAnswering",
    "TanhMaxBertForSequenceClassification",
    "TanhMaxBertForTokenClassification",
    "TanhMaxBertLMHeadModel",
    "TanhMaxBertModel",
    "TanhMaxLlamaConfig",
    "TanhMaxLlamaForCausalLM",
    "TanhMaxLlamaForQuestionAnswering",
    "TanhMaxLlamaForSequenceClassification",
    "TanhMaxLlamaForTokenClassification",
    "TanhMaxLlamaModel",
    "TanhMaxSettings",
    "TanhMaxViTConfig",
    "TanhMaxViTForImageClassification",
    "TanhMaxViTForMaskedImageModeling",
    "TanhMaxViTModel",
    "convert",
    "restore",
    "set_polarity",
    "tanhmax",
    "tanhmax_attention",
    "tanhmax_on",
    "to_softmax",
    "use_tanhmax",
    "why_not",
]

registration.register_attention()
auto.register_models()


def __getattr__(name: str) -> Any:
    if name == "PolarityCallback":  # the Trainer it belongs to imports PEFT and more, which not everybody needs
        from .training.annealing import PolarityCallback

        return PolarityCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
