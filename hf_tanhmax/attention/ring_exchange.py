"""The ranks of a ring: what they send each other, and whether they all mean the same call."""

import struct
from collections import Counter
from collections.abc import Sequence
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


Number = int | float | bool | str | torch.dtype | None


def check_agreement(ring: Ring, described: dict[str, Number], largest: int, device: torch.device) -> int:
    """Refuse a call of which the ranks tell different things, as they would wait for each other forever.

    That is one small collective per call. On a device it waits for that once.

    Returns:
        The largest of all ranks' `largest`.

    Raises:
        ValueError: on every rank, and names the rank and what it has.
    """
    if ring.size == 1:
        return largest
    codes = [*(_code(value) for value in described.values()), largest]
    mine = torch.tensor(codes, dtype=torch.int64, device=device)
    gathered = [torch.empty_like(mine) for _ in range(ring.size)]
    dist.all_gather(gathered, mine, group=ring.group)
    everyone = [each.tolist() for each in gathered]
    for index, name in enumerate(described):
        values = [each[index] for each in everyone]
        usual = Counter(values).most_common(1)[0][0]
        for rank, value in enumerate(values):
            if value != usual:
                raise ValueError(
                    f"the ranks of a ring must make the same call, but rank {rank} has {name} {_meaning(name, value)} where rank "
                    f"{values.index(usual)} has {_meaning(name, usual)}"
                )
    return max(each[-1] for each in everyone)


NOTHING = -(1 << 62)
REALS = ("scale", "softcap", "polarity")


def _code(value: Number) -> int:
    """A value as an integer of 64 bits."""
    if value is None or isinstance(value, str):
        return NOTHING
    if isinstance(value, torch.dtype):
        return DTYPES.index(value) if value in DTYPES else len(DTYPES)
    if isinstance(value, float):
        return struct.unpack("<q", struct.pack("<d", value))[0]
    return int(value)


def _meaning(name: str, code: int) -> str:
    if code == NOTHING:
        return "None" if name != "polarity" else "learned"
    if name == "dtype":
        return str(DTYPES[code]) if code < len(DTYPES) else "of another kind"
    if name in REALS:
        return f"{struct.unpack('<d', struct.pack('<q', code))[0]:g}"
    return str(code)
