"""The functions that Transformers calls: TanhMax under three names of its attention interface, each with its mask function.

* `tanhmax` returns no weights unless the caller asked for `output_attentions`, and takes the fastest implementation;
* `tanhmax_eager` always returns the signed weights;
* `tanhmax_paged` is `tanhmax` inside continuous batching, and raises outside of it.

All ask for boolean masks (`sdpa_mask`). What an architecture or a user adds to the scores instead, a floating-point mask or a position
bias, is a convention about softmax, which multiplies a key's share by its exponential; as a part of the score, -100 would be a large weight
of the other sign. So it is an `additive_mask`, never a `bias`. This module only translates; `tanhmax_attention` computes.
"""

import functools
import logging
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ..attention.api import context_mesh, ring_module, tanhmax_attention
from ..attention.ops import NAMESPACE
from ..attention.sharing import share, shared
from ..functional import Shift, hides
from ..settings import LEARNED
from .serving import CachedBlocks, PassedArguments, cached_blocks, in_continuous_batching, updated, written

FUSED = NAMESPACE.removeprefix("hf_")
EAGER, PAGED = f"{FUSED}_eager", f"{FUSED}_paged"
# What the config of a TanhMax model answers to softmax classes, also from its config.json. It is the same in every copy of this code; where
# none is imported, Transformers refuses the name when a model is made.
CLASSES_ONLY = "tanhmax_classes_only"
SCORE_BIAS = "tanhmax_score_bias"

# What attention modules and configs call the number of heads, the size of one, and the projection that takes the outputs of all.
HEAD_COUNTS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "nhead", "num_query_heads", "heads")
SIZES_OF_HEAD = ("head_dim", "head_size", "attention_head_size")
HEADS_TO = ("o_proj", "out_proj", "Wo", "dense")

# Arguments that change what attention computes and that TanhMax attention does not do.
REFUSED = {
    "s_aux": "attention sinks",
    "sinks": "attention sinks",
    "indices": "sparse key selection",
    "block_indices": "sparse key selection",
}
MASK_BITS = 32  # heads of one number
HONOURED, NONE_CARRIED = frozenset(("position_bias", "dropout", "scaling", "softcap")), frozenset[str]()
# Tensors that reach the attention function but do not change what it computes here: positions are in query and key already, masks and
# packing arrive as the mask, and the cache reads the rest itself. Any other tensor is refused.
CARRIED = frozenset(
    {
        "position_ids",
        "cache_position",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "cu_seq_lens_q",
        "cu_seq_lens_k",
        "max_length_q",
        "max_length_k",
        "max_seqlen_q",
        "max_seqlen_k",
        "read_index",
        "write_index",
        "block_table",
        "num_items_in_batch",
        "shift_labels",
        "seq_idx",
        "logits_to_keep",
        "logits_indices",
        "logits_processor_args",
    }
)


def register_attention() -> None:
    """Register attention and mask under every name; calling it again changes nothing.

    Transformers' model classes are imported by this only, as importing them may be what calls it.
    """
    interface = import_module("transformers").AttentionInterface
    for name, function in ((FUSED, fused_forward), (EAGER, eager_forward), (PAGED, paged_forward)):
        interface.register(name, function)
        AttentionMaskInterface.register(name, sdpa_mask)
    interface.register(CLASSES_ONLY, refuse_softmax_class)
    AttentionMaskInterface.register(CLASSES_ONLY, sdpa_mask)


def refuse_softmax_class(module: nn.Module, *_: object, **__: object) -> NoReturn:
    """What attention modules call that a softmax class made from the config of a TanhMax model.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"this {type(module).__name__} is in a softmax model, but was made from the config of a TanhMax model: load or make that by an "
        "Auto class, or by the class whose name begins with TanhMax"
    )


def fused_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """TanhMax attention for Transformers; weights only if the caller passed `output_attentions=True`.

    Args:
        module: the attention module; its config and its `tanhmax_score_bias` say how signed the weights are.
        query: `[batch, heads, queries, head_dim]`; key and value may have fewer heads.
        key: `[batch, kv_heads, keys, head_dim]`.
        value: `[batch, kv_heads, keys, value_dim]`.
        attention_mask: None, boolean (True takes part) or additive; 4-dimensional.
        **kwargs: what Transformers passes along; an argument that would change the result and is not honoured is refused.

    Returns:
        Output `[batch, queries, heads, value_dim]`, contiguous, and the weights or None.

    Raises:
        NotImplementedError: attention sinks, sparse key selection, sequence parallelism, or a tensor of unknown meaning; within torch's
            `context_parallel`, what `attention.ring` cannot do.
        TypeError: a mask that is not a 4-dimensional tensor.
    """
    return _forward(module, query, key, value, attention_mask, bool(kwargs.get("output_attentions")), kwargs)


def eager_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The same as `fused_forward`, with the signed weights `[batch, heads, queries, keys]` always."""
    return _forward(module, query, key, value, attention_mask, True, kwargs)


def paged_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The same as `fused_forward`, for names that Transformers makes no mask for, as continuous batching brings its own.

    Raises:
        ValueError: no paged cache, so padding would be seen and causality lost.
    """
    if not in_continuous_batching(kwargs):
        raise ValueError('a "paged|" attention works in continuous batching only; set_attn_implementation("sdpa") for a standard forward')
    return _forward(module, query, key, value, attention_mask, bool(kwargs.get("output_attentions")), kwargs)


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    weights: bool,
    passed: dict[str, object],
) -> tuple[Tensor, Tensor | None]:
    _refuse(module, passed)
    kwargs = cast(PassedArguments, passed)
    if (cache := kwargs.get("cache")) is not None:
        blocks = None if weights else cached_blocks(query, value, _layer_of(module), kwargs)
        if blocks is not None:
            return _decoded(module, query, (key, value), blocks, kwargs), None
        key, value = updated(cache, key, value, _layer_of(module), kwargs)
    query, key, value = _of_one_batch(query, key, value)
    keep, additive = split_mask(mask, kwargs.get("position_bias"), key.shape[-2], paged=in_continuous_batching(kwargs))
    found = tanhmax_attention(
        query,
        key,
        value,
        keep=keep,
        additive_mask=additive,
        is_causal=mask is None and runs_causally(module, query, kwargs.get("is_causal")) and not _masks_are_whole(module),
        scale=kwargs.get("scaling"),
        softcap=kwargs.get("softcap"),
        dropout_p=kwargs.get("dropout") or 0.0,
        polarity=_polarity(module, query),
        shift=_score_shift(module),
        cu_seqlens=packed_bounds(query, key, mask, kwargs),
        return_weights=weights,
    )
    output, signed = found if isinstance(found, tuple) else (found, None)
    return output.transpose(1, 2).contiguous(), signed


def _of_one_batch(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Learned queries, or keys, of which there is one row for all rows of the batch, as matrix products repeat them."""
    if query.shape[0] == key.shape[0]:
        return query, key, value
    rows = max(query.shape[0], key.shape[0])
    query, key, value = (each.expand(rows, *[-1] * 3) if each.shape[0] == 1 else each for each in (query, key, value))
    return query, key, value


def _refuse(module: nn.Module, kwargs: dict[str, object]) -> None:
    for name, value in kwargs.items():
        if value is None or name in CARRIED:
            continue
        if name in REFUSED:
            raise NotImplementedError(refused_argument(module, name))
        if isinstance(value, Tensor) and name not in HONOURED and name not in _carried(module):
            raise NotImplementedError(
                f"{type(module).__name__} passed the tensor {name!r}, which TanhMax attention does not know and will not ignore"
            )
    if not torch.compiler.is_compiling() and _shares_out_heads():
        raise NotImplementedError(
            "sequence parallelism (Ulysses) replaces softmax attention, which TanhMax does not call, so each rank would see its own keys "
            "only; set sp_size to 1, and cp_size to the number of ranks"
        )
    if (mesh := context_mesh()) is not None:
        ring_module().check_positions(mesh, kwargs.get("position_ids"), kwargs.get("cu_seq_lens_q"))


def _carried(module: nn.Module) -> frozenset[str]:
    return getattr(getattr(module, "config", None), "carried", NONE_CARRIED)


def _shares_out_heads() -> bool:
    """Whether accelerate is told to share out sequences over ranks between attentions, and heads within, by a launch or by a script."""
    if int(os.environ.get("PARALLELISM_CONFIG_SP_SIZE", "1")) > 1:
        return True
    state = sys.modules.get("accelerate.state")
    if state is None or not state.is_initialized():
        return False
    config = getattr(state.AcceleratorState(), "parallelism_config", None)
    return config is not None and config.sp_size > 1


def refused_argument(module: nn.Module, argument: str) -> str:
    """Why a module cannot compute TanhMax that passes one of the arguments in `REFUSED`."""
    return f"TanhMax attention has no {REFUSED[argument]}: {type(module).__name__} passed {argument!r}"


def _decoded(module: nn.Module, query: Tensor, new: tuple[Tensor, Tensor], blocks: CachedBlocks, kwargs: PassedArguments) -> Tensor:
    """One query of each of many requests, which reads the paged cache where it lies; the requests are the batch."""
    written(kwargs["cache"], *new, _layer_of(module), kwargs)
    found = tanhmax_attention(
        query.transpose(0, 2),
        blocks.key,
        blocks.value,
        is_causal="lower_right",
        scale=kwargs.get("scaling"),
        softcap=kwargs.get("softcap"),
        polarity=_polarity(module, query),
        shift=_score_shift(module),
        cu_seqlens=blocks.bounds,
        block_table=blocks.table,
    )
    output = found[0] if isinstance(found, tuple) else found
    return output.permute(2, 0, 1, 3).contiguous()


def _layer_of(module: nn.Module) -> int:
    index = getattr(module, "layer_idx", None)
    if index is None:
        raise NotImplementedError(f"a paged cache needs the layer's index, but {type(module).__name__} has no layer_idx")
    return index


def split_mask(mask: Tensor | None, position_bias: Tensor | None, keys: int, *, paged: bool) -> tuple[Tensor | None, Tensor | None]:
    """Which keys take part, and what multiplies their shares: a floating-point mask says both, and the first lets kernels skip blocks.

    Continuous batching fills its mask with 0 and the least finite number alone, so that the first says it all.
    """
    if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 4):
        what = f"a tensor of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"TanhMax attention takes a 4-dimensional boolean or additive mask, but got {what}")
    additive = None if position_bias is None else position_bias[..., :keys]
    if mask is None:
        return None, additive
    mask = mask[..., :keys]
    if mask.dtype == torch.bool:
        return mask, additive
    if not mask.is_floating_point():
        raise TypeError(f"a 4-dimensional mask must be boolean or floating point, but is {mask.dtype}; use mask.bool()")
    whole = mask
    share(whole)
    keep = shared(whole, "keep", lambda: ~hides(whole))
    if paged:
        return keep, additive
    return keep, mask if additive is None else additive + mask


def packed_bounds(query: Tensor, key: Tensor, mask: Tensor | None, kwargs: PassedArguments) -> Tensor | None:
    """The bounds of packed sequences, wherever they can be honoured; without a mask they must be, or sequences would leak."""
    fits = query.shape[0] == 1 and query.shape[2] == key.shape[2] and not in_continuous_batching(kwargs)
    return kwargs.get("cu_seq_lens_q") if fits or mask is None else None


def _masks_are_whole(module: nn.Module) -> bool:
    return getattr(getattr(module, "config", None), "masks_are_whole", False)


def runs_causally(module: nn.Module, query: Tensor, wanted: bool | None) -> bool:
    """Transformers' order: the argument, then the module, then True; one query sees every key."""
    if query.shape[2] == 1:
        return False
    return bool(getattr(module, "is_causal", True) if wanted is None else wanted)


def heads_of(module: nn.Module) -> int:
    """How many heads an attention module has; under tensor parallelism on all ranks together.

    Raises:
        ValueError: neither the module nor its config says.
    """
    found = _count_of(module) or _heads_by_size(module) or _count_of(module.config)
    if found is None:
        raise ValueError(
            f"cannot tell how many heads {type(module).__name__} has, as neither it nor its config says so by {', '.join(HEAD_COUNTS)}; "
            "leave heads None, and polarity a number"
        )
    return found


def _count_of(holder: object) -> int | None:
    """The number of heads that a module or a config has as an attribute."""
    values = (getattr(holder, name, None) for name in HEAD_COUNTS)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)


def _heads_by_size(module: nn.Module) -> int | None:
    """The number of heads by the size of each: a decoder may have another number than its config says, which is that of the encoder."""
    for projections, width, sizes in (
        (HEADS_TO, "in_features", ("v_head_dim", *SIZES_OF_HEAD)),
        (("q_proj",), "out_features", SIZES_OF_HEAD),
    ):
        owner = next((each for name in projections if (each := getattr(module, name, None)) is not None), None)
        total, size = (
            getattr(owner, width, None),
            next((value for name in sizes if isinstance(value := getattr(module, name, None), int)), None),
        )
        if isinstance(total, int) and size and total % size == 0:
            return total // size
    return None


def _polarity(module: nn.Module, query: Tensor) -> float | Tensor:
    config = getattr(module, "config", None)
    polarity, heads = getattr(config, "tanhmax_polarity", 1.0), getattr(config, "tanhmax_heads", None)
    if polarity == LEARNED:
        polarity = torch.exp(-2.0 * _score_bias(module, query))
    if heads is None:
        return polarity
    if any(head >= heads_of(module) for head in heads):
        raise ValueError(f"tanhmax_heads is {[*heads]}, but {type(module).__name__} has {heads_of(module)} heads, counted from 0")
    if query.shape[1] != heads_of(module):
        raise NotImplementedError(
            f"tanhmax_heads counts the {heads_of(module)} heads of the whole {type(module).__name__}, but tensor parallelism shows this "
            f"rank {query.shape[1]} of them and not which; choose layers instead of heads, or set tp_size to 1"
        )
    return torch.where(_head_mask(heads, query), polarity, torch.zeros((), device=query.device))


def _score_shift(module: nn.Module) -> Shift:
    return getattr(getattr(module, "config", None), "tanhmax_shift", None)


def _head_mask(chosen: Iterable[int], query: Tensor) -> Tensor:
    """Boolean `[heads]`, True at the chosen ones.

    They come as the bits of numbers, which travel with a kernel's launch; a list would be copied from the host, which waits for the device
    and cannot be captured by a CUDA graph.
    """
    heads = query.shape[1]
    words = [sum(1 << head - first for head in chosen if 0 <= head - first < MASK_BITS) for first in range(0, heads, MASK_BITS)]
    place = torch.arange(MASK_BITS, device=query.device)
    return torch.cat([word >> place & 1 for word in words])[:heads].bool()


def _score_bias(module: nn.Module, query: Tensor) -> Tensor:
    """The score bias of each head of the query; where tensor parallelism shares them out, those of this rank."""
    bias: Any = getattr(module, SCORE_BIAS, None)
    if bias is None:
        raise ValueError(
            f'tanhmax_polarity is "learned", but {type(module).__name__} has no score bias: these are made with a model, so make it from a '
            "config that says so"
        )
    if hasattr(bias, "to_local"):
        bias = bias.to_local()
    if bias.shape[0] != query.shape[1]:
        raise ValueError(
            f"{type(module).__name__} has {bias.shape[0]} score biases but sees {query.shape[1]} heads: tensor parallelism shares out the "
            f'heads and not the biases; give tp_plan a rule that ends in ".{SCORE_BIAS}": "colwise"'
        )
    if query.requires_grad and module.training and not bias.requires_grad and not torch.compiler.is_compiling():
        _say_frozen()
    return bias


@functools.cache
def _say_frozen() -> None:
    logging.getLogger(__name__).warning(
        "the score biases of a learned polarity are frozen, as PEFT freezes all but its adapters, so the polarity stays as it is; train "
        "them before, or give the model a polarity that is a number"
    )
