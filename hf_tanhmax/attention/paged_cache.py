"""Keys and values in the blocks of a paged cache, and the block table that says where each of them is.

For batch entry :math:`b`, key number :math:`j` is `key[block_table[b, j // size], :, j % size]`, where `size` is the number of keys in a
block. In a flat table, blocks hold one key each, and the keys of all entries follow each other.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .mask import AttentionMask


@dataclass(frozen=True)
class Paging:
    """Where the keys of each batch entry lie.

    Attributes:
        block_table: int32 or int64, `[batch, blocks]` or `[keys of all entries]`.
        bounds: int32 or int64 `[batch + 1]`; entry b has `bounds[b + 1] - bounds[b]` keys.
    """

    block_table: Tensor
    bounds: Tensor

    def positions(self, size: int) -> tuple[Tensor, Tensor]:
        """Of every key, up to the longest entry: the row of the blocks laid end to end, and whether there is one; both `[batch, keys]`."""
        lengths = self.bounds.diff().to(torch.int64)
        each = torch.arange(int(lengths.max()) if lengths.numel() else 0, device=self.bounds.device)
        exists = each < lengths[:, None]
        if self.block_table.dim() == 1:
            index = (self.bounds[:-1, None] + each).where(exists, 0)
            return self.block_table[index].to(torch.int64) * size, exists
        blocks = self.block_table[:, each // size].to(torch.int64)
        return (blocks * size + each % size).where(exists, 0), exists

    def gathered(
        self, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask
    ) -> tuple[tuple[Tensor, Tensor, Tensor], AttentionMask]:
        """The call with dense copies of its keys and values, `[batch, kv_heads, keys, dim]`, and a mask for which of them there are."""
        rows, exists = self.positions(key.shape[2])
        missing = ~exists[:, None, :, None]  # a block that was never written may hold anything
        key, value = (tensor.transpose(1, 2).flatten(0, 1)[rows].transpose(1, 2).masked_fill(missing, 0.0) for tensor in (key, value))
        keep = exists[:, None, None]
        if mask.causal:
            last = self.bounds.diff()[:, None, None, None] - query.shape[2]
            back = torch.arange(query.shape[2], device=query.device)[:, None] + last - torch.arange(rows.shape[1], device=query.device)
            keep = keep & (back >= 0) & (back < (mask.window or rows.shape[1] + 1))
        return (query, key, value), AttentionMask(query.shape[2], rows.shape[1], keep=keep)


def checked_paging(block_table: Tensor, bounds: Tensor | None, query: Tensor, key: Tensor) -> Paging:
    """The table and the bounds of a call, if they fit its tensors.

    Raises:
        ValueError, TypeError: they do not; the sentence names what.
    """
    if bounds is None:
        raise ValueError("block_table needs cu_seqlens, [batch + 1], which say where the keys of each batch entry begin")
    for name, tensor in (("block_table", block_table), ("cu_seqlens", bounds)):
        if tensor.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{name} must be int32 or int64, but is {tensor.dtype}")
        if tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device}, but query is on {query.device}; move one of them")
    batch, size = query.shape[0], key.shape[2]
    if bounds.shape != (batch + 1,):
        raise ValueError(f"with a block_table cu_seqlens must be [batch + 1] = [{batch + 1}], but has shape {tuple(bounds.shape)}")
    if block_table.dim() not in (1, 2) or (block_table.dim() == 2 and block_table.shape[0] != batch):
        raise ValueError(f"block_table must be [batch, blocks] with a batch of {batch}, or flat, but has shape {tuple(block_table.shape)}")
    if block_table.dim() == 1 and size != 1:
        raise ValueError(f"a flat block_table counts blocks of one key, but key has blocks of {size}; give it as [batch, blocks]")
    return Paging(block_table, bounds)
