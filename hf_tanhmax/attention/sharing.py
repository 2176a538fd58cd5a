"""What is computed from a mask once, for all layers of a forward pass: each layer is given the same mask, and would read it anew.

An entry lives as long as the tensor, and is void once that is written to: torch counts the writes (`_version`), for a view those of its
base. Memory that another library may write to, as NumPy, is told by its storage, which torch may not resize: it takes no part. Whoever
writes past that count otherwise, as through `.data`, must pass another tensor. Nothing is kept, and nothing found, where a layer is traced
or compiled, within a transform of `torch.func`, for tensors of inference mode, whose writes torch does not count, and on GPUs, where a
graph that is replayed writes without being counted. A tensor takes part once `share` has seen it in plain Python: memory that a compiled
graph uses again and again has no entry.
"""

import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

Found = TypeVar("Found")
# By the number of the base in this process: the base, its writes, and what was computed, by view and name.
_entries: dict[int, tuple[Callable[[], Tensor | None], int, dict[Hashable, Any]]] = {}


def share(mask: Tensor | None) -> None:
    """Let what is computed from this mask from here on be shared, until it is written to."""
    if mask is None or not _is_plain(mask):
        return
    base = mask if mask._base is None else mask._base
    known = _entries.get(id(base))
    if known is None or known[0]() is not base or known[1] != base._version:
        number = id(base)
        reference = weakref.ref(base, lambda dead: _forget(number, dead))
        _entries[number] = (reference, base._version, {})


def shared(mask: Tensor, name: Hashable, compute: Callable[[], Found]) -> Found:
    """What `compute` returns for this mask, once while nothing writes to it, if `share` was told of it; `name` says what it is."""
    if not _is_plain(mask):
        return compute()
    base = mask if mask._base is None else mask._base
    known = _entries.get(id(base))
    if known is None or known[0]() is not base or known[1] != base._version:
        return compute()
    # A tensor may be given other memory, and what inference mode computes has no place where gradients are wanted.
    place = (mask.data_ptr(), torch.is_inference_mode_enabled())
    key = (name, mask.shape, mask.stride(), mask.storage_offset(), mask.dtype, place)
    if key not in known[2]:
        known[2][key] = compute()
    found: Found = known[2][key]
    return found


def _is_plain(mask: Tensor) -> bool:
    """Whether the tensor is one whose writes are counted and whose values are known now."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(mask) is not Tensor or mask.device.type != "cpu":
        return False
    if mask.is_inference() or mask.requires_grad:
        return False
    # The only word that torch has for "a mode looks on", as make_fx does, which would take what was shared for a constant.
    if torch._C._len_torch_dispatch_stack():
        return False
    # Within a transform of torch.func a tensor may have no storage, and a result is of no use outside.
    return not torch._C._functorch.get_interpreter_stack() and mask.untyped_storage().resizable()


def _forget(number: int, dead: "weakref.ref[Tensor]") -> None:
    known = _entries.get(number)
    if known is not None and known[0] is dead:
        del _entries[number]
