"""LLaMA with TanhMax attention: model type `tanhmax_llama`, and a class for each of its heads."""

from huggingface_hub.dataclasses import strict
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
)

from .family import TanhMaxFields, tanhmax_class


@strict
class TanhMaxLlamaConfig(TanhMaxFields, LlamaConfig):
    """A `LlamaConfig` with the TanhMax settings; see `TanhMaxFields` and `TanhMaxSettings` for what they mean."""

    model_type = "tanhmax_llama"


@tanhmax_class(TanhMaxLlamaConfig, "AutoModel")
class TanhMaxLlamaModel(LlamaModel):
    """The backbone."""


@tanhmax_class(TanhMaxLlamaConfig, "AutoModelForCausalLM")
class TanhMaxLlamaForCausalLM(LlamaForCausalLM):
    """Causal language modelling."""


@tanhmax_class(TanhMaxLlamaConfig, "AutoModelForSequenceClassification")
class TanhMaxLlamaForSequenceClassification(LlamaForSequenceClassification):
    """Classification of sequences."""


@tanhmax_class(TanhMaxLlamaConfig, "AutoModelForQuestionAnswering")
class TanhMaxLlamaForQuestionAnswering(LlamaForQuestionAnswering):
    """Extractive question answering."""


@tanhmax_class(TanhMaxLlamaConfig, "AutoModelForTokenClassification")
class TanhMaxLlamaForTokenClassification(LlamaForTokenClassification):
    """Classification of tokens."""
