"""The ranks of a ring: what they send each other, and whether they all mean the same call."""

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Pending(NamedTuple):
    """An exchange that may still be under way."""

    works: Sequence[dist.Work]
    sent: tuple[Tensor, ...]  # which must stay until then
    received: tuple[Tensor, ...]

    def wait(self) -> tuple[Tensor, ...]:
        """What has come, when it has."""
        for work in self.works:
            work.wait()
        return self.received


class Ring(NamedTuple):
    """A process group as a ring."""

    group: dist.ProcessGroup
    rank: int
    size: int

    def pass_on(self, tensors: tuple[Tensor, ...], tag: int) -> Pending:
        """Begin to give dense tensors to the next rank and to take as many of the same shapes from the one before."""
        received = tuple(torch.empty_like(tensor) for tensor in tensors)
        after, before = (dist.get_global_rank(self.group, (self.rank + step) % self.size) for step in (1, -1))
        sends = [dist.P2POp(dist.isend, tensor, after, self.group, tag) for tensor in tensors]
        receives = [dist.P2POp(dist.irecv, tensor, before, self.group, tag) for tensor in received]
        return Pending(dist.batch_isend_irecv(sends + receives), tensors, received)


def ring_of(group: dist.ProcessGroup | None) -> Ring:
    """The ring of a group; None is all ranks.

    Raises:
        RuntimeError: there is no group yet.
        ValueError: this rank is not in it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "ring attention shares a sequence out over a process group, but torch.distributed is not initialized; launch with torchrun and "
            "call torch.distributed.init_process_group first"
        )
    found = cast(dist.ProcessGroup, dist.group.WORLD if group is None else group)
    rank = dist.get_rank(found)
    if rank < 0:
        raise ValueError(f"rank {dist.get_rank()} is not in the group that ring attention was given; call it on the group's ranks alone")
    return Ring(found, rank, dist.get_world_size(found))


class Description(NamedTuple):
    """What all ranks must have alike in a call."""

    batch: int
    heads: int
    queries: int
    head_size: int
    key_heads: int
    keys: int
    value_size: int
    dtype: torch.dtype
    zigzag: bool
    is_causal: bool
    window: int | None
    packed_sequences: int | None  # a number for their bounds
    scale: float
    softcap: float | None
    polarity: float | None  # None if it is a tensor
    balanced_shift: bool
    kernels: bool
    gradient: bool


REFUSED = -1
NOTHING = -(1 << 62)
REALS = ("scale", "softcap", "polarity")


def check_agreement(ring: Ring, described: Description, largest: int, device: torch.device) -> int:
    """Refuse a call of which the ranks tell different things, as they would wait for each other forever.

    That is one small collective per call. On a device it waits for that once.

    Args:
        ring: of the ranks.
        described: the call.
        largest: a number that is not negative.
        device: of the tensors.

    Returns:
        The largest of all ranks' `largest`.

    Raises:
        ValueError: on every rank, and names the rank and what it has.
    """
    if ring.size == 1:
        return largest
    everyone = _gathered(ring, [*map(_code, described), largest], device)
    for index, name in enumerate(Description._fields):
        values = [each[index] for each in everyone]
        usual = Counter(values).most_common(1)[0][0]
        for rank, value in enumerate(values):
            if value != usual:
                raise ValueError(
                    f"the ranks of a ring must make the same call, but rank {rank} has {name} {_meaning(name, value)} "
                    f"where rank {values.index(usual)} has {_meaning(name, usual)}"
                )
    return max(each[-1] for each in everyone)


@contextmanager
def refusing_together(ring: Ring, device: torch.device) -> Iterator[None]:
    """Where this rank refuses its call, tell the ranks that come to `check_agreement`, which would wait for it."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError):
        if ring.size > 1:
            _gathered(ring, [NOTHING] * len(Description._fields) + [REFUSED], device, refuses=True)
        raise


def _gathered(ring: Ring, mine: list[int], device: torch.device, *, refuses: bool = False) -> list[list[int]]:
    """The numbers of all ranks, or an error if one of the others refuses its call."""
    sent = torch.tensor(mine, dtype=torch.int64, device=device)
    gathered = [torch.empty_like(sent) for _ in range(ring.size)]
    dist.all_gather(gathered, sent, group=ring.group)
    everyone = [each.tolist() for each in gathered]
    for rank, numbers in enumerate(everyone):
        if numbers[-1] == REFUSED and not refuses:
            raise ValueError(f"rank {rank} of the ring has refused its call, and says why")
    return everyone


def _code(value: float | torch.dtype | None) -> int:
    """A value as an integer of 64 bits."""
    if value is None:
        return NOTHING
    if isinstance(value, torch.dtype):
        return DTYPES.index(value) if value in DTYPES else len(DTYPES)
    if isinstance(value, float):
        return struct.unpack("<q", struct.pack("<d", value))[0]
    return int(value)


def _meaning(name: str, code: int) -> str:
    if code == NOTHING:
        return "in a tensor" if name == "polarity" else "None"
    if name == "packed_sequences":
        return f"by cu_seqlens of its own (number {code % 10_000})"
    if name == "dtype":
        return str(DTYPES[code]) if code < len(DTYPES) else "of another kind"
    if name in REALS:
        return f"{struct.unpack('<d', struct.pack('<q', code))[0]:g}"
    return str(code)
