"""What a process without the plugin is to compute by a kernel repository: tiny stock models, and what the plugin computes with them."""

import json
import os

import torch
import transformers
from families import tiny_config

from hf_tanhmax import TanhMaxSettings, tanhmax_attention, tanhmax_on, use_tanhmax

REPO = "owner/tanhmax"
MODELS = {"bert": "BertModel", "vit": "ViTModel", "llama": "LlamaForCausalLM"}
SETTINGS = {"tanhmax_polarity": 0.3, "tanhmax_shift": "balanced", "tanhmax_heads": [0, 2]}
SIDES = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 12}
IMAGES = {"image_size": 16, "patch_size": 8}


def write_cases(folder, *, commit=None, refused=None):
    """Write models, inputs and expected results; a kernel is named `REPO`."""
    expected = {}
    for name, cls in MODELS.items():
        torch.manual_seed(0)
        model = getattr(transformers, cls)(tiny_config(name, upstream=True)).eval()
        model.save_pretrained(folder / name)
        inputs = inputs_of(name)
        with tanhmax_on(model), torch.no_grad():
            expected[name] = {"inputs": inputs, "output": model(**inputs)[0]}
        if name == "llama":
            with tanhmax_on(model):
                expected[name]["generated"] = model.generate(**inputs, max_new_tokens=7, do_sample=False)
        if name == "bert":
            expected[name] |= of_training(model, inputs)
    torch.save(expected, folder / "expected.pt")
    write_others(folder)
    plan = {"repo": REPO, "models": MODELS, "settings": SETTINGS, "commit": commit, "refused": refused or {}}
    (folder / "plan.json").write_text(json.dumps(plan))
    if os.environ.get("TRITON_INTERPRET") == "1":
        write_triton(folder)


def inputs_of(name):
    """Padding at the end for BERT, at the start for LLaMA."""
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 15, 15)}
    tokens, mask = torch.randint(3, 50, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[0, 6:] = 0
    return {"input_ids": tokens, "attention_mask": mask.flip(1) if name == "llama" else mask}


def of_training(model, inputs):
    with tanhmax_on(model):
        model(**inputs)[0].square().sum().backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    values = {name.removeprefix("tanhmax_"): value for name, value in SETTINGS.items()}
    use_tanhmax(model, TanhMaxSettings(**values))
    with torch.no_grad():
        return {"gradients": gradients, "with settings": model(**inputs)[0]}


def write_others(folder):
    """A model that never asks, one with a part that computes softmax by itself, one with attention sinks, and one of several parts."""
    transformers.MPNetModel(transformers.MPNetConfig(**SIDES, vocab_size=50)).save_pretrained(folder / "mpnet")
    transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIDES, **IMAGES)).save_pretrained(folder / "siglip")
    experts = {"num_key_value_heads": 3, "head_dim": 8, "vocab_size": 50, "num_local_experts": 2, "num_experts_per_tok": 1}
    transformers.GptOssForCausalLM(transformers.GptOssConfig(**SIDES, **experts)).save_pretrained(folder / "gpt_oss")
    parts = {"text_config": {**SIDES, "vocab_size": 50, "eos_token_id": 2}, "vision_config": {**SIDES, **IMAGES}}
    transformers.CLIPModel(transformers.CLIPConfig(**parts, projection_dim=7)).save_pretrained(folder / "clip")


def write_triton(folder):
    """What the plugin's own kernels compute in the interpreter."""
    torch.manual_seed(0)
    tensors = [torch.randn(1, 2, 17, 16) for _ in range(3)]
    inputs = [tensor.clone().requires_grad_() for tensor in tensors]
    output = tanhmax_attention(*inputs, is_causal=True, implementation="triton")
    output.square().sum().backward()
    torch.save({"inputs": tensors, "found": [output.detach(), *(tensor.grad for tensor in inputs)]}, folder / "triton.pt")
