r"""Which keys a query may see: causality, windows, packed sequences and boolean masks as one object, evaluated tile by tile.

With query position :math:`i` (counted from 0, plus `offset`) and key position :math:`j`, a key is visible if all of these hold:

* `causal`: :math:`j \le i`; with a `window` :math:`w`, also :math:`j > i - w`;
* without `causal`, a window is two-sided: :math:`|i - j| < w`;
* `segments`: query and key belong to the same packed sequence;
* `keep`: the mask, which broadcasts to `[batch, heads, queries, keys]`, is True.

`offset` is 0 if the first query sits at the first key (upper-left alignment: `scaled_dot_product_attention`, and a prefill into an
empty static cache), and keys - queries if the last query sits at the last key (lower-right: a chunk appended to a cache).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionMask(NamedTuple):
    """The mask of one attention call, never larger than the tile that is asked for.

    Attributes:
        queries, keys: lengths.
        causal: whether later keys are hidden.
        offset: position of the first query among the keys.
        window: number of keys that a query sees on one side, its own included; None is all.
        keep: boolean, 4-dimensional, broadcasts to `[batch, heads, queries, keys]`.
        segments: int64 `[keys]`, the packed sequence of each position, ascending (queries and keys then have the same length).
    """

    queries: int
    keys: int
    causal: bool = False
    offset: int = 0
    window: int | None = None
    keep: Tensor | None = None
    segments: Tensor | None = None

    def key_range(self, start: int, stop: int) -> tuple[int, int]:
        """The keys that queries `start` to `stop` can see at most, as a half-open range (`keep` is not read)."""
        low, high = 0, self.keys
        if self.causal:
            high = min(high, stop + self.offset)
        if self.window is not None:
            low = max(low, start + self.offset - self.window + 1)
            high = min(high, stop + self.offset + self.window - 1)
        if self.segments is not None:
            first, last = self.segments[start], self.segments[stop - 1]
            low = max(low, int(torch.searchsorted(self.segments, first)))
            high = min(high, int(torch.searchsorted(self.segments, last, right=True)))
        return min(low, self.keys), max(high, min(low, self.keys))

    def row_ranges(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The keys that each query can see at most, as half-open ranges: int64 `[queries]` each, first and last (`keep` is not read)."""
        position = torch.arange(self.queries, device=device) + self.offset
        low, high = torch.zeros_like(position), torch.full_like(position, self.keys)
        if self.causal:
            high = torch.minimum(high, position + 1)
        if self.window is not None:
            low = torch.maximum(low, position - self.window + 1)
            high = torch.minimum(high, position + self.window)
        if self.segments is not None:
            segments = self.segments.contiguous()
            low = torch.maximum(low, torch.searchsorted(segments, segments))
            high = torch.minimum(high, torch.searchsorted(segments, segments, right=True))
        return low, torch.maximum(low, high)

    def hidden_from(self, start: int, low: int) -> int:
        """The first key that tiles of queries from `start` on must mask, if only causality hides keys; else `low`."""
        plain = self.causal and self.window is None and self.segments is None and self.keep is None
        return max(low, start + self.offset + 1) if plain else low

    def tile(
        self, rows: tuple[int, int], columns: tuple[int, int], device: torch.device, batch: slice | None = None, heads: slice | None = None
    ) -> Tensor | None:
        """The mask of some queries and keys: boolean, broadcasts to `[batch, heads, rows, columns]`; None if all are visible."""
        seen = self._band(torch.arange(*rows, device=device), torch.arange(*columns, device=device))
        if self.segments is not None:
            same = self.segments[slice(*rows), None] == self.segments[None, slice(*columns)]
            seen = same if seen is None else seen & same
        if self.keep is not None:
            part = self.keep
            for dim, wanted in enumerate((batch, heads, slice(*rows), slice(*columns))):
                if wanted is not None and part.shape[dim] != 1:
                    part = part[(slice(None),) * dim + (wanted,)]
            seen = part if seen is None else seen & part
        return seen

    def _band(self, queries: Tensor, keys: Tensor) -> Tensor | None:
        """What causality and the window leave of some queries and keys, given by their numbers; None if that is all."""
        if not self.causal and self.window is None:
            return None
        i, j = queries[:, None] + self.offset, keys[None, :]
        seen = j <= i if self.causal else None
        if self.window is None:
            return seen
        inside = (i - j < self.window) & (j - i < self.window)
        return inside if seen is None else seen & inside

    def full(self, device: torch.device) -> Tensor | None:
        """The mask of all queries and keys, as `tile` gives it. Nothing is cut, so to a compiler lengths may be symbols."""
        seen = self._band(torch.arange(self.queries, device=device), torch.arange(self.keys, device=device))
        if self.segments is not None:
            same = self.segments[:, None] == self.segments[None, :]
            seen = same if seen is None else seen & same
        if self.keep is None:
            return seen
        return self.keep if seen is None else seen & self.keep


def packed_segments(cu_seqlens: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The packed sequence of each position, int64 `[keys]`, from the bounds of a call, if they fit its tensors.

    Raises:
        ValueError, TypeError: they do not; the sentence says what they are.
    """
    length = key.shape[2]
    if query.shape[0] != 1 or query.shape[2] != length:
        raise ValueError(
            "cu_seqlens packs sequences of queries and keys alike into a batch of one, but query and key have shapes "
            f"{tuple(query.shape)} and {tuple(key.shape)}"
        )
    if cu_seqlens.dim() != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be int32 or int64 [sequences + 1], but is {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}")
    if cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling():
        bounds = cu_seqlens.tolist()
        if bounds[:1] != [0] or bounds[-1] != length or bounds != sorted(bounds):
            raise ValueError(f"cu_seqlens must ascend from 0 to the length {length}, but is {bounds}")
    positions = torch.arange(length, device=key.device)
    return torch.searchsorted(cu_seqlens.to(key.device, torch.int64), positions, right=True)
