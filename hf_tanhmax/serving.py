"""What continuous batching of Transformers hands over, as a block table: then its cache is read where it lies, and nothing is gathered.

Transformers makes block tables for FlashAttention only. Every other attention gets `read_index`, the rows of the cache that hold the keys
of all requests, one request after the other: a table of blocks of one key. So decoding reads through that. These are gathered by
Transformers instead, as for any other attention:

* batches that hold a prompt, or whose sizes are padded for CUDA graphs, as nothing on the host then says that each request has one query;
* layers with a sliding window, whose cache is a ring that new keys may overwrite before they are read.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .attention.api import reads_blocks
from .caches import layer_of_cache


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


def cached_blocks(query: Tensor, value: Tensor, layer: int, kwargs: dict[str, Any]) -> CachedBlocks | None:
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
    found = layer_of_cache(kwargs["cache"], layer)
    if found is None:
        return None
    key, value, group, kind = found
    table = kwargs["read_index"][group]
    if table.shape[0] == 0:
        return None
    lengths = kwargs["cu_seq_lens_k"]
    bounds = lengths[kind] if isinstance(lengths, dict) else lengths  # 5.17 gives no mapping where there is one kind of layers
    return CachedBlocks(key[:, :, None], value[:, :, None], table, bounds)
