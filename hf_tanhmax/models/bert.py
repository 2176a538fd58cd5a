"""BERT with TanhMax attention: model type `tanhmax_bert`, and a class for each of its heads."""

from huggingface_hub.dataclasses import strict
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
    BertModel,
)

from .family import TanhMaxFields, tanhmax_class


@strict
class TanhMaxBertConfig(TanhMaxFields, BertConfig):
    """A `BertConfig` with the TanhMax settings; see `TanhMaxFields` and `TanhMaxSettings` for what they mean."""

    model_type = "tanhmax_bert"


@tanhmax_class(TanhMaxBertConfig, "AutoModel", "AutoModelForTextEncoding")
class TanhMaxBertModel(BertModel):
    """The backbone."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForPreTraining")
class TanhMaxBertForPreTraining(BertForPreTraining):
    """Masked language modelling and next-sentence prediction."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForCausalLM")
class TanhMaxBertLMHeadModel(BertLMHeadModel):
    """Causal language modelling."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForMaskedLM")
class TanhMaxBertForMaskedLM(BertForMaskedLM):
    """Masked language modelling."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForNextSentencePrediction")
class TanhMaxBertForNextSentencePrediction(BertForNextSentencePrediction):
    """Next-sentence prediction."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForSequenceClassification")
class TanhMaxBertForSequenceClassification(BertForSequenceClassification):
    """Classification of sequences."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForMultipleChoice")
class TanhMaxBertForMultipleChoice(BertForMultipleChoice):
    """Multiple choice."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForTokenClassification")
class TanhMaxBertForTokenClassification(BertForTokenClassification):
    """Classification of tokens."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForQuestionAnswering")
class TanhMaxBertForQuestionAnswering(BertForQuestionAnswering):
    """Extractive question answering."""
