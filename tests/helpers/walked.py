"""Tiny models of many architectures, converted to TanhMax and saved with their processors, as a user has them in folders."""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from families import images, text
from PIL import Image
from saved_models import TEXTS

import hf_tanhmax
from hf_tanhmax.training.data.tokenizer import build_causal_tokenizer, build_tokenizer

BATCHES = {"fast": build_tokenizer, "causal": build_causal_tokenizer}
WORDS = 300  # more than either tokenizer has
SIZES = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 13, "initializer_range": 0.3}
ENCODER = {**SIZES, "vocab_size": WORDS, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
DECODER = {**ENCODER, "num_key_value_heads": 2, "head_dim": 6, "bos_token_id": 1, "eos_token_id": 2}
IMAGE = {**SIZES, "image_size": 15, "patch_size": 5}
BOTH_SIDES = {"d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
SEQUENCES = {**BOTH_SIDES, "encoder_ffn_dim": 13, "decoder_ffn_dim": 13, "init_std": 0.3, "vocab_size": WORDS, "pad_token_id": 0}
LABELS = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
T5 = {"vocab_size": WORDS, "d_model": 24, "d_kv": 6, "d_ff": 13, "num_heads": 4, "num_layers": 2, "pad_token_id": 0}
CLIP = {"text_config": ENCODER, "vision_config": IMAGE, "projection_dim": 12}
AUDIO = {"num_mel_bins": 5, "max_source_positions": 50, "decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2}
PARTS = {"softmax_parts": ("MultiheadAttention",)}


@dataclass(frozen=True)
class Walked:
    """One architecture with one head.

    Attributes:
        cls: name of the class in Transformers.
        values: of its tiny configuration.
        kind: what it reads: `text`, `causal`, `image`, `both`, `sequences` or `audio`.
        options: of the conversion.
    """

    cls: str
    values: dict[str, Any] = field(repr=False)
    kind: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    def softmax(self) -> Any:
        """The tiny softmax model, the same weights at every call."""
        torch.manual_seed(0)
        cls = getattr(transformers, self.cls)
        made = cls(cls.config_class(**self.values)).eval()
        for value in made.parameters():
            if not value.any():  # as the heads of DeiT begin
                torch.nn.init.normal_(value, std=0.3)
        return made

    def model(self, polarity: float = 1.0, **options: Any) -> Any:
        """The TanhMax model of it."""
        return hf_tanhmax.convert(self.softmax(), polarity=polarity, **{**self.options, **options})

    def save(self, folder: Any, polarity: float = 1.0, **options: Any) -> Any:
        """Write the TanhMax model with its processors; returns it."""
        made = self.model(polarity, **options)
        made.save_pretrained(folder)
        self.save_processor(folder)
        return made

    def save_softmax(self, folder: Any) -> None:
        """Write the softmax model with its processors."""
        self.softmax().save_pretrained(folder)
        self.save_processor(folder)

    def save_processor(self, folder: Any) -> None:
        """Write what makes its inputs."""
        self.processor().save_pretrained(folder)

    def processor(self) -> Any:
        """What makes its inputs: a tokenizer, an image processor, or both joined."""
        if self.kind == "image":
            return image_processor()
        if self.kind == "both":
            return transformers.CLIPProcessor(image_processor(), tokenizer("text"))
        if self.kind == "audio":
            sound = transformers.WhisperFeatureExtractor(feature_size=5, chunk_length=1)
            return transformers.WhisperProcessor(sound, tokenizer("text"))
        return tokenizer(self.kind)

    def inputs(self) -> dict[str, torch.Tensor]:
        """A batch of one."""
        words = {"input_ids": torch.cat([text(1, 8), torch.tensor([[3]])], 1)}  # BART classifies at the end token
        return {
            "text": words,
            "causal": words,
            "image": {"pixel_values": images(1)},
            "both": {**words, "pixel_values": images(1)},
            "sequences": {**words, "decoder_input_ids": text(1, 5)},
            "audio": {
                "input_features": torch.randn(1, 5, 100, generator=torch.Generator().manual_seed(7)),
                "decoder_input_ids": text(1, 5),
            },
        }[self.kind]


def tokenizer(kind: str) -> Any:
    """A small tokenizer of an encoder or of a decoder."""
    build = build_causal_tokenizer if kind == "causal" else build_tokenizer
    made = build(TEXTS, vocabulary_size=40, max_length=60)
    made.model_input_names = ["input_ids", "attention_mask"]
    return made


def image_processor() -> Any:
    """An image processor that is not ViT's, which needs no torchvision."""
    size = {"height": 15, "width": 15}
    return transformers.CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((40, 30)).convert("RGB")


WALKED = {
    "mistral": Walked("MistralForCausalLM", {**DECODER, "sliding_window": 5}, "causal"),
    "qwen3": Walked("Qwen3ForCausalLM", DECODER, "causal"),
    "gemma3_text": Walked("Gemma3ForCausalLM", {**DECODER, "sliding_window": 5}, "causal"),
    "roberta": Walked("RobertaForSequenceClassification", {**ENCODER, **LABELS}, "text"),
    "distilbert": Walked(
        "DistilBertForSequenceClassification",
        {"vocab_size": WORDS, "dim": 24, "n_heads": 4, "n_layers": 2, "hidden_dim": 13, "max_position_embeddings": 64, **LABELS},
        "text",
    ),
    "albert": Walked("AlbertForSequenceClassification", {**ENCODER, **LABELS, "embedding_size": 24}, "text"),
    "modernbert": Walked("ModernBertForMaskedLM", {**ENCODER, "local_attention": 6, "cls_token_id": 2, "sep_token_id": 3}, "text"),
    "deit": Walked("DeiTForImageClassificationWithTeacher", {**IMAGE, **LABELS}, "image"),
    "dinov2": Walked("Dinov2ForImageClassification", {**IMAGE, **LABELS}, "image"),
    "dinov2_with_registers": Walked("Dinov2WithRegistersForImageClassification", {**IMAGE, **LABELS}, "image"),
    "beit": Walked("BeitForImageClassification", {**IMAGE, **LABELS}, "image"),
    "siglip_vision": Walked("SiglipForImageClassification", {"vision_config": IMAGE, "text_config": ENCODER, **LABELS}, "image", PARTS),
    "clip": Walked("CLIPModel", CLIP, "both"),
    "clip_classifier": Walked("CLIPForImageClassification", {**CLIP, **LABELS}, "image"),
    "clip_text": Walked("CLIPTextModel", ENCODER, "text"),
    "yolos": Walked("YolosForObjectDetection", {**IMAGE, "image_size": [15, 15], "num_detection_tokens": 4, **LABELS}, "image"),
    "t5": Walked("T5ForConditionalGeneration", {**T5, "decoder_start_token_id": 0}, "sequences"),
    "t5_encoder": Walked("T5ForTokenClassification", {**T5, **LABELS}, "text"),
    "bart": Walked("BartForConditionalGeneration", SEQUENCES, "sequences"),
    "bart_classifier": Walked("BartForSequenceClassification", {**SEQUENCES, **LABELS, "eos_token_id": 3}, "text"),
    "bart_decoder": Walked("BartForCausalLM", {**SEQUENCES, "bos_token_id": 1, "eos_token_id": 2}, "causal"),
    "whisper": Walked("WhisperForConditionalGeneration", {**SEQUENCES, **AUDIO}, "audio"),
}
