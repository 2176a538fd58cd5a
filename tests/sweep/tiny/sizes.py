"""Tiny configs: the fields of a config class that are sizes, by name, set to small values that fit each other."""

import copy
import dataclasses
import re
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from .changes import CHANGES

WIDTH, HEADS, LAYERS, VOCABULARY, POSITIONS, IMAGE = 32, 4, 2, 64, 128, 32
FIRST_SPECIAL = 40  # ids of tokens that stand for images and the like; text has smaller ones
PAD, BOS, EOS = 0, 1, 2
KNOWN_TOKENS = {"pad": PAD, "bos": BOS, "eos": EOS, "sep": EOS, "cls": BOS, "unk": 3, "decoder_start": BOS}
LAYER_LISTS = ("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types")  # one entry per layer

# Name of a field, as a pattern of the whole name, and its value; the first that fits counts. A number replaces every whole number, also
# inside tuples; a function takes the default. None leaves the default.
SIZES: tuple[tuple[str, Any], ...] = (
    (r"pretrain_image_size|query_image_size", IMAGE),
    (
        r"(\w+_)?(vocab_size|num_embeddings|n_vocab)(_per_layer_input)?",
        lambda size: size if VOCABULARY <= size < 2 * VOCABULARY else VOCABULARY,
    ),
    (r"type_vocab_size|entity_type_vocab_size", None),
    (r"(\w+_)?max_position_embeddings|n_positions|n_ctx|max_(source|target)_positions|max_sequence_length|max_seq_len", POSITIONS),
    (r"(\w+_)?hidden_size_per_layer_input|(\w+_)?head_hidden_size", 8),
    (r"(\w+_)?(head_dim|dim_head|head_size|key_head_dim|value_head_dim|v_head_dim|d_kv|attention_head_dim)", WIDTH // HEADS),
    (r"mamba_d_head|mamba_head_dim|kv_channels|head_dim_qk|head_width", WIDTH // HEADS),
    (r"qk_rope_head_dim|rotary_dim|index_rope_head_dim", 4),
    (r"qk_nope_head_dim", 8),
    (r"(\w+_)?(lora_rank|rank)", 16),
    (r"index_n_heads|index_num_heads|index_topk|indexer_\w*heads", 2),
    (r"(\w+_)?intermediate_(size|dim)(_mlp)?|(\w+_)?(ffn|feedforward)_(dim|size|hidden_size)|d_ff|dim_ff|mlp_dim|dim_feedforward", 48),
    (r"n_inner|(\w+_)?inner_dim|feed_forward_size|ffn_hidden_size", 48),
    (
        r"(\w+_)?(num_(attention_)?heads|attention_heads|n_heads?|num_(key|value)_heads|resampler_heads)",
        lambda heads: 1 << min(heads.bit_length() - 1, 2) if heads else 0,
    ),
    (r"(\w+_)?num_\w*experts|n_routed_experts|num_local_experts", lambda count: min(count, 4)),
    (r"n_shared_experts|moe_num_shared_experts|num_shared_experts", None),
    (r"(\w*num_experts_per_tok\w*|moe_topk|moe_k|top_k_experts)", lambda chosen: min(chosen, 2)),
    (r"n_group|topk_group", 1),
    (
        r"(\w+_)?(num_hidden_layers|num_layers|n_layers?|encoder_layers|decoder_layers|depth|num_hidden_layers_\w+)",
        lambda n: min(n, LAYERS),
    ),
    (
        r"num_(encoder|decoder|transformer|attention|aligner|entity)_layers|layers|[lxr]_layers|(\w+_)?num_blocks",
        lambda n: min(n, LAYERS),
    ),
    (r"first_k_dense_replace|num_dense_layers", lambda count: min(count, 1)),
    (r"depths", 1),
    (r"sliding_window(_size)?|local_attention|attention_window", 4),
    (r"attention_chunk_size|local_\w*window_len", 4),
    (r"image_size|(\w+_)?img_size|crop_size", lambda size: IMAGE),
    (r"patch_size", lambda size: min(size, 8)),
    (r"num_mel_bins|num_mels|feature_size|n_mels|mel_dim", 16),
    (r"num_frames", 2),
    (r"num_queries|num_query_tokens|num_object_queries|num_proposals|two_stage_num_proposals|num_denoising", 6),
    (
        r"hidden_size|hidden_size_global|d_model|n_embd|embed_dim|hidden_dim|dim|emb_dim|embedding_size|embedding_dim|width|(text_)?hidden_dim|bottleneck_size",
        WIDTH,
    ),
    (r"(\w+_)?(hidden_sizes?|hidden_dim|embed_dims?|embeds?_hidden_size|projection_(dim|size)|project_dim|proj_dims?|output_size)", WIDTH),
    (r"out_dim|output_dim|d_embed|codevector_dim|(\w+_)?embedding_size|(\w+_)?encoder_dim|in_dim|channels_\w+|fusion_\w+_size", WIDTH),
    (r"(encoder|decoder)_in_channels|neck_\w+|conv_dim|tdnn_dim|(\w+_)?num_channels_latents", WIDTH),
    (r"num_conv_pos_embeddings", 8),
    (r"upsample_initial_channel", 64),
    (r"num_conv_pos_embedding_groups", 4),
    (r"(vision|image)_(seq_length|seq_len)", None),
)
# Values of other kinds than whole numbers.
VALUES: tuple[tuple[str, Any], ...] = (
    (r"initializer_range|init_std|init_range|initializer_std", 0.3),
    (r"layer_scale_init\w*|layerscale\w*|\w+_layer_scale_init_value|layer_scale_initial_scale", 0.5),
)


def resized(default: Any, size: Any) -> Any:
    """A default with every whole number in it replaced by a size."""
    if isinstance(default, list | tuple):
        return type(default)(resized(each, size) for each in default)
    if isinstance(default, bool) or not isinstance(default, int) or default == 0:
        return default
    return size(default) if callable(size) else size


def token_id(field: str, tokens: dict[str, int]) -> int:
    """The id of a special token, one for each name; `tokens` remembers those given so far."""
    name = re.sub(r"_(token_)?(id|index|idx)$", "", field).removeprefix("text_")
    return KNOWN_TOKENS[name] if name in KNOWN_TOKENS else tokens.setdefault(name, FIRST_SPECIAL + len(tokens))


def tiny_config(
    config_class: type[PreTrainedConfig],
    model_type: str,
    tokens: dict[str, int] | None = None,
    given: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
) -> PreTrainedConfig:
    """A tiny config of a class, with tiny configs of its parts.

    Args:
        config_class: the class.
        model_type: its key in the table of changes.
        tokens: ids of special tokens that the whole config has given out so far.
        given: values in place of the fields' defaults, which are made small like these.
        more: values that are taken as they are, beside those of the table.
    """
    tokens = {} if tokens is None else tokens
    own = CHANGES.get(model_type, {}) | (more or {})
    try:
        default = config_class(**(given or {}))
    except Exception:  # some can not be made without their parts
        default = None
    fields = {field.name: field_default(field) for field in dataclasses.fields(config_class)} | (given or {})
    values = {}
    for name, value in fields.items():
        if name not in own and name not in config_class.sub_configs:
            new = small(name, value, default, tokens)
            if (new is not None and new != value) or name in (given or {}):
                values[name] = value if new is None else new
    for name in config_class.sub_configs:
        part = getattr(default, name, None)
        if isinstance(part, PreTrainedConfig) and name in fields and isinstance(own.get(name, {}), dict):
            values[name] = tiny_part(part, tokens, own.get(name, {}))
    for name, value in own.items():
        if isinstance(value, dict) and "model_type" in value:
            kind = value["model_type"]
            part = tiny_config(CONFIG_MAPPING[kind], kind, tokens, more={key: value[key] for key in value if key != "model_type"})
            values[name] = part.to_dict() if getattr(config_class, "has_no_defaults_at_init", False) else part
        elif name not in values:
            values[name] = value
    _one_entry_per_layer(values, default, config_class, fields)
    _enough_layers(values, default, config_class)
    return config_class(**values)


def tiny_part(part: PreTrainedConfig, tokens: dict[str, int], more: dict[str, Any]) -> PreTrainedConfig:
    """A tiny config of a part, which keeps what the whole gives it."""
    if part.model_type == "timm_backbone":
        part = CONFIG_MAPPING["resnet"](out_indices=list(part.out_indices or [4]))
        more = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "layer_type": "basic"} | more
    plain = type(part)()
    names = {field.name for field in dataclasses.fields(type(part))} - {"_out_features", "_out_indices"}
    given = {name: vars(part)[name] for name in names & set(vars(part)) if vars(part)[name] != vars(plain).get(name)}
    given |= {name: value for name, value in vars(part).items() if name not in vars(plain) and name[0] != "_"}
    given = {name: value for name, value in given.items() if name not in type(part).sub_configs and name not in LAYER_LISTS}
    if getattr(part, "out_indices", None) != getattr(plain, "out_indices", None):
        given["out_indices"] = list(part.out_indices)
    return tiny_config(type(part), part.model_type, tokens, given, more)


def _enough_layers(values: dict[str, Any], default: Any, config_class: type[PreTrainedConfig]) -> None:
    """Give a backbone without stages a layer for each of its outputs."""
    outputs = values.get("out_indices") or getattr(default, "out_indices", None)
    name = config_class.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    if outputs and isinstance(values.get(name), int) and max(outputs) > values[name]:
        values[name] = max(values[name], len(outputs))
        values["out_indices"] = list(range(values[name] - len(outputs) + 1, values[name] + 1))


def field_default(field: dataclasses.Field) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def small(name: str, value: Any, default: Any, tokens: dict[str, int]) -> Any:
    """The tiny value of one field; None if it keeps its default."""
    if name == "pad_token_id":
        return PAD
    if re.search(r"_token_(id|index|idx)$|_id_token$|_patch_id$", name) and not isinstance(value, list | tuple | dict):
        return None if value is None and name not in TOKENS_OF_MEDIA else token_id(name, tokens)
    if name in ("eos_token_id", "bos_token_id"):
        return KNOWN_TOKENS[name[:3]]
    if name == "rope_parameters":
        return _tiny_rope(getattr(default, name, None))
    for pattern, new in VALUES:
        if re.fullmatch(pattern, name) and isinstance(value, float):
            return new
    if value is None:
        return NEEDED.get(name) if getattr(default, name, None) is None else None
    if re.fullmatch(r"(\w+_)?(num_key_value_heads|num_kv_heads|n_head_kv|num_query_groups)", name) and isinstance(value, int):
        return HEADS if value == getattr(default, "num_attention_heads", None) else min(value, 2)
    for pattern, size in SIZES:
        if re.fullmatch(pattern, name):
            return None if size is None else resized(value, size)
    return None


# Of fields that are None by default and are not computed from others, the values; without them a model is not made.
NEEDED = {
    "head_dim": WIDTH // HEADS,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}
TOKENS_OF_MEDIA = ("image_token_id", "video_token_id", "audio_token_id", "image_token_index", "video_token_index", "audio_token_index")


def _tiny_rope(rope: Any) -> Any:
    """Rotary parameters whose sections fit the head size; None if they need no change."""
    if not isinstance(rope, dict):
        return None
    rope = copy.deepcopy(rope)
    changed = False
    for part in [rope, *(each for each in rope.values() if isinstance(each, dict))]:
        if part.get("mrope_section"):
            sections = len(part["mrope_section"])
            half = int(WIDTH // HEADS * part.get("partial_rotary_factor", 1.0)) // 2
            part["mrope_section"] = [half - (half // sections) * (sections - 1), *[half // sections] * (sections - 1)]
            changed = True
    return rope if changed else None


def _one_entry_per_layer(values: dict[str, Any], default: Any, config_class: type[PreTrainedConfig], fields: dict[str, Any]) -> None:
    """Give lists per layer one entry of each kind, and as many layers as the longest needs."""
    kinds = {}
    for name in LAYER_LISTS:
        entries = values[name] if name in values else getattr(default, name, None)
        if isinstance(entries, list | tuple) and entries and name in fields:
            kinds[name] = list(entries) if name in values else list(dict.fromkeys(entries))
    count_name = config_class.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    if not kinds or count_name not in values:
        return
    count = max(values[count_name], *(len(entries) for entries in kinds.values()))
    values[count_name] = count
    for name, entries in kinds.items():
        values[name] = [entries[min(index, len(entries) - 1)] for index in range(count)]
