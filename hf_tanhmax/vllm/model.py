"""The class that vLLM makes for a TanhMax checkpoint: Transformers' own modules, whose attention layers vLLM allocates and this computes.

vLLM's backend for Transformers models builds the model with `AutoModel`, replaces its projections by parallel ones, and gives each
attention module a layer of its own, which holds the paged cache. Here each such layer of a module that computes TanhMax gets an
implementation that does; the layers that `tanhmax_layers` leaves softmax keep vLLM's.
"""

from importlib import import_module
from typing import Any

from torch import nn
from transformers import PreTrainedConfig
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.models.transformers import TransformersForCausalLM
from vllm.model_executor.models.transformers.moe import MoEMixin

from ..integration.patching import ConfigView
from ..models.architectures import config_of, upstream_type
from ..models.family import TanhMaxFields
from .refusal import refuse, refuse_layer, refuse_settings

# For each attention backend of vLLM, the module here that has its `TanhMaxBackend`.
BACKENDS = {"CPU_ATTN": "cpu_backend", "FLASH_ATTN": "flash_backend"}
LAYER = "attn"  # where vLLM puts the layer of an attention module


class TanhMaxForCausalLM(TransformersForCausalLM):
    """Any TanhMax causal language model."""

    def __new__(cls, *, vllm_config: VllmConfig, prefix: str = "") -> "TanhMaxForCausalLM":  # noqa: ARG004
        """Of a model with experts, the class that vLLM's layers of experts belong to."""
        return super().__new__(TanhMaxMoEForCausalLM if vllm_config.model_config.is_moe else cls)

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        refuse_settings(vllm_config)
        model_config = vllm_config.model_config
        model_config.hf_config = own_config(model_config.hf_config)
        model_config.hf_text_config = model_config.hf_config.get_text_config()
        self.views: dict[str, ConfigView] = {}
        super().__init__(vllm_config=vllm_config, prefix=prefix)

    @property
    def _from_config_kwargs(self) -> dict[str, object]:
        """The model is of the installed package's class, and not of the file that came with the checkpoint."""
        return {"config": self.config, "dtype": self.model_config.dtype, "trust_remote_code": False}

    def recursive_replace(self) -> None:
        """Take down which modules compute TanhMax and how, and give them the plain config, which names vLLM's attention."""
        for path, module in self.model.named_modules():
            if isinstance(view := getattr(module, "config", None), ConfigView):
                self.views[path] = view
                module.config = view.plain
        super().recursive_replace()

    def _create_attention_instances(self, prefix: str = "") -> None:
        super()._create_attention_instances(prefix)
        if not self.views:
            refuse(f"no layer that computes TanhMax, as this {type(self.model).__name__} is", "check tanhmax_layers in its config.json")
        for path, view in self.views.items():
            module = self.model.get_submodule(path)
            if isinstance(getattr(module, LAYER, None), nn.Module):
                take_over(module, view)
            elif any(True for _ in module.parameters()):  # those of other ranks have none
                refuse(f"no attention layer of its own for {path}", "serve another model")


class TanhMaxMoEForCausalLM(MoEMixin, TanhMaxForCausalLM):
    """One with experts."""


def own_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config as the installed package has it, where a checkpoint's own code made it."""
    if isinstance(config, TanhMaxFields):
        return config
    model_type = upstream_type(config.model_type)
    if model_type is None:
        refuse(f"the model type {config.model_type!r}", "convert the model with hf_tanhmax.convert")
    return config_of(str(model_type)).from_dict(config.to_dict())


def take_over(module: nn.Module, view: ConfigView) -> None:
    """Have the layer that vLLM made for an attention module compute TanhMax."""
    layer: Any = getattr(module, LAYER)
    refuse_layer(layer)
    backend = import_module(f".{BACKENDS[layer.attn_backend.get_name()]}", __package__).TanhMaxBackend
    impl = object.__new__(backend.get_impl_cls())
    rank, ranks = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
    vars(impl).update(vars(layer.impl), module=module, view=view, rank=rank, ranks=ranks)
    layer.attn_backend, layer.impl = backend, impl
