"""What vLLM can be asked for that a TanhMax model does not do: one sentence each, which names the version."""

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from . import engine_version, untried

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig
    from vllm.model_executor.layers.attention import Attention

PLAIN_CACHES = ("auto", "float16", "bfloat16", "float32")


class Refused(nn.Module):
    """What is registered with a vLLM that was not tried; it has what vLLM looks for in a class, and cannot be made."""

    def __init__(self, *, vllm_config: "VllmConfig", prefix: str = "") -> None:
        super().__init__()
        raise ImportError(untried())

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Never called."""
        raise NotImplementedError

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Never called."""
        raise NotImplementedError

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Never called."""
        raise NotImplementedError


class SoftmaxCheck:
    """What vLLM calls with the settings of an engine of one of its own classes, which computes softmax.

    Args:
        before: the check that vLLM itself has for the class, which is made as well; None if it has none.
    """

    def __init__(self, before: Any = None) -> None:
        self.before = before

    def verify_and_update_config(self, vllm_config: "VllmConfig") -> None:
        """Refuse a TanhMax checkpoint, also where vLLM looks the class up by another name only now."""
        refuse_softmax(vllm_config.model_config)
        if self.before is not None:
            self.before.verify_and_update_config(vllm_config)

    def verify_and_update_model_config(self, model_config: "ModelConfig") -> None:
        """Refuse a TanhMax checkpoint, before vLLM's check reads a config that is not of its class."""
        refuse_softmax(model_config)
        if self.before is not None:
            self.before.verify_and_update_model_config(model_config)


class SettingsCheck:
    """What vLLM calls with the settings of an engine, in the process that starts it, before any weight is read."""

    @staticmethod
    def verify_and_update_config(vllm_config: "VllmConfig") -> None:
        """Refuse settings that TanhMax models do not do."""
        refuse_settings(vllm_config)

    @staticmethod
    def verify_and_update_model_config(model_config: "ModelConfig") -> None:
        """Nothing is changed."""


def check_settings(served: Iterable[str], others: Iterable[str]) -> None:
    """Have vLLM check its settings for each of its classes; calling it again changes nothing.

    Its table of such checks by architecture has no function that adds to it.

    Args:
        served: architectures of TanhMax models.
        others: those of vLLM's own classes, which compute softmax.
    """
    table = import_module("vllm.model_executor.models.config").MODELS_CONFIG_MAP
    table.update(dict.fromkeys(served, SettingsCheck))
    for name in others:
        if not isinstance(table.get(name), SoftmaxCheck):
            table[name] = SoftmaxCheck(table.get(name))


def refuse_softmax(model_config: "ModelConfig") -> None:
    """Refuse a TanhMax checkpoint whose architecture, or model type as well, was edited or overridden.

    Raises:
        NotImplementedError: the sentence names the class and what of the config says TanhMax.
    """
    config = model_config.hf_config
    said = [name for name, value in vars(config).items() if name.startswith("tanhmax_") and value is not None]
    if str(config.model_type).startswith("tanhmax_"):
        what = f"its config is of type {config.model_type}"
    elif said:
        what = f"its config has {', '.join(sorted(said))}"
    else:
        return
    refuse(f"the softmax class {model_config.architecture}, as {what}", "leave architectures and model_type as the checkpoint has them")


def refuse_settings(vllm_config: "VllmConfig") -> None:
    """Refuse what the settings of an engine ask for and TanhMax models do not do.

    Raises:
        NotImplementedError: the sentence says what, and what to do.
    """
    parallel = vllm_config.parallel_config
    if getattr(vllm_config.model_config, "runner_type", "generate") != "generate":
        refuse("classification or embeddings", "leave runner and convert out, and serve a causal language model")
    if vllm_config.speculative_config is not None:
        refuse("speculative decoding, whose drafts were not tried", "leave speculative_config out")
    if vllm_config.cache_config.cache_dtype not in PLAIN_CACHES:
        refuse(f"a KV cache of {vllm_config.cache_config.cache_dtype}, whose keys have scales", 'set kv_cache_dtype to "auto"')
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name, 1) > 1:
            refuse("context parallelism, whose ranks merge softmax outputs", f"set {name} to 1")
    if parallel.pipeline_parallel_size > 1 and vllm_config.device_config.device_type == "cpu":
        refuse("pipeline parallelism on the CPU, where it fails at the first step with any model", "set pipeline_parallel_size to 1")


def refuse_layer(layer: "Attention") -> None:
    """Refuse an attention layer of vLLM that computes what TanhMax attention does not.

    Raises:
        NotImplementedError: the sentence says what, and what to do.
    """
    impl = layer.impl
    if layer.attn_backend.get_name() not in ("CPU_ATTN", "FLASH_ATTN"):
        refuse(
            f"the attention backend {layer.attn_backend.get_name()}, whose cache is laid out otherwise",
            "start it with --attention-backend FLASH_ATTN",
        )
    for name, what in (("sinks", "attention sinks"), ("alibi_slopes", "ALiBi"), ("kv_sharing_target_layer_name", "layers that share keys")):
        if getattr(impl, name, None) is not None:
            refuse(f"{what}, as {layer.layer_name} has", "serve another model")
    if layer.attn_type != "decoder":
        refuse(f"attention of type {layer.attn_type}, as {layer.layer_name} has", "serve a causal language model")
    if layer.kv_cache_dtype not in PLAIN_CACHES:
        refuse(f"a KV cache of {layer.kv_cache_dtype}, as {layer.layer_name} has", 'set kv_cache_dtype to "auto"')
    if layer.head_size_v != layer.head_size:
        refuse(f"values of another size than keys, as {layer.layer_name} has", "serve another model")


def refuse(what: str, remedy: str) -> None:
    """Raise the sentence."""
    raise NotImplementedError(f"vLLM {engine_version()} does not serve a TanhMax model with {what}; {remedy}")
