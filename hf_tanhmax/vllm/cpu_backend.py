"""TanhMax in vLLM's attention layers on the CPU: its paged cache, in a layout of ours, and the C++ operator."""

import torch
from torch import Tensor
from vllm.v1.attention.backend import AttentionLayer
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionBackendImpl, CPUAttentionMetadata

from .layer import layer_call, refuse_fused_output
from .step import Step


class TanhMaxImpl(CPUAttentionBackendImpl):
    """An attention layer; it has the attributes of the one whose place it takes, the module, and its config view."""

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        """Keep what the layer computes, which a learned polarity says once its weights are read."""
        self.call = layer_call(self, self.sliding_window)

    def forward(
        self,
        layer: AttentionLayer,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: CPUAttentionMetadata | None,
        *,
        output: Tensor,
        output_scale: Tensor | None = None,
        output_block_scale: Tensor | None = None,
    ) -> Tensor:
        """Attention of all tokens of a step, written into `output` `[tokens, heads, head_dim]`; other arguments as vLLM's."""
        refuse_fused_output(output_scale, output_block_scale)
        if attn_metadata is None:  # while warming up
            return output
        count = attn_metadata.num_actual_tokens
        query, key, value, slots = (tensor[:count] for tensor in (query, key, value, attn_metadata.slot_mapping))
        size = kv_cache.shape[2]
        kv_cache[slots // size, :, slots % size] = torch.cat([key, value], -1)
        step_of(attn_metadata).attend(query, key, value, kv_cache, self.call, output)
        return output


class TanhMaxBackend(CPUAttentionBackend):
    """vLLM's CPU backend with our layers; the cache is updated in `forward`."""

    forward_includes_kv_cache_update = True

    @staticmethod
    def get_impl_cls() -> type[TanhMaxImpl]:
        """The class of the layers."""
        return TanhMaxImpl


def step_of(metadata: CPUAttentionMetadata) -> Step:
    """The step of a batch, which all layers that share its metadata share."""
    step = getattr(metadata, "tanhmax_step", None)
    if step is None:
        starts, lengths = metadata.query_start_loc.tolist(), metadata.seq_lens.tolist()
        count = len(starts) - 1
        step = metadata.tanhmax_step = Step(starts, lengths[:count], metadata.block_table[:count], metadata.seq_lens[:count])
    return step
