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


def places(rows_of_patches: int, columns: int) -> Callable[[Any], torch.Tensor]:
    """Column and row of each patch of an image."""
    return lambda inputs: torch.cartesian_prod(torch.arange(rows_of_patches), torch.arange(columns)).flip(-1).repeat(inputs.batch, 1, 1)


TILED = {"pixel_values": (2, 3, 32, 32), "image_sizes": rows(32, 32)}
MANY = {"pixel_values": (1, 3, 32, 32)}
GEMMA = {"pixel_values": (36, 192), "image_position_ids": places(6, 6), "pixel_position_ids": places(6, 6)}

SERIES = {
    "past_values": (15,),
    "past_time_features": (15, 0),
    "past_observed_mask": ones(15),
    "future_values": (4,),
    "future_time_features": (4, 0),
}
WINDOWED = {"target_sizes": rows(4, 4)}

# Of each type, what its arguments are: a shape after the batch, of random numbers; a function that makes the input; None to leave it out.
INPUTS: dict[str, dict[str, Any]] = {
    "audio-spectrogram-transformer": {"input_values": (24, 16)},
    "blip_2_qformer": {"encoder_hidden_states": (5, 32)},
    "colmodernvbert": MANY,
    "dac": {"input_values": (1, 400)},
    "encodec": {"input_values": (1, 400)},
    "mimi": {"input_values": (1, 400)},
    "gemma4": GEMMA,
    "gemma4_vision": GEMMA,
    "granite_docling": MANY | {"pixel_attention_mask": ones(1, dtype=torch.bool)},
    "idefics2": MANY,
    "idefics3": MANY,
    "lfm2_vl": {"pixel_values": (16, 192), "spatial_shapes": rows(4, 4), "pixel_attention_mask": ones(16)},
    "llava_next": TILED,
    "llava_next_video": TILED,
    "llava_onevision": TILED,
    "mistral3": {"image_sizes": rows(32, 32)},
    "mistral_large4": {"image_sizes": rows(32, 32)},
    "mllama": {
        "pixel_values": (1, 4, 3, 32, 32),
        "aspect_ratio_ids": ones(1),
        "aspect_ratio_mask": ones(1, 4),
        "cross_attention_mask": ones(9, 1, 4),
    },
    "mllama_vision_model": {"pixel_values": (1, 4, 3, 32, 32), "aspect_ratio_ids": ones(1), "aspect_ratio_mask": ones(1, 4)},
    "modernvbert": MANY,
    "bros": {"bbox": lambda inputs: torch.rand(inputs.batch, 9, 4)},
    "emu3": {"image_sizes": rows(32, 32)},
    "lightglue": {"pixel_values": (2, 3, 32, 32)},
    "florence_vision": {"hidden_states": (3, 32, 32)},
    "idefics": {"pixel_values": (1, 3, 32, 32), "image_attention_mask": ones(9, 1)},
    "kimi_k25": {"pixel_values": lambda inputs: torch.randn(inputs.batch * 16, 3, 8, 8), "image_grid_thw": rows(1, 4, 4)},
    "kimi_k25_vision": {"pixel_values": lambda inputs: torch.randn(inputs.batch * 16, 3, 8, 8)},
    "paddleocr_vl": {"pixel_values": lambda inputs: torch.randn(inputs.batch * 16, 3, 8, 8), "image_grid_thw": rows(1, 4, 4)},
    "paddleocr_vl_vision": {"pixel_values": lambda inputs: torch.randn(1, inputs.batch * 16, 3, 8, 8), "grid_thw": rows(1, 4, 4)},
    "inkling_audio": {"audio_input_ids": below(16, 5, 8)},
    "instructblip": {"qformer_input_ids": below(40, 5)},
    "instructblipvideo": {"qformer_input_ids": below(40, 5), "pixel_values": (2, 3, 32, 32)},
    "kosmos-2": {
        "image_embeds_position_mask": lambda inputs: torch.tensor([[0, 1, 1, 1, 1, 1, 1, 0, 0]] * inputs.batch),
    },
    "minicpm_ocr": {"target_sizes": rows(4, 4)},
    "minicpm_ocr_vision": {"target_sizes": rows(4, 4)},
    "minicpmv4_6": {"target_sizes": rows(4, 4)},
    "minicpmv4_6_vision": {"target_sizes": rows(4, 4)},
    "minicpmv4_7": {"target_sizes": rows(4, 4)},
    "minicpmv4_7_vision": {"target_sizes": rows(4, 4)},
    "molmo2_vision": {"pixel_values": (16, 192)},
    "musicgen": {"decoder_input_ids": lambda inputs: torch.randint(4, 40, (inputs.batch * 2, 5))},
    "musicgen_melody": {"decoder_input_ids": lambda inputs: torch.randint(4, 40, (inputs.batch * 2, 5)), "input_features": (5, 12)},
    "musicgen_decoder": {"input_ids": lambda inputs: torch.randint(4, 40, (inputs.batch * 2, 9))},
    "musicgen_melody_decoder": {"input_ids": lambda inputs: torch.randint(4, 40, (inputs.batch * 2, 9))},
    "pe_audio": {"input_values": (1, 400)},
    "pe_audio_encoder": {"input_values": (1, 400)},
    "fun_asr_nano_encoder": {"input_features": (12, 112), "input_features_mask": ones(12)},
    "granite_speech5_ctc": {"input_features": (24, 64)},
    "granite_speech5_encoder": {"input_features": (24, 64)},
    "granite_speech_encoder": {"hidden_states": (24, 160)},
    "granite_speech_plus_encoder": {"hidden_states": (24, 160)},
    "fuyu": {"image_patches": (4, 192)},
    "autoformer": SERIES,
    "informer": SERIES,
    "time_series_transformer": SERIES,
    "blt_global_transformer": {"attention_mask": None},
    "blt_local_encoder": {
        "attention_mask": None,
        "num_patches": lambda inputs: 3,
        "patch_ids": lambda inputs: torch.arange(9).div(3, rounding_mode="floor").repeat(inputs.batch, 1),
    },
    "blt_local_decoder": {"attention_mask": None, "inputs_embeds": (9, 32), "patch_embeds": (9, 32), "input_ids": None},
    "bridgetower_vision_model": {"image": (3, 32, 32)},
    "clap": {"input_features": (1, 256, 16)},
    "clap_audio_model": {"input_features": (1, 256, 16)},
    "clvp": {"input_features": (16, 48)},
    "colqwen2": {"pixel_values": (16, 384), "image_grid_thw": rows(1, 4, 4)},
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
    "dia": {"decoder_input_ids": below(40, 5, 2)},
    "dia_decoder": {"input_ids": below(40, 9, 2)},
    "embedding_gemma2": {"pixel_values": None, "input_features": None},
    "efficientloftr": {"pixel_values": (2, 3, 64, 64)},
    "fastspeech2_conformer_hifigan": {"spectrogram": (9, 80)},
    "fun_asr_nano": {"input_features": (12, 112), "input_features_mask": ones(12)},
    "gemma3n_audio": {"audio_mel": (48, 16), "audio_mel_mask": lambda inputs: torch.zeros(inputs.batch, 48, dtype=torch.bool)},
    "glmasr": {"input_features": (16, 48), "input_features_mask": ones(48)},
    "glmasr_encoder": {"input_features": (16, 48), "input_features_mask": ones(48)},
    "granite_speech": {"input_features": (24, 160), "input_features_mask": None},
    "granite_speech_plus": {"input_features": (24, 160), "input_features_mask": None},
    "grounding-dino": {"attention_mask": ones(9)},
    "mm-grounding-dino": {"attention_mask": ones(9)},
    "idefics2_perceiver": {"context": (16, 32), "attention_mask": ones(16)},
    "jev": {
        "marks": lambda inputs: torch.tensor([[4, 7]]),
        "num_options": lambda inputs: torch.tensor([[2, 2]]),
        "question_type_ids": lambda inputs: torch.tensor([[0, 0]]),
    },
    "kyutai_speech_to_text": {"input_ids": below(40, 9, 33)},
    "lighton_ocr": {"image_sizes": rows(32, 32)},
    "lxmert": {"visual_feats": (5, 32), "visual_pos": (5, 4)},
    "moss_transcribe_diarize": {"padding_mask": ones(48)},
    "muse_glimmer_assistant": {"noise_embeds": (5, 32), "context_hidden_states": (9, 32)},
    "nemotron_h_omni": {"pixel_values": lambda inputs: torch.randn(inputs.batch * 16, 192), "image_grid_hw": rows(4, 4)},
    "pix2struct_vision_model": {
        "flattened_patches": lambda inputs: torch.cat([torch.ones(inputs.batch, 9, 2), torch.randn(inputs.batch, 9, 192)], -1)
    },
    "kosmos_2_5_vision_model": {
        "flattened_patches": lambda inputs: torch.cat([torch.ones(inputs.batch, 9, 2), torch.randn(inputs.batch, 9, 192)], -1)
    },
    "pix2struct": {"flattened_patches": lambda inputs: torch.cat([torch.ones(inputs.batch, 9, 2), torch.randn(inputs.batch, 9, 192)], -1)},
    "patchtst": {"past_values": (32, 1)},
    "patchtsmixer": {"past_values": (32, 1)},
    "inkling2_vision": {"pixel_values": lambda inputs: torch.randn(inputs.batch * 4, 16, 16, 3), "image_grid_thw": rows(1, 2, 2)},
}
