"""Of model types, the inputs that the names of arguments do not tell."""

from collections.abc import Callable
from typing import Any

import torch


def ones(*shape: int, dtype: torch.dtype = torch.long) -> Callable[[Any], torch.Tensor]:
    """Ones of a shape, which follows the batch."""
    return lambda inputs: torch.ones(inputs.batch, *shape, dtype=dtype)


def rows(*row: Any) -> Callable[[Any], torch.Tensor]:
    """The same row for each example."""
    return lambda inputs: torch.tensor([row] * inputs.batch)


def below(size: int, *shape: int) -> Callable[[Any], torch.Tensor]:
    """Random whole numbers from 0 below a size."""
    return lambda inputs: torch.randint(0, size, (inputs.batch, *shape))


def unless_speech(inputs: Any) -> torch.Tensor | None:
    """Ids of text for a head that takes no speech."""
    return None if "input_features" in inputs.arguments else inputs.words(24)


def half_masked(inputs: Any) -> torch.Tensor | None:
    """Which patches of a video are masked, for a head that must know."""
    return torch.arange(16).lt(8).repeat(inputs.batch, 1) if "bool_masked_pos" in inputs.needed else None


def places(rows_of_patches: int, columns: int) -> Callable[[Any], torch.Tensor]:
    """Column and row of each patch of an image."""
    return lambda inputs: torch.cartesian_prod(torch.arange(rows_of_patches), torch.arange(columns)).flip(-1).repeat(inputs.batch, 1, 1)


TILED = {"pixel_values": (2, 3, 32, 32), "image_sizes": rows(32, 32)}
MANY = {"pixel_values": (1, 3, 32, 32)}
PATCHED = {"pixel_values": (36, 192), "image_position_ids": places(6, 6)}
GEMMA = {"pixel_values": (36, 192), "pixel_position_ids": places(6, 6)}

LARGER = {"pixel_values": (3, 96, 96)}  # so that the last stage of a backbone has more than a pixel

SERIES = {
    "past_values": (15,),
    "past_time_features": (15, 0),
    "past_observed_mask": ones(15),
    "future_values": (4,),
    "future_time_features": (4, 0),
}
WINDOWED = {"pixel_values": lambda inputs: torch.randn(1, 3, 8, 8 * 16 * inputs.batch), "target_sizes": rows(4, 4)}
NAFLEX = {"pixel_values": (16, 192), "pixel_attention_mask": ones(16), "spatial_shapes": rows(4, 4)}

# Of each type, what its arguments are: a shape after the batch, of random numbers; a function that makes the input; None to leave it out.
INPUTS: dict[str, dict[str, Any]] = {
    "audio-spectrogram-transformer": {"input_values": (24, 16)},
    "autoformer": SERIES,
    "blip_2_qformer": {"encoder_hidden_states": (5, 32)},
    "blt_global_transformer": {"attention_mask": None},
    "blt_local_decoder": {"attention_mask": None, "inputs_embeds": (9, 32), "patch_embeds": (9, 32), "input_ids": None},
    "blt_local_encoder": {
        "attention_mask": None,
        "num_patches": lambda inputs: 3,
        "patch_ids": lambda inputs: torch.arange(9).div(3, rounding_mode="floor").repeat(inputs.batch, 1),
    },
    "bridgetower_vision_model": {"image": (3, 32, 32)},
    "bros": {"bbox": lambda inputs: torch.rand(inputs.batch, 9, 4)},
    "clap": {"input_features": (1, 512, 32)},
    "clap_audio_model": {"input_features": (1, 512, 32)},
    "clvp": {"input_features": (16, 48)},
    "colmodernvbert": MANY,
    "colqwen2": {"pixel_values": (16, 384), "image_grid_thw": rows(1, 4, 4)},
    "conditional_detr": LARGER,
    "d_fine": LARGER,
    "dab-detr": LARGER,
    "dac": {"input_values": (1, 400)},
    "decision_transformer": {
        "states": (5, 17),
        "actions": (5, 4),
        "rewards": (5, 1),
        "returns_to_go": (5, 1),
        "timesteps": below(9, 5),
        "attention_mask": ones(5),
    },
    "deepseek_ocr2_encoder": {"inputs_embeds": (9, 32), "num_patches": lambda inputs: 5, "attention_mask": None},
    "deepseek_vl_hybrid": {"high_res_pixel_values": (3, 32, 32)},
    "deformable_detr": LARGER,
    "deimv2": LARGER,
    "depth_pro": {"pixel_values": (3, 128, 128)},
    "detr": LARGER,
    "dia": {"decoder_input_ids": below(40, 5, 2)},
    "dia_decoder": {"input_ids": below(40, 9, 2), "encoder_hidden_states": (5, 32), "attention_mask": ones(9)},
    "dots3_note": {"input_features": (16, 48), "chunk_sample_lengths": lambda inputs: torch.tensor([48 * 160] * inputs.batch)},
    "dots3_note_audio_encoder": {
        "input_features": (16, 48),
        "chunk_sample_lengths": lambda inputs: torch.tensor([48 * 160] * inputs.batch),
    },
    "efficientloftr": {"pixel_values": (2, 3, 64, 64)},
    "embedding_gemma2": {"pixel_values": None, "input_features": None},
    "emu3": {"image_sizes": rows(32, 32)},
    "encodec": {"input_values": (1, 400)},
    "fastspeech2_conformer_hifigan": {"spectrogram": (9, 80)},
    "florence_vision": {"hidden_states": (3, 32, 32)},
    "fun_asr_nano": {"input_features": (12, 112), "input_features_mask": ones(12)},
    "fun_asr_nano_encoder": {"input_features": (12, 112), "input_features_mask": ones(12)},
    "fuyu": {"pixel_values": None, "image_patches": (4, 192)},
    "gemma3n_audio": {"audio_mel": (48, 128), "audio_mel_mask": lambda inputs: torch.zeros(inputs.batch, 48, dtype=torch.bool)},
    "gemma4": PATCHED | {"input_features": (48, 128), "input_features_mask": ones(48, dtype=torch.bool)},
    "gemma4_audio": {"input_features": (48, 128), "attention_mask": ones(48)},
    "gemma4_unified": {"pixel_values": (4, 1728), "image_position_ids": places(2, 2), "input_features": None},
    "gemma4_vision": GEMMA,
    "glm_image": {
        "pixel_values": lambda inputs: torch.randn(inputs.batch * 16, 192),
        "image_grid_thw": lambda inputs: torch.tensor([[1, 4, 4]] * 2 * inputs.batch),
        "images_per_sample": lambda inputs: torch.tensor([2] * inputs.batch),
    },
    "glmasr": {"input_features": (16, 48), "input_features_mask": ones(48)},
    "glmasr_encoder": {"input_features": (16, 48)},
    "granite4_vision": TILED,
    "granite_docling": MANY | {"pixel_attention_mask": ones(1, dtype=torch.bool)},
    "granite_speech": {"input_features": (24, 160), "input_features_mask": None},
    "granite_speech5_ctc": {"input_features": (24, 64)},
    "granite_speech5_encoder": {"input_features": (24, 64)},
    "granite_speech_encoder": {"hidden_states": (24, 160)},
    "granite_speech_plus": {"input_features": (24, 160), "input_features_mask": None},
    "granite_speech_plus_encoder": {"hidden_states": (24, 160)},
    "grounding-dino": LARGER | {"attention_mask": ones(9)},
    "idefics": {"pixel_values": (1, 3, 32, 32), "image_attention_mask": ones(9, 1)},
    "idefics2": MANY,
    "idefics2_perceiver": {"context": (16, 32), "attention_mask": ones(16)},
    "idefics3": MANY,
    "informer": SERIES,
    "inkling2": {"pixel_values": lambda inputs: torch.randn(inputs.batch * 4, 16, 16, 3), "image_grid_thw": rows(1, 2, 2)},
    "inkling2_vision": {"pixel_values": lambda inputs: torch.randn(inputs.batch * 4, 16, 16, 3), "image_grid_thw": rows(1, 2, 2)},
    "inkling_audio": {"audio_input_ids": below(16, 5, 80)},
    "inkling_mm_model": {"pixel_values": (2, 8, 8, 3)},
    "inkling_vision": {"pixel_values": (2, 8, 8, 3)},
    "instructblip": {"qformer_input_ids": below(40, 5)},
    "instructblipvideo": {"qformer_input_ids": below(40, 5), "pixel_values": (2, 3, 32, 32)},
    "jev": {
        "marks": lambda inputs: torch.tensor([[4, 7]]),
        "num_options": lambda inputs: torch.tensor([[2, 2]]),
        "question_type_ids": lambda inputs: torch.tensor([[0, 0]]),
    },
    "kimi_k25": {"pixel_values": lambda inputs: torch.randn(inputs.batch * 16, 3, 8, 8), "image_grid_thw": rows(1, 4, 4)},
    "kimi_k25_vision": {"pixel_values": lambda inputs: torch.randn(inputs.batch * 16, 3, 8, 8)},
    "kosmos-2": {"image_embeds_position_mask": lambda inputs: torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0, 0]] * inputs.batch)},
    "kosmos_2_5_vision_model": {
        "flattened_patches": lambda inputs: torch.cat([torch.ones(inputs.batch, 9, 2), torch.randn(inputs.batch, 9, 192)], -1)
    },
    "kyutai_speech_to_text": {"input_ids": below(40, 9, 33)},
    "lfm2_vl": {"pixel_values": (16, 192), "spatial_shapes": rows(4, 4), "pixel_attention_mask": ones(16)},
    "lightglue": {"pixel_values": (2, 3, 32, 32)},
    "lighton_ocr": {"image_sizes": rows(32, 32)},
    "llava_next": TILED,
    "llava_next_video": TILED,
    "llava_onevision": TILED,
    "lxmert": {"visual_feats": (5, 32), "visual_pos": (5, 4)},
    "mask2former": LARGER,
    "maskformer": LARGER,
    "mimi": {"input_values": (1, 400)},
    "mimi_decoder": {"latents": (32, 9)},
    "mimi_encoder": {"input_values": (1, 400)},
    "minicpm_ocr": WINDOWED,
    "minicpm_ocr_vision": WINDOWED,
    "minicpmv4_6": WINDOWED,
    "minicpmv4_6_vision": WINDOWED,
    "minicpmv4_7": WINDOWED,
    "minicpmv4_7_vision": WINDOWED,
    "mistral3": {"image_sizes": rows(32, 32)},
    "mistral_large4": {"image_sizes": rows(32, 32)},
    "mllama": {
        "pixel_values": (1, 4, 3, 32, 32),
        "aspect_ratio_ids": ones(1),
        "aspect_ratio_mask": ones(1, 4),
        "cross_attention_mask": ones(9, 1, 4),
    },
    "mllama_vision_model": {"pixel_values": (1, 4, 3, 32, 32), "aspect_ratio_ids": ones(1), "aspect_ratio_mask": ones(1, 4)},
    "mm-grounding-dino": LARGER | {"attention_mask": ones(9)},
    "modernvbert": MANY,
    "molmo2": {
        "pixel_values": (16, 192),
        "image_token_pooling": lambda inputs: torch.arange(16 * inputs.batch).view(-1, 4),
        "image_grids": rows(2, 2, 0, 0),
    },
    "molmo2_adapter": {"image_features": (16, 64), "pooled_patches_idx": lambda inputs: torch.arange(16 * inputs.batch).view(-1, 4)},
    "molmo2_vision": {"pixel_values": (16, 192)},
    "moshi_depth": {"input_ids": below(40, 3), "last_hidden_state": (1, 32), "attention_mask": None},
    "moss_transcribe_diarize": {"padding_mask": ones(48)},
    "muse_glimmer_assistant": {"noise_embeds": (5, 32), "context_hidden_states": (9, 160), "attention_mask": ones(14)},
    "musicgen": {"decoder_input_ids": lambda inputs: torch.randint(4, 40, (inputs.batch * 2, 5))},
    "musicgen_decoder": {"input_ids": lambda inputs: torch.randint(4, 40, (inputs.batch * 2, 9))},
    "musicgen_melody": {"decoder_input_ids": lambda inputs: torch.randint(4, 40, (inputs.batch * 2, 5)), "input_features": (5, 12)},
    "musicgen_melody_decoder": {"input_ids": lambda inputs: torch.randint(4, 40, (inputs.batch * 2, 9))},
    "nemotron_h_omni": {
        "pixel_values": lambda inputs: torch.randn(inputs.batch * 16, 192),
        "image_grid_hw": rows(4, 4),
        "input_features": None,
    },
    "neomme": {"pixel_values": lambda inputs: torch.randn(inputs.batch * 4, 192)},
    "neucodec": {"input_features": (6, 160), "input_values": (1, 1920)},
    "omdet-turbo": {
        "classes_input_ids": below(40, 5),
        "classes_attention_mask": ones(5),
        "tasks_input_ids": below(40, 5),
        "tasks_attention_mask": ones(5),
        "classes_structure": lambda inputs: torch.ones(inputs.batch, dtype=torch.long),
    },
    "oneformer": {"task_inputs": (77,), "pixel_values": (3, 96, 96)},
    "paddleocr_vl": {"pixel_values": lambda inputs: torch.randn(inputs.batch * 16, 3, 8, 8), "image_grid_thw": rows(1, 4, 4)},
    "paddleocr_vl_vision": {"pixel_values": lambda inputs: torch.randn(1, inputs.batch * 16, 3, 8, 8), "grid_thw": rows(1, 4, 4)},
    "patchtsmixer": {"past_values": (32, 1)},
    "patchtst": {"past_values": (32, 1)},
    "pe_audio": {"input_values": (1, 400)},
    "pe_audio_encoder": {"input_values": (1, 400)},
    "phi4_multimodal_audio": {"mask": ones(48), "hidden_states": (48, 80)},
    "pi0": {
        "state": (32,),
        "noise": (50, 32),
        "timestep": (),
        "pixel_values": (1, 3, 32, 32),
        "pixel_attention_mask": ones(1, dtype=torch.bool),
    },
    "pix2struct": {"flattened_patches": lambda inputs: torch.cat([torch.ones(inputs.batch, 9, 2), torch.randn(inputs.batch, 9, 192)], -1)},
    "pix2struct_vision_model": {
        "flattened_patches": lambda inputs: torch.cat([torch.ones(inputs.batch, 9, 2), torch.randn(inputs.batch, 9, 192)], -1)
    },
    "pocket_tts_audio_tokenizer": {"input_values": (1, 400)},
    "pocket_tts_audio_tokenizer_decoder": {"latents": (32, 9)},
    "pocket_tts_audio_tokenizer_encoder": {"input_values": (1, 400)},
    "pop2piano": {"input_features": (9, 32), "input_ids": None, "attention_mask": None},
    "pp_doclayout_v2": LARGER,
    "pp_doclayout_v3": LARGER,
    "pp_doclayout_v4": LARGER,
    "pp_ocrv5_mobile_rec": {"pixel_values": (3, 96, 64)},
    "pp_ocrv5_server_rec": {"pixel_values": (3, 48, 64)},
    "pp_ocrv6_medium_rec": {"pixel_values": (3, 48, 64)},
    "pp_ocrv6_small_rec": {"pixel_values": (3, 48, 64)},
    "pp_ocrv6_tiny_rec": {"pixel_values": (3, 48, 64)},
    "qwen2_5_omni_audio_encoder": {
        "input_features": lambda inputs: torch.randn(16, 32 * inputs.batch),
        "feature_lens": lambda inputs: torch.tensor([32] * inputs.batch),
    },
    "qwen2_5_omni_bigvgan": {"mel_spectrogram": (16, 9)},
    "qwen2_5_omni_dit": {
        "hidden_states": (8, 16),
        "condition_vector": (8, 16),
        "speaker_embedding": (8, 192),
        "quantized_code": below(8, 4),
        "time_step": lambda inputs: torch.rand(inputs.batch),
    },
    "qwen2_5_omni_thinker": {"input_features": (16, 100), "feature_attention_mask": ones(100)},
    "qwen2_5_omni_token2wav": {"code": below(8, 4), "conditioning": (192,), "reference_mel": (8, 16), "num_steps": lambda inputs: 2},
    "qwen2_audio": {"feature_attention_mask": ones(256)},
    "qwen3_asr": {"input_features": (16, 100), "input_features_mask": ones(100)},
    "qwen3_asr_encoder": {"input_features": (16, 100), "input_features_mask": ones(100)},
    "qwen3_omni_moe_audio_encoder": {
        "input_features": lambda inputs: torch.randn(16, 100 * inputs.batch),
        "feature_lens": lambda inputs: torch.tensor([100] * inputs.batch),
    },
    "qwen3_omni_moe_talker_code_predictor": {"input_ids": None, "inputs_embeds": (9, 32)},
    "qwen3_omni_moe_talker_text": {"input_ids": None, "inputs_embeds": (9, 32)},
    "qwen3_omni_moe_thinker": {"input_features": (16, 100), "feature_attention_mask": ones(100)},
    "rag": {
        "context_input_ids": lambda inputs: torch.randint(4, 40, (inputs.batch * 5, 7)),
        "context_attention_mask": lambda inputs: torch.ones(inputs.batch * 5, 7, dtype=torch.long),
        "doc_scores": (5,),
    },
    "rt_detr": LARGER,
    "rt_detr_v2": LARGER,
    "sam3_detr_decoder": {"vision_features": (16, 32), "text_features": (5, 32), "vision_pos_encoding": (16, 32)},
    "sam3_detr_encoder": {
        "vision_features": lambda inputs: [torch.randn(inputs.batch, 32, 4, 4)],
        "vision_pos_embeds": lambda inputs: [torch.randn(inputs.batch, 32, 4, 4)],
        "text_features": (5, 32),
    },
    "sam3_lite_text_detr_decoder": {"vision_features": (16, 32), "text_features": (5, 32), "vision_pos_encoding": (16, 32)},
    "sam3_lite_text_detr_encoder": {
        "vision_features": lambda inputs: [torch.randn(inputs.batch, 32, 4, 4)],
        "vision_pos_embeds": lambda inputs: [torch.randn(inputs.batch, 32, 4, 4)],
        "text_features": (5, 32),
    },
    "sam3_lite_text_mask_decoder": {
        "decoder_queries": (5, 32),
        "backbone_features": lambda inputs: [torch.randn(inputs.batch, 32, size, size) for size in (16, 8, 4)],
        "encoder_hidden_states": (16, 32),
        "prompt_features": (5, 32),
    },
    "sam3_mask_decoder": {
        "decoder_queries": (5, 32),
        "backbone_features": lambda inputs: [torch.randn(inputs.batch, 32, size, size) for size in (16, 8, 4)],
        "encoder_hidden_states": (16, 32),
        "prompt_features": (5, 32),
    },
    "seamless_m4t": {"input_features": (24, 160), "input_ids": unless_speech, "attention_mask": ones(24)},
    "seamless_m4t_v2": {"input_features": (24, 160), "input_ids": unless_speech, "attention_mask": ones(24)},
    "seggpt": {"pixel_values": (3, 16, 16), "prompt_pixel_values": (3, 16, 16), "prompt_masks": (3, 16, 16)},
    "siglip2": NAFLEX,
    "siglip2_vision_model": NAFLEX,
    "smolvlm": MANY,
    "speech-encoder-decoder": {"input_values": (1920,), "input_features": None, "inputs": None},
    "speech_to_text": {"input_features": (32, 80), "attention_mask": ones(32)},
    "speecht5_hifigan": {"spectrogram": (9, 80)},
    "superglue": {"pixel_values": (2, 3, 32, 32)},
    "t5gemma2_decoder": {"encoder_hidden_states": (9, 32)},
    "table-transformer": LARGER,
    "time_series_transformer": SERIES,
    "timesfm": {
        "past_values": (64,),
        "past_values_padding": lambda inputs: torch.zeros(inputs.batch, 64),
        "freq": lambda inputs: torch.zeros(inputs.batch, 1, dtype=torch.long),
    },
    "timesfm2_5": {"past_values": (64,)},
    "timesformer": {"pixel_values": (2, 3, 32, 32)},
    "tvp": {"pixel_values": (2, 3, 96, 96)},
    "udop": {"bbox": lambda inputs: torch.rand(inputs.batch, 9, 4).sort(-1)[0]},
    "ultravbert": MANY,
    "unlimited_ocr_vision_encoder": {"patch_embeds": (32, 4, 4)},
    "uvdoc": LARGER,
    "vibevoice_acoustic_tokenizer": {"input_values": (1, 400)},
    "vibevoice_acoustic_tokenizer_decoder": {"hidden_states": (8, 9)},
    "vibevoice_acoustic_tokenizer_encoder": {"hidden_states": (1, 400)},
    "video_llama_3": {"image_merge_sizes": lambda inputs: torch.ones(inputs.batch, dtype=torch.long)},
    "video_llama_3_vision": {"merge_sizes": lambda inputs: torch.ones(inputs.batch, dtype=torch.long)},
    "videomae": {"pixel_values": (2, 3, 32, 32), "bool_masked_pos": half_masked},
    "videomt": {"pixel_values_videos": (2, 3, 32, 32), "pixel_values": None},
    "videoprism": {"pixel_values_videos": (2, 3, 32, 32), "pixel_values": None},
    "videoprism_vision_model": {"pixel_values_videos": (2, 3, 32, 32), "pixel_values": None},
    "vivit": {"pixel_values": (2, 3, 32, 32)},
    "vjepa2": {"pixel_values_videos": (2, 3, 32, 32), "pixel_values": None},
    "voxtral_realtime": {"input_features": (16, 72)},
    "voxtral_realtime_encoder": {"input_features": (16, 48)},
    "voxtral_realtime_text": {"t_cond": (1, 32)},
    "wav2vec2-bert": {"input_features": (24, 160), "attention_mask": ones(24)},
    "xclip": {"pixel_values": (2, 3, 32, 32)},
    "xclip_vision_model": {"pixel_values": lambda inputs: torch.randn(inputs.batch * 2, 3, 32, 32)},
    "xcodec": {"input_values": (1, 1920)},
    "xcodec2": {"input_features": (6, 160), "input_values": (1, 1920)},
}

# Of each type, how many tokens of a kind each row has, where the model does not say by `get_image_features` and the like.
COUNTS: dict[str, dict[str, int]] = {
    "fuyu": {"image": 4},
    "glm_image": {"image": 16},
    "granite4_vision": {"image": 10},
    "llama4": {"image": 4},
    "musicflamingo": {"audio": 64},
    "pi0": {"image": 16},
    "qwen2_audio": {"audio": 64},
}
