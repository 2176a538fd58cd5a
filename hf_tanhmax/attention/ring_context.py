"""`tanhmax_attention` within torch's `context_parallel`: what of its arguments a ring can honour, and how torch has sharded."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from .ring import ring_attention
from .ring_exchange import refusing_together, ring_of
from .ring_layout import Layout, bounds_of


def attention_in_context(mesh: DeviceMesh, implementation: str, arguments: tuple[Any, ...]) -> Tensor:
    """`tanhmax_attention` within torch's `context_parallel`, whose arguments come in the order of `Call`.

    A mask `keep` of this rank's queries and keys is accepted where it says no more than which keys are padding, and what is known anyway:
    causality, and the packed sequences.

    Raises:
        NotImplementedError: a mask that says more, and what `ring_attention` lacks.
    """
    (query, key, value, keep, bias, additive, is_causal, scale, window, softcap, dropout_p, polarity, cu_seqlens, table, weights, shift) = (
        arguments
    )
    zigzag = _shards_in_a_zigzag()
    with refusing_together(ring_of(mesh.get_group()), query.device):
        for name, given in (("bias", bias), ("additive mask", additive), ("block_table", table), ("returned weights", weights or None)):
            if given is not None:
                raise NotImplementedError(
                    f"within context_parallel a rank sees the keys of the others only as they pass by, so there is no {name}; leave it "
                    "out, or leave context parallelism out"
                )
        if keep is not None and keep.dim() >= 2 and keep.shape[-2] != 1:
            layout = Layout(mesh.size(), key.shape[2], zigzag)
            keep, causal = _read_mask(keep, layout, mesh.get_local_rank(), None if cu_seqlens is None else bounds_of(cu_seqlens))
            keep, is_causal = None if bool(keep.all()) else keep, is_causal or causal
    return ring_attention(
        query,
        key,
        value,
        group=mesh.get_group(),
        zigzag=zigzag,
        keep=keep,
        is_causal=is_causal,
        scale=scale,
        window=window,
        softcap=softcap,
        dropout_p=dropout_p,
        polarity=polarity,
        shift=shift,
        cu_seqlens=cu_seqlens,
        implementation=implementation,
    )


def check_positions(mesh: DeviceMesh, position_ids: Tensor | None, cu_seqlens: Tensor | None) -> None:
    """Refuse position ids that are not those of one sequence, as sequences that only they tell apart would see each other.

    Args:
        mesh: of torch's `context_parallel`.
        position_ids: `[batch or 1, length]`, of this rank; others are left alone.
        cu_seqlens: the bounds of packed sequences, if they are told.

    Raises:
        NotImplementedError: the ids begin anew, or leave some out.
    """
    if position_ids is None or cu_seqlens is not None or position_ids.dim() != 2:
        return
    wanted = Layout(mesh.size(), position_ids.shape[1], _shards_in_a_zigzag()).positions(mesh.get_local_rank()).to(position_ids.device)
    away = position_ids - wanted
    with refusing_together(ring_of(mesh.get_group()), position_ids.device):
        if not bool((away == away[:, :1]).all()):
            raise NotImplementedError(
                "within context_parallel position ids must be those of one sequence, sharded with its other buffers; of packed sequences "
                "give cu_seq_lens_q, their bounds in the whole sequence, besides"
            )


def _shards_in_a_zigzag() -> bool:
    """How torch's `context_parallel` has shared out its buffers. Nothing public says so."""
    from torch.distributed.tensor.experimental._attention import _cp_options

    return _cp_options.enable_load_balance


def _read_mask(keep: Tensor, layout: Layout, rank: int, bounds: tuple[int, ...] | None) -> tuple[Tensor, bool]:
    """Of a mask of a rank's queries and keys: which keys take part, `[.., 1, keys]`, and whether it is causal.

    Transformers takes the gap between a rank's two chunks for that between two packed sequences, and masks one from the other.
    """
    rows, columns = keep.shape[-2:]
    if rows == columns == layout.length:
        shown = keep.diagonal(dim1=-2, dim2=-1)[..., None, :]
        chunk = torch.arange(rows, device=keep.device) * (2 if layout.zigzag else 1) // rows
        labels = [None, chunk]
        if bounds is not None:
            sequence = torch.searchsorted(torch.tensor(bounds), layout.positions(rank), right=True).to(keep.device)
            labels += [sequence, sequence * 2 + chunk]
        for label in labels:
            alike = keep.new_ones(rows, columns) if label is None else label[:, None] == label[None, :]
            for causal in (False, True):
                if torch.equal(keep, (alike.tril() if causal else alike) & shown):
                    return shown, causal
    raise NotImplementedError(
        f"within context_parallel a mask of this rank's queries and keys says nothing of the keys of other ranks, and this one, of shape "
        f"{tuple(keep.shape)}, is neither causality nor padding nor the packed sequences of cu_seqlens; pass attention_mask=None or one of "
        "[batch, length] that is sharded with the other buffers"
    )
