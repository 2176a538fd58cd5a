"""Of model types, the fields whose tiny values the names do not tell; those of a part as a dictionary, or under the part's own type."""

from typing import Any


def rope(*sections: int, **more: Any) -> dict[str, Any]:
    """Rotary parameters with sections of the frequencies."""
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **more}


MIMI = {
    "upsample_groups": 32,
    "num_filters": 4,
    "codebook_size": 64,
    "codebook_dim": 16,
    "vector_quantization_hidden_dimension": 16,
    "num_quantizers": 4,
    "upsampling_ratios": [4, 2],
    "sliding_window": 8,
}
EFFICIENT_NET = {"width_coefficient": 0.5, "depth_coefficient": 0.3, "hidden_dim": 32, "initializer_range": 0.1}

CHANGES: dict[str, dict[str, Any]] = {
    "align_vision_model": EFFICIENT_NET | {"out_channels": (16, 24, 40, 80, 112, 192, 64)},
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "audio-spectrogram-transformer": {"patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 24},
    "bamba": {"attn_layer_indices": [1], "mamba_d_state": 16, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_chunk_size": 8},
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "encoder_hash_byte_group_size": [3, 4],
        "vocab_size": 260,
        "local_attention_window_len": 6,
    },
    "blt_patcher": {"vocab_size": 260},
    "bridgetower_vision_model": {"hidden_size": 64},
    "bridgetower_text_model": {"hidden_size": 64},
    "bridgetower": {"hidden_size": 64, "contrastive_hidden_size": 32},
    "chameleon": {"vocabulary_map": {"<image>": 40} | {f"IMGIMG{chr(65 + i)}Z": 41 + i for i in range(8)}},
    "clap_audio_model": {"spec_size": 32, "patch_size": 4, "window_size": 4, "num_mel_bins": 16},
    "cohere_compass_text": {"rope_parameters": {"full_attention": rope(2, 1, 1)}},
    "dbrx": {"ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"]},
    "dia": {"delay_pattern": [0, 1]},
    "dia_decoder": {"num_channels": 2},
    "diffusion_gemma_text": {
        "num_experts": 4,
        "top_k_experts": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "global_head_dim": 16,
        "num_global_key_value_heads": 2,
    },
    "dots3_note_text": {
        "layer_types": ["full_attention", "sliding_attention"],
        "mlp_layer_types": ["dense", "sparse"],
        "shared_experts_intermediate_size": 48,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 12,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
        "head_dim": 12,
        "num_key_value_heads": 4,
    },
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32, "downsample_hidden_size": 8},
    "dots3_note_vision_encoder": {"adapter_in_dim": 32, "adapter_out_dim": 32},
    "efficientloftr": {"out_features": [8, 16, 32, 32], "stage_num_blocks": [1, 1, 1, 1], "num_attention_layers": 1},
    "emu3": {"vocabulary_map": {"<image>": 40, "<|extra_200|>": 41} | {f"<|visual token {i:06}|>": 42 + i for i in range(8)}},
    "emu3_vqgan": {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "codebook_size": 8, "embed_dim": 8},
    "ernie4_5_vl_moe_text": {"moe_intermediate_size": [48, 48], "rope_parameters": rope(1, 1, 2)},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 8},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "gemma3": {"mm_tokens_per_image": 4},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    },
    "glm4v_text": {"rope_parameters": rope(2, 1, 1)},
    "glm4v_moe_text": {"rope_parameters": rope(1, 1, 0, partial_rotary_factor=0.5)},
    "glm5_next_text": {"index_topk": 4, "index_kpool": 2},
    "glm_image_text": {"rope_parameters": rope(2, 1, 1)},
    "glm_ocr_text": {"rope_parameters": rope(2, 1, 1)},
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention"],
        "mamba_n_heads": 4,
        "mamba_d_state": 16,
        "mamba_chunk_size": 8,
    },
    "granite4_vision": {"qformer_config": {"intermediate_size": 48}, "vision_config": {"hidden_size": 64}, "spatial_target_layers": [1]},
    "informer": {"prediction_length": 4, "context_length": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_dt_rank": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "llama4_vision_model": {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32, "intermediate_size": 128},
    "lw_detr_vit": {"num_windows": 4, "num_windows_side": 2},
    "mimi": MIMI,
    "mimi_decoder": MIMI,
    "mimi_encoder": MIMI,
    "paddleocr_vl_text": {"rope_parameters": rope(2, 1, 1)},
}
