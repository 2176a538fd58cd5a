"""The caches of every supported release of Transformers: their names, what they hold, when they are updated, how they are read.

| release | cache of a model | who updates a paged cache | what it is given |
|---|---|---|---|
| 5.17 | `past_key_values=` | the attention function, which gets it as `cache=` | the indices, one by one |
| to 5.23 | the same | the same | the keyword arguments of the attention function |
| 5.24 | `cache=` | the attention module, before it asks the interface | its keyword arguments |

A module that updates a paged cache gathers all its keys, where decoding could read them as they lie. So a TanhMax module of 5.24 gets its
paged cache in a wrapper that puts off the update: it hands the cache on to the attention function, which takes it as before.

Transformers makes block tables for FlashAttention only. Every other attention gets `read_index`, the rows of the cache that hold the keys
of all requests, one request after the other: a table of blocks of one key. So decoding reads through that. These are gathered by
Transformers instead, as for any other attention:

* batches that hold a prompt, or whose sizes are padded for CUDA graphs, as nothing on the host then says that each request has one query;
* layers with a sliding window, whose cache is a ring that new keys may overwrite before they are read.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

from torch import Tensor, nn

from ..attention.api import reads_blocks

HANDLE = "tanhmax_cache_handle"


class PagedCache(Protocol):
    """The one promise of a paged cache that all releases keep; how `update` is told where, and all else, differs."""

    update: Callable[..., tuple[Tensor, Tensor]]


class PassedArguments(TypedDict, total=False):
    """The keyword arguments of an attention function that are read here; Transformers may pass others beside them."""

    cache: PagedCache
    read_index: list[Tensor]
    write_index: list[Tensor]
    cu_seq_lens_q: Tensor | None
    cu_seq_lens_k: Tensor | dict[str, Tensor]
    max_length_q: int
    max_seqlen_q: int
    position_bias: Tensor | None
    scaling: float | None
    softcap: float | None
    dropout: float | None
    is_causal: bool | None
    output_attentions: bool | None


@dataclass(frozen=True)
class CachedBlocks:
    """The keys of one layer in a paged cache.

    Attributes:
        key, value: `[rows, kv_heads, 1, dim]`, views of the cache.
        table: `[keys of all requests]`, the row of each.
        bounds: `[requests + 1]`, where the keys of each request begin.
    """

    key: Tensor
    value: Tensor
    table: Tensor
    bounds: Tensor


def cache_argument(forward: Callable[..., object]) -> str | None:
    """The name under which a forward takes a cache, and a model returns it: `cache` or `past_key_values`; None if it takes none."""
    names = inspect.signature(inspect.unwrap(forward)).parameters
    return next((name for name in ("cache", "past_key_values") if name in names), None)


def in_continuous_batching(kwargs: Mapping[str, object]) -> bool:
    """Whether a call of the attention function is one of continuous batching: it has a paged cache, or what was read of one."""
    return kwargs.get("cache") is not None or kwargs.get("write_index") is not None


class PutOffUpdate:
    """A paged cache that leaves its update to the attention function, to which it hands itself on as `cache`.

    Args:
        cache: the paged cache, to which all else is passed through.
    """

    def __init__(self, cache: PagedCache) -> None:
        self.cache = cache

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, kwargs: PassedArguments) -> tuple[Tensor, Tensor]:
        """The new keys and values as they came; `kwargs`, which go to the attention function, get the cache."""
        kwargs["cache"] = self.cache
        return key_states, value_states

    def __getattr__(self, name: str) -> object:
        return getattr(self.cache, name)


def put_off_updates(module: nn.Module) -> None:
    """Have an attention module leave the update of a paged cache to the attention function; does nothing where that is so already."""
    if cache_argument(type(module).forward) == "cache" and not hasattr(module, HANDLE):
        setattr(module, HANDLE, module.register_forward_pre_hook(_put_off, with_kwargs=True))


def update_at_once(module: nn.Module) -> None:
    """Undo `put_off_updates`."""
    if hasattr(module, HANDLE):
        getattr(module, HANDLE).remove()
        delattr(module, HANDLE)


def _put_off(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if kwargs.get("cache") is None or kwargs.get("write_index") is None:
        return None
    return args, kwargs | {"cache": PutOffUpdate(kwargs["cache"])}


def updated(cache: PagedCache, key: Tensor, value: Tensor, layer: int, kwargs: PassedArguments) -> tuple[Tensor, Tensor]:
    """Put new keys and values, `[1, kv_heads, queries, dim]`, into a paged cache, and gather all that the queries may see.

    Returns:
        Keys and values, `[1, kv_heads, keys, dim]`.
    """
    if _takes_indices(cache):
        key, value = cache.update(key, value, layer, read_index=kwargs["read_index"], write_index=kwargs["write_index"])
        return key.transpose(0, 1)[None], value.transpose(0, 1)[None]
    return cache.update(key, value, layer, kwargs=kwargs)


def written(cache: PagedCache, key: Tensor, value: Tensor, layer: int, kwargs: PassedArguments) -> None:
    """Put new keys and values into a paged cache, as `updated`, and gather nothing: it is told to read nothing."""
    nothing = [index[:0] for index in kwargs["read_index"]]
    if _takes_indices(cache):
        cache.update(key, value, layer, read_index=nothing, write_index=kwargs["write_index"])
    else:
        indices = {name: kwargs.get(name) for name in ("write_index", "cu_seq_lens_k", "max_length_k")}
        cache.update(key, value, layer, kwargs=indices | {"read_index": nothing})


def cached_blocks(query: Tensor, value: Tensor, layer: int, kwargs: PassedArguments) -> CachedBlocks | None:
    """The cache of a batch in which each request has one query, if it can be read where it lies; else None.

    Args:
        query: `[1, heads, requests, head_dim]`.
        value: `[1, kv_heads, requests, value_dim]`.
        layer: index of the layer.
        kwargs: what Transformers passes to the attention function.
    """
    bounds, most = kwargs.get("cu_seq_lens_q"), kwargs.get("max_length_q", kwargs.get("max_seqlen_q"))
    if most != 1 or bounds is None or bounds.shape[0] != query.shape[2] + 1 or kwargs.get("position_bias") is not None:
        return None
    one = query.transpose(0, 2)
    if kwargs.get("dropout") or not reads_blocks(one, value):
        return None
    found = _layer_of_cache(kwargs["cache"], layer)
    if found is None:
        return None
    key, value, group, kind = found
    table = kwargs["read_index"][group]
    if table.shape[0] == 0:
        return None
    lengths = kwargs["cu_seq_lens_k"]
    bounds = lengths[kind] if isinstance(lengths, dict) else lengths  # 5.17 gives no mapping where there is one kind of layers
    return CachedBlocks(key[:, :, None], value[:, :, None], table, bounds)


def _layer_of_cache(cache: Any, layer: int) -> tuple[Tensor, Tensor, int, str] | None:
    """One layer of a paged cache, where it lies: Transformers has no public view of it, so these attributes are private.

    Returns:
        Rows of keys and of values, `[rows, kv_heads, dim]`, the layer's group, and the name of its kind; None if it has a window.
    """
    if hasattr(cache, "layer_to_allocator"):
        allocator = cache.layer_to_allocator[layer]
        if not allocator.supports_block_table:
            return None
        key, value = (pages.flatten(0, 1) for pages in allocator.get_cache_for_block_table(layer))
        return key, value, allocator.index, allocator.layer_type
    if not hasattr(cache, "layer_index_to_group_indices") or cache.sliding_windows[layer] != 1:
        return None
    group, place = cache.layer_index_to_group_indices[layer]
    return cache.key_cache[place], cache.value_cache[place], group, "full_attention"


def _takes_indices(cache: PagedCache) -> bool:
    return "read_index" in inspect.signature(cache.update).parameters
