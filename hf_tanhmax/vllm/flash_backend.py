"""TanhMax in vLLM's attention layers on CUDA: our kernels over its paged cache, or identities over its own flash kernel without them."""

from typing import Any

import torch
from torch import Tensor
from vllm.v1.attention.backend import AttentionCGSupport, AttentionLayer, CommonAttentionMetadata
from vllm.v1.attention.backends import flash_attn
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadata,
    FlashAttentionMetadataBuilder,
)

from .identities import FlashCall, attend_by_identities
from .layer import layer_call, refuse_fused_output
from .step import Step, kernels_run


class TanhMaxImpl(FlashAttentionImpl):
    """An attention layer; it has the attributes of the one whose place it takes, the module, and its config view."""

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        """Keep what the layer computes, which a learned polarity says once its weights are read."""
        self.call = layer_call(self, self.sliding_window[0] + 1)

    def forward(
        self,
        layer: AttentionLayer,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: FlashAttentionMetadata | None,
        *,
        output: Tensor,
        output_scale: Tensor | None = None,
        output_block_scale: Tensor | None = None,
    ) -> Tensor:
        """Attention of all tokens of a step, written into `output` `[tokens, heads, head_dim]`; other arguments as vLLM's.

        vLLM has put the new keys and values into the cache.
        """
        refuse_fused_output(output_scale, output_block_scale)
        if attn_metadata is None:  # while memory is profiled
            return output.fill_(0)
        count = attn_metadata.num_actual_tokens
        if kernels_run(query, kv_cache):
            attn_metadata.tanhmax_step.attend(query[:count], key[:count], value[:count], kv_cache, self.call, output)
        else:
            flash = FlashCall(flash_attn.flash_attn_varlen_func, paged_arguments(attn_metadata, self.vllm_flash_attn_version))
            output[:count] = attend_by_identities(query[:count], kv_cache, self.call, flash)
        return output


class TanhMaxBuilder(FlashAttentionMetadataBuilder):
    """Batches as vLLM makes them, and the step that our layers share. Attention stays out of CUDA graphs, as lengths are looked at."""

    _cudagraph_support = AttentionCGSupport.NEVER
    supports_update_block_table = False  # a step has a table of its own

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> FlashAttentionMetadata:
        """The metadata of a batch, with its `Step`; lengths on the host are exact but for drafts, which are refused."""
        metadata = super().build(common_prefix_len, common_attn_metadata, fast_build)
        count = common_attn_metadata.num_reqs
        starts = common_attn_metadata.query_start_loc_cpu[: count + 1].tolist()
        lengths = common_attn_metadata.seq_lens_cpu_upper_bound[:count].tolist()
        metadata.tanhmax_step = Step(starts, lengths, metadata.block_table[:count], metadata.seq_lens[:count])
        return metadata


class TanhMaxBackend(FlashAttentionBackend):
    """vLLM's FlashAttention backend with our layers and batches."""

    @staticmethod
    def get_impl_cls() -> type[TanhMaxImpl]:
        """The class of the layers."""
        return TanhMaxImpl

    @staticmethod
    def get_builder_cls() -> type[TanhMaxBuilder]:
        """The class of the batches."""
        return TanhMaxBuilder


def paged_arguments(metadata: FlashAttentionMetadata, version: int | None) -> dict[str, Any]:
    """What vLLM's flash kernel is told of the requests."""
    return {
        "cu_seqlens_q": metadata.query_start_loc,
        "max_seqlen_q": metadata.max_query_len,
        "seqused_k": metadata.seq_lens,
        "max_seqlen_k": metadata.max_seq_len,
        "block_table": metadata.block_table,
        "fa_version": version,
    }
