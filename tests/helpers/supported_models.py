"""Architectures tried with `attn_implementation="tanhmax"`: the cases of `test_supported_models.py` and the table of the README."""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from families import images, right_padding, text

from hf_tanhmax.results import table as markdown_table

COMMON = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 13}
ENCODER = {**COMMON, "vocab_size": 53, "initializer_range": 0.3}
DECODER = {**ENCODER, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
IMAGE = {**COMMON, "image_size": 15, "patch_size": 5, "initializer_range": 0.3}
SIDES = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
FEED_FORWARD = {"encoder_ffn_dim": 13, "decoder_ffn_dim": 13}
GPT_NEO = {"vocab_size": 53, "hidden_size": 24, "num_heads": 4, "num_layers": 2, "attention_types": [[["global"], 2]]}
SLIDING = {"sliding_window": 5}
LAYER_TYPES = {"layer_types": ["sliding_attention", "full_attention"]}


@dataclass(frozen=True)
class Architecture:
    """One architecture: a tiny model of it, inputs for it, and what is expected.

    Attributes:
        name: as people call it.
        cls: name of the class in Transformers.
        values: of its tiny configuration.
        inputs: `text`, `image`, `both`, `text to text` or `speech to text`.
        note: what its attention has beyond scores and a mask; empty if nothing.
        layers: those that `use_tanhmax` must be given, as another part bypasses the attention interface; None if no part does.
        refused: why TanhMax is refused, as matched in the error; None where it is supported.
    """

    name: str
    cls: str
    values: dict[str, Any] = field(repr=False)
    inputs: str = "text"
    note: str = ""
    layers: tuple[int, ...] | None = None
    refused: str | None = None

    def model(self, attn_implementation: str) -> Any:
        """The tiny model, the same weights at every call."""
        torch.manual_seed(0)
        cls = getattr(transformers, self.cls)
        return cls(cls.config_class(**self.values, attn_implementation=attn_implementation)).eval()

    def example(self) -> dict[str, torch.Tensor]:
        """Inputs; text is padded."""
        words = {"input_ids": text(), "attention_mask": right_padding()}
        return {
            "text": words,
            "image": {"pixel_values": images()},
            "both": {**words, "pixel_values": images()},
            "text to text": {**words, "decoder_input_ids": text()[:, :7]},
            "speech to text": {"input_features": torch.randn(2, 5, 14), "decoder_input_ids": text()[:, :7]},
        }[self.inputs]


ARCHITECTURES = (
    Architecture("BERT", "BertModel", ENCODER),
    Architecture("RoBERTa", "RobertaModel", {**ENCODER, "pad_token_id": 0}),
    Architecture("ELECTRA", "ElectraModel", {**ENCODER, "embedding_size": 24}),
    Architecture("DistilBERT", "DistilBertModel", {"vocab_size": 53, "dim": 24, "n_heads": 4, "n_layers": 2, "hidden_dim": 13}),
    Architecture(
        "ModernBERT",
        "ModernBertModel",
        {**ENCODER, "pad_token_id": 0, "num_hidden_layers": 3, "global_attn_every_n_layers": 3, "local_attention": 6},
        note="local layers by mask",
    ),
    Architecture("ViT", "ViTModel", IMAGE, "image"),
    Architecture("DeiT", "DeiTModel", IMAGE, "image"),
    Architecture("DINOv2", "Dinov2Model", IMAGE, "image"),
    Architecture(
        "SigLIP",
        "SiglipModel",
        {"text_config": {**ENCODER, "projection_size": 24}, "vision_config": IMAGE},
        "both",
        "both towers; the pooling head of the vision tower is torch's own attention and stays softmax, so `use_tanhmax` wants `layers`",
        layers=(0, 1, 2, 3),
    ),
    Architecture("CLIP", "CLIPModel", {"text_config": {**ENCODER, "eos_token_id": 2}, "vision_config": IMAGE}, "both", "both towers"),
    Architecture("GPT-2", "GPT2Model", {"vocab_size": 53, "n_embd": 24, "n_head": 4, "n_layer": 2}),
    Architecture("LLaMA", "LlamaModel", DECODER),
    Architecture("Mistral", "MistralModel", {**DECODER, **SLIDING, "head_dim": 6}, note="sliding window by mask"),
    Architecture("Qwen2", "Qwen2Model", DECODER),
    Architecture("Qwen3", "Qwen3Model", {**DECODER, "head_dim": 6}),
    Architecture(
        "Gemma 2", "Gemma2Model", {**DECODER, **SLIDING, **LAYER_TYPES, "head_dim": 6}, note="sliding window by mask, softcap of the scores"
    ),
    Architecture("Gemma 3", "Gemma3TextModel", {**DECODER, **SLIDING, **LAYER_TYPES, "head_dim": 6}, note="sliding window by mask"),
    Architecture("Phi-3", "Phi3Model", DECODER),
    Architecture("SmolLM3", "SmolLM3Model", DECODER),
    Architecture(
        "T5",
        "T5Model",
        {"vocab_size": 53, "d_model": 24, "d_kv": 6, "d_ff": 13, "num_heads": 4, "num_layers": 2, "initializer_factor": 1.0},
        "text to text",
        "relative positions multiply shares, as under softmax",
    ),
    Architecture(
        "BART", "BartModel", {"vocab_size": 53, "d_model": 24, "pad_token_id": 0, "init_std": 0.3, **SIDES, **FEED_FORWARD}, "text to text"
    ),
    Architecture(
        "Whisper",
        "WhisperModel",
        {"vocab_size": 53, "d_model": 24, "num_mel_bins": 5, "max_source_positions": 7, "init_std": 0.3, "pad_token_id": 0}
        | {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, **SIDES, **FEED_FORWARD},
        "speech to text",
    ),
    Architecture(
        "gpt-oss",
        "GptOssModel",
        {**DECODER, **SLIDING, **LAYER_TYPES, "head_dim": 6, "num_local_experts": 2, "num_experts_per_tok": 1},
        refused="attention sinks",
    ),
    Architecture("GPT-Neo", "GPTNeoModel", GPT_NEO, refused="computes softmax itself"),
    Architecture("MPNet", "MPNetModel", ENCODER, refused="computes softmax itself"),
    Architecture("DeBERTa v2", "DebertaV2Model", ENCODER, refused="computes softmax itself"),
    Architecture(
        "BLOOM", "BloomModel", {"vocab_size": 53, "hidden_size": 24, "n_head": 4, "n_layer": 2}, refused="computes softmax itself"
    ),
)


def table() -> str:
    """The architectures as a Markdown table."""
    rows = []
    for case in ARCHITECTURES:
        verdict = (
            "partly"
            if case.layers
            else "yes"
            if case.refused is None
            else "refused"
            if "sinks" in case.refused
            else "no: use_tanhmax refuses it"
        )
        note = case.note if case.refused is None else case.refused
        rows.append([case.name, f"`{case.cls}`", verdict, note])
    header = ["architecture", "class tried", '`attn_implementation="tanhmax"`', "note"]
    return markdown_table(header, rows, markdown=True, align="none")


if __name__ == "__main__":
    print(table())
