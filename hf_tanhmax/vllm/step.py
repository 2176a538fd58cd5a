"""One step of an engine: many requests, each with some new tokens, over a paged cache. Of any engine; nothing here knows vLLM.

The cache of a layer is `[blocks, kv_heads, keys of a block, 2 * head_dim]`, a key and its value side by side, and a block table says which
blocks hold the keys of a request. The new keys are in the cache before anything is computed. The requests are of three kinds:

* **decoding**: one new token. All of them are one call through the block table where the decoding kernel runs. Else those whose numbers of
  keys are within a factor of two are one call over a dense copy of their keys, padded to the longest;
* **new**: all tokens are new. All of them are one call, as packed sequences, and the cache is not read;
* **continued**: several new tokens after others, which is a chunk of a prompt, or a prompt whose beginning was cached. One call each, over
  a dense copy of its keys.
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..attention.api import reads_blocks, tanhmax_attention
from ..functional import Shift

Rows = slice | Tensor
LEAST = 128  # keys; requests with fewer are padded together


class LayerCall(NamedTuple):
    """What a layer computes: arguments of `tanhmax_attention`."""

    scale: float
    window: int | None
    softcap: float | None
    polarity: float | Tensor
    shift: Shift
    implementation: str = "auto"


class Continued(NamedTuple):
    """A request with several new tokens after others: their rows, its blocks, and how many keys it has."""

    rows: slice
    blocks: Tensor
    length: int


@dataclass
class Decoding:
    """Some requests with one new token each.

    Attributes:
        rows: of their queries.
        tables: `[requests, blocks]`, the blocks of their keys.
        counts: `[requests]`, how many keys they have.
        longest: the most that one has.
    """

    rows: Rows
    tables: Tensor
    counts: Tensor
    longest: int
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)
    gathers: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def gathered(self, cache: Tensor) -> Tensor:
        """Their keys and values, `[requests, kv_heads, keys, 2 * head_dim]`; a row of the cache is a head's block."""
        _, kv_heads, size, width = cache.shape
        if (kv_heads, size) not in self.gathers:
            blocks = self.tables[:, None, : -(-self.longest // size)].to(torch.int64)
            rows = blocks * kv_heads + torch.arange(kv_heads, device=cache.device)[None, :, None]
            self.gathers[kv_heads, size] = rows.flatten()
        found = cache.reshape(-1, size * width).index_select(0, self.gathers[kv_heads, size])
        return found.view(self.tables.shape[0], kv_heads, -1, width)

    def mask(self, keys: int, window: int | None) -> Tensor:
        """Which of its gathered keys a request has, and sees, `[requests, 1, 1, keys]`."""
        if (keys, window) not in self.masks:
            place, count = torch.arange(keys, device=self.counts.device), self.counts[:, None]
            seen = place < count
            self.masks[keys, window] = (seen if window is None else seen & (place >= count - window))[:, None, None]
        return self.masks[keys, window]


@dataclass
class Step:
    """The requests of a step by their kinds, made once and used by all layers that share a block table.

    Args:
        starts: `[requests + 1]`, where the new tokens of each request begin.
        lengths: `[requests]`, how many tokens each has, the new ones included.
        block_table: int32 or int64 `[requests, blocks]`.
        seq_lens: `lengths` where the block table is.
    """

    starts: list[int]
    lengths: list[int]
    block_table: Tensor
    seq_lens: Tensor

    def __post_init__(self) -> None:
        device, spans = self.block_table.device, list(pairwise(self.starts))
        counts = [stop - start for start, stop in spans]
        self.single = [number for number, count in enumerate(counts) if count == 1]
        new = [number for number, count in enumerate(counts) if count == self.lengths[number] > 1]
        self.new = _rows([row for number in new for row in range(*spans[number])], device)
        self.new_bounds = torch.tensor([0, *accumulate(counts[number] for number in new)], device=device)
        self.continued = [
            Continued(slice(*spans[number]), self.block_table[number], self.lengths[number])
            for number, count in enumerate(counts)
            if 1 < count < self.lengths[number]
        ]

    @cached_property
    def decoding(self) -> Decoding:
        """All requests with one new token."""
        return self._decoding(self.single)

    @cached_property
    def alike(self) -> list[Decoding]:
        """The same in groups in which none has more than about twice as many keys as another."""
        groups: dict[int, list[int]] = {}
        for number in self.single:
            groups.setdefault((max(self.lengths[number], LEAST) - 1).bit_length(), []).append(number)
        return [self._decoding(group) for group in groups.values()]

    def _decoding(self, numbers: list[int]) -> Decoding:
        picked = slice(None) if len(numbers) == len(self.lengths) else torch.tensor(numbers, device=self.block_table.device)
        rows = _rows([self.starts[number] for number in numbers], self.block_table.device)
        longest = max(self.lengths[number] for number in numbers)
        return Decoding(rows, self.block_table[picked], self.seq_lens[picked], longest)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, cache: Tensor, call: LayerCall, output: Tensor) -> None:
        """Write the attention of all new tokens into `output`, `[tokens, heads, head_dim]`.

        Args:
            query: `[tokens, heads, head_dim]`.
            key, value: the new ones, `[tokens, kv_heads, head_dim]`.
            cache: `[blocks, kv_heads, keys of a block, 2 * head_dim]`, with the new ones in it.
            call: what the layer computes.
            output: may have more rows than there are tokens.
        """
        if self.single:
            self._decode(query, cache, call, output)
        if len(self.new_bounds) > 1:
            packed = [tensor[self.new].transpose(0, 1)[None] for tensor in (query, key, value)]
            output[self.new] = _attention(packed, call, cu_seqlens=self.new_bounds, is_causal=True)[0].transpose(0, 1)
        for each in self.continued:
            blocks = each.blocks[: -(-each.length // cache.shape[2])]
            dense = cache[blocks].transpose(0, 1).flatten(1, 2)[None, :, : each.length]
            tensors = [query[each.rows].transpose(0, 1)[None], *dense.split(query.shape[2], 3)]
            output[each.rows] = _attention(tensors, call, is_causal="lower_right")[0].transpose(0, 1)

    def _decode(self, query: Tensor, cache: Tensor, call: LayerCall, output: Tensor) -> None:
        width = query.shape[2]
        if call.implementation != "auto" or kernels_run(query, cache):
            group, (keys, values) = self.decoding, cache.split(width, 3)
            bounds = torch.nn.functional.pad(group.counts.cumsum(0, dtype=torch.int32), (1, 0))
            options: dict[str, Any] = {"block_table": group.tables, "cu_seqlens": bounds, "is_causal": "lower_right"}
            output[group.rows] = _attention([query[group.rows][:, :, None], keys, values], call, **options)[:, :, 0]
            return
        for group in self.alike:
            dense = group.gathered(cache)
            keep = group.mask(dense.shape[2], call.window)
            tensors = [query[group.rows][:, :, None], *dense.split(width, 3)]
            output[group.rows] = _attention(tensors, call._replace(window=None), keep=keep)[:, :, 0]


def kernels_run(query: Tensor, cache: Tensor) -> bool:
    """Whether our kernels compute such queries, `[tokens, heads, head_dim]`, over such a cache."""
    return reads_blocks(query[:1, :, None], cache[..., query.shape[2] :])


def _attention(tensors: list[Tensor], call: LayerCall, **options: Any) -> Tensor:
    query, key, value = tensors
    found = tanhmax_attention(query, key, value, **call._asdict(), **options)
    return found[0] if isinstance(found, tuple) else found


def _rows(numbers: list[int], device: torch.device) -> Rows:
    """Some rows of a tensor, as a slice where they follow each other."""
    if not numbers:
        return slice(0)
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return slice(numbers[0], numbers[-1] + 1)
    return torch.tensor(numbers, device=device)
