"""The caches of Transformers, whatever release of them is installed: their name, their contents, and when they are updated.

| release | cache of a model | who updates a paged cache | what it is given |
|---|---|---|---|
| 5.17 | `past_key_values=` | the attention function, which gets it as `cache=` | the indices, one by one |
| to 5.23 | the same | the same | the keyword arguments of the attention function |
| 5.24 | `cache=` | the attention module, before it asks the interface | its keyword arguments |

A module that updates a paged cache gathers all its keys, where decoding could read them as they lie. So a TanhMax module of 5.24 gets its
paged cache in a wrapper that puts off the update: it hands the cache on to the attention function, which takes it as before.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

HANDLE = "tanhmax_cache_handle"


def cache_argument(forward: Callable[..., Any]) -> str | None:
    """The name under which a forward takes a cache, and a model returns it: `cache` or `past_key_values`; None if it takes none."""
    names = inspect.signature(inspect.unwrap(forward)).parameters
    return next((name for name in ("cache", "past_key_values") if name in names), None)


def in_continuous_batching(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of the attention function is one of continuous batching: it has a paged cache, or what was read of one."""
    return kwargs.get("cache") is not None or kwargs.get("write_index") is not None


class PutOffUpdate:
    """A paged cache that leaves its update to the attention function, to which it hands itself on as `cache`.

    Args:
        cache: the paged cache, to which all else is passed through.
    """

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The new keys and values as they came; `kwargs`, which go to the attention function, get the cache."""
        kwargs["cache"] = self.cache
        return key_states, value_states

    def __getattr__(self, name: str) -> Any:
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


def updated(cache: Any, key: Tensor, value: Tensor, layer: int, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Put new keys and values, `[1, kv_heads, queries, dim]`, into a paged cache, and gather all that the queries may see.

    Returns:
        Keys and values, `[1, kv_heads, keys, dim]`.
    """
    states = {"key_states": key, "value_states": value, "layer_idx": layer}
    if _takes_indices(cache):
        key, value = cache.update(**states, read_index=kwargs["read_index"], write_index=kwargs["write_index"])
        return key.transpose(0, 1)[None], value.transpose(0, 1)[None]
    return cache.update(**states, kwargs=kwargs)


def written(cache: Any, key: Tensor, value: Tensor, layer: int, kwargs: Mapping[str, Any]) -> None:
    """Put new keys and values into a paged cache, as `updated`, and gather nothing: it is told to read nothing."""
    names = ("read_index", "write_index", "cu_seq_lens_k", "max_length_k")
    indices = {name: kwargs.get(name) for name in names}
    indices["read_index"] = [index[:0] for index in kwargs["read_index"]]
    states = {"key_states": key, "value_states": value, "layer_idx": layer}
    if _takes_indices(cache):
        cache.update(**states, read_index=indices["read_index"], write_index=indices["write_index"])
    else:
        cache.update(**states, kwargs=indices)


def layer_of_cache(cache: Any, layer: int) -> tuple[Tensor, Tensor, int, str] | None:
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


def _takes_indices(cache: Any) -> bool:
    return "read_index" in inspect.signature(cache.update).parameters
