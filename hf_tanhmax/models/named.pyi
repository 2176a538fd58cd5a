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
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma2ForSequenceClassification,
    Gemma2ForTokenClassification,
    Gemma2Model,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3ForSequenceClassification,
    Gemma3Model,
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    Gemma3TextModel,
    GemmaConfig,
    GemmaForCausalLM,
    GemmaForSequenceClassification,
    GemmaForTokenClassification,
    GemmaModel,
    GraniteConfig,
    GraniteForCausalLM,
    GraniteModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    MistralForQuestionAnswering,
    MistralForSequenceClassification,
    MistralForTokenClassification,
    MistralModel,
    OlmoConfig,
    OlmoForCausalLM,
    OlmoForSequenceClassification,
    OlmoModel,
    Phi3Config,
    Phi3ForCausalLM,
    Phi3ForSequenceClassification,
    Phi3ForTokenClassification,
    Phi3Model,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForQuestionAnswering,
    Qwen2ForSequenceClassification,
    Qwen2ForTokenClassification,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForQuestionAnswering,
    Qwen3ForSequenceClassification,
    Qwen3ForTokenClassification,
    Qwen3Model,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    SmolLM3ForQuestionAnswering,
    SmolLM3ForSequenceClassification,
    SmolLM3ForTokenClassification,
    SmolLM3Model,
    Starcoder2Config,
    Starcoder2ForCausalLM,
    Starcoder2ForSequenceClassification,
    Starcoder2ForTokenClassification,
    Starcoder2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)

from .family import TanhMaxFields

__all__ = [
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
    "TanhMaxGemma2Config",
    "TanhMaxGemma2ForCausalLM",
    "TanhMaxGemma2ForSequenceClassification",
    "TanhMaxGemma2ForTokenClassification",
    "TanhMaxGemma2Model",
    "TanhMaxGemma3Config",
    "TanhMaxGemma3ForCausalLM",
    "TanhMaxGemma3ForConditionalGeneration",
    "TanhMaxGemma3ForSequenceClassification",
    "TanhMaxGemma3Model",
    "TanhMaxGemma3TextConfig",
    "TanhMaxGemma3TextForSequenceClassification",
    "TanhMaxGemma3TextModel",
    "TanhMaxGemmaConfig",
    "TanhMaxGemmaForCausalLM",
    "TanhMaxGemmaForSequenceClassification",
    "TanhMaxGemmaForTokenClassification",
    "TanhMaxGemmaModel",
    "TanhMaxGraniteConfig",
    "TanhMaxGraniteForCausalLM",
    "TanhMaxGraniteModel",
    "TanhMaxLlamaConfig",
    "TanhMaxLlamaForCausalLM",
    "TanhMaxLlamaForQuestionAnswering",
    "TanhMaxLlamaForSequenceClassification",
    "TanhMaxLlamaForTokenClassification",
    "TanhMaxLlamaModel",
    "TanhMaxMistralConfig",
    "TanhMaxMistralForCausalLM",
    "TanhMaxMistralForQuestionAnswering",
    "TanhMaxMistralForSequenceClassification",
    "TanhMaxMistralForTokenClassification",
    "TanhMaxMistralModel",
    "TanhMaxOlmoConfig",
    "TanhMaxOlmoForCausalLM",
    "TanhMaxOlmoForSequenceClassification",
    "TanhMaxOlmoModel",
    "TanhMaxPhi3Config",
    "TanhMaxPhi3ForCausalLM",
    "TanhMaxPhi3ForSequenceClassification",
    "TanhMaxPhi3ForTokenClassification",
    "TanhMaxPhi3Model",
    "TanhMaxQwen2Config",
    "TanhMaxQwen2ForCausalLM",
    "TanhMaxQwen2ForQuestionAnswering",
    "TanhMaxQwen2ForSequenceClassification",
    "TanhMaxQwen2ForTokenClassification",
    "TanhMaxQwen2Model",
    "TanhMaxQwen3Config",
    "TanhMaxQwen3ForCausalLM",
    "TanhMaxQwen3ForQuestionAnswering",
    "TanhMaxQwen3ForSequenceClassification",
    "TanhMaxQwen3ForTokenClassification",
    "TanhMaxQwen3Model",
    "TanhMaxSmolLM3Config",
    "TanhMaxSmolLM3ForCausalLM",
    "TanhMaxSmolLM3ForQuestionAnswering",
    "TanhMaxSmolLM3ForSequenceClassification",
    "TanhMaxSmolLM3ForTokenClassification",
    "TanhMaxSmolLM3Model",
    "TanhMaxStarcoder2Config",
    "TanhMaxStarcoder2ForCausalLM",
    "TanhMaxStarcoder2ForSequenceClassification",
    "TanhMaxStarcoder2ForTokenClassification",
    "TanhMaxStarcoder2Model",
    "TanhMaxViTConfig",
    "TanhMaxViTForImageClassification",
    "TanhMaxViTForMaskedImageModeling",
    "TanhMaxViTModel",
]

class TanhMaxBertConfig(TanhMaxFields, BertConfig): ...

class TanhMaxBertModel(BertModel):
    config: TanhMaxBertConfig

class TanhMaxBertLMHeadModel(BertLMHeadModel):
    config: TanhMaxBertConfig

class TanhMaxBertForMaskedLM(BertForMaskedLM):
    config: TanhMaxBertConfig

class TanhMaxBertForMultipleChoice(BertForMultipleChoice):
    config: TanhMaxBertConfig

class TanhMaxBertForNextSentencePrediction(BertForNextSentencePrediction):
    config: TanhMaxBertConfig

class TanhMaxBertForPreTraining(BertForPreTraining):
    config: TanhMaxBertConfig

class TanhMaxBertForQuestionAnswering(BertForQuestionAnswering):
    config: TanhMaxBertConfig

class TanhMaxBertForSequenceClassification(BertForSequenceClassification):
    config: TanhMaxBertConfig

class TanhMaxBertForTokenClassification(BertForTokenClassification):
    config: TanhMaxBertConfig

class TanhMaxViTConfig(TanhMaxFields, ViTConfig): ...

class TanhMaxViTModel(ViTModel):
    config: TanhMaxViTConfig

class TanhMaxViTForImageClassification(ViTForImageClassification):
    config: TanhMaxViTConfig

class TanhMaxViTForMaskedImageModeling(ViTForMaskedImageModeling):
    config: TanhMaxViTConfig

class TanhMaxLlamaConfig(TanhMaxFields, LlamaConfig): ...

class TanhMaxLlamaModel(LlamaModel):
    config: TanhMaxLlamaConfig

class TanhMaxLlamaForCausalLM(LlamaForCausalLM):
    config: TanhMaxLlamaConfig

class TanhMaxLlamaForQuestionAnswering(LlamaForQuestionAnswering):
    config: TanhMaxLlamaConfig

class TanhMaxLlamaForSequenceClassification(LlamaForSequenceClassification):
    config: TanhMaxLlamaConfig

class TanhMaxLlamaForTokenClassification(LlamaForTokenClassification):
    config: TanhMaxLlamaConfig

class TanhMaxMistralConfig(TanhMaxFields, MistralConfig): ...

class TanhMaxMistralModel(MistralModel):
    config: TanhMaxMistralConfig

class TanhMaxMistralForCausalLM(MistralForCausalLM):
    config: TanhMaxMistralConfig

class TanhMaxMistralForQuestionAnswering(MistralForQuestionAnswering):
    config: TanhMaxMistralConfig

class TanhMaxMistralForSequenceClassification(MistralForSequenceClassification):
    config: TanhMaxMistralConfig

class TanhMaxMistralForTokenClassification(MistralForTokenClassification):
    config: TanhMaxMistralConfig

class TanhMaxQwen2Config(TanhMaxFields, Qwen2Config): ...

class TanhMaxQwen2Model(Qwen2Model):
    config: TanhMaxQwen2Config

class TanhMaxQwen2ForCausalLM(Qwen2ForCausalLM):
    config: TanhMaxQwen2Config

class TanhMaxQwen2ForQuestionAnswering(Qwen2ForQuestionAnswering):
    config: TanhMaxQwen2Config

class TanhMaxQwen2ForSequenceClassification(Qwen2ForSequenceClassification):
    config: TanhMaxQwen2Config

class TanhMaxQwen2ForTokenClassification(Qwen2ForTokenClassification):
    config: TanhMaxQwen2Config

class TanhMaxQwen3Config(TanhMaxFields, Qwen3Config): ...

class TanhMaxQwen3Model(Qwen3Model):
    config: TanhMaxQwen3Config

class TanhMaxQwen3ForCausalLM(Qwen3ForCausalLM):
    config: TanhMaxQwen3Config

class TanhMaxQwen3ForQuestionAnswering(Qwen3ForQuestionAnswering):
    config: TanhMaxQwen3Config

class TanhMaxQwen3ForSequenceClassification(Qwen3ForSequenceClassification):
    config: TanhMaxQwen3Config

class TanhMaxQwen3ForTokenClassification(Qwen3ForTokenClassification):
    config: TanhMaxQwen3Config

class TanhMaxGemmaConfig(TanhMaxFields, GemmaConfig): ...

class TanhMaxGemmaModel(GemmaModel):
    config: TanhMaxGemmaConfig

class TanhMaxGemmaForCausalLM(GemmaForCausalLM):
    config: TanhMaxGemmaConfig

class TanhMaxGemmaForSequenceClassification(GemmaForSequenceClassification):
    config: TanhMaxGemmaConfig

class TanhMaxGemmaForTokenClassification(GemmaForTokenClassification):
    config: TanhMaxGemmaConfig

class TanhMaxGemma2Config(TanhMaxFields, Gemma2Config): ...

class TanhMaxGemma2Model(Gemma2Model):
    config: TanhMaxGemma2Config

class TanhMaxGemma2ForCausalLM(Gemma2ForCausalLM):
    config: TanhMaxGemma2Config

class TanhMaxGemma2ForSequenceClassification(Gemma2ForSequenceClassification):
    config: TanhMaxGemma2Config

class TanhMaxGemma2ForTokenClassification(Gemma2ForTokenClassification):
    config: TanhMaxGemma2Config

class TanhMaxGemma3Config(TanhMaxFields, Gemma3Config): ...

class TanhMaxGemma3Model(Gemma3Model):
    config: TanhMaxGemma3Config

class TanhMaxGemma3ForConditionalGeneration(Gemma3ForConditionalGeneration):
    config: TanhMaxGemma3Config

class TanhMaxGemma3ForSequenceClassification(Gemma3ForSequenceClassification):
    config: TanhMaxGemma3Config

class TanhMaxGemma3TextConfig(TanhMaxFields, Gemma3TextConfig): ...

class TanhMaxGemma3TextModel(Gemma3TextModel):
    config: TanhMaxGemma3TextConfig

class TanhMaxGemma3ForCausalLM(Gemma3ForCausalLM):
    config: TanhMaxGemma3TextConfig

class TanhMaxGemma3TextForSequenceClassification(Gemma3TextForSequenceClassification):
    config: TanhMaxGemma3TextConfig

class TanhMaxPhi3Config(TanhMaxFields, Phi3Config): ...

class TanhMaxPhi3Model(Phi3Model):
    config: TanhMaxPhi3Config

class TanhMaxPhi3ForCausalLM(Phi3ForCausalLM):
    config: TanhMaxPhi3Config

class TanhMaxPhi3ForSequenceClassification(Phi3ForSequenceClassification):
    config: TanhMaxPhi3Config

class TanhMaxPhi3ForTokenClassification(Phi3ForTokenClassification):
    config: TanhMaxPhi3Config

class TanhMaxSmolLM3Config(TanhMaxFields, SmolLM3Config): ...

class TanhMaxSmolLM3Model(SmolLM3Model):
    config: TanhMaxSmolLM3Config

class TanhMaxSmolLM3ForCausalLM(SmolLM3ForCausalLM):
    config: TanhMaxSmolLM3Config

class TanhMaxSmolLM3ForQuestionAnswering(SmolLM3ForQuestionAnswering):
    config: TanhMaxSmolLM3Config

class TanhMaxSmolLM3ForSequenceClassification(SmolLM3ForSequenceClassification):
    config: TanhMaxSmolLM3Config

class TanhMaxSmolLM3ForTokenClassification(SmolLM3ForTokenClassification):
    config: TanhMaxSmolLM3Config

class TanhMaxOlmoConfig(TanhMaxFields, OlmoConfig): ...

class TanhMaxOlmoModel(OlmoModel):
    config: TanhMaxOlmoConfig

class TanhMaxOlmoForCausalLM(OlmoForCausalLM):
    config: TanhMaxOlmoConfig

class TanhMaxOlmoForSequenceClassification(OlmoForSequenceClassification):
    config: TanhMaxOlmoConfig

class TanhMaxGraniteConfig(TanhMaxFields, GraniteConfig): ...

class TanhMaxGraniteModel(GraniteModel):
    config: TanhMaxGraniteConfig

class TanhMaxGraniteForCausalLM(GraniteForCausalLM):
    config: TanhMaxGraniteConfig

class TanhMaxStarcoder2Config(TanhMaxFields, Starcoder2Config): ...

class TanhMaxStarcoder2Model(Starcoder2Model):
    config: TanhMaxStarcoder2Config

class TanhMaxStarcoder2ForCausalLM(Starcoder2ForCausalLM):
    config: TanhMaxStarcoder2Config

class TanhMaxStarcoder2ForSequenceClassification(Starcoder2ForSequenceClassification):
    config: TanhMaxStarcoder2Config

class TanhMaxStarcoder2ForTokenClassification(Starcoder2ForTokenClassification):
    config: TanhMaxStarcoder2Config
