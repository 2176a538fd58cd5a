"""What a rank of a ring holds at most, counted tensor by tensor in one process that plays rank 0 and receives what it sends."""

import weakref
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_tanhmax.attention import ring
from hf_tanhmax.attention.api import tanhmax_attention
from hf_tanhmax.attention.ring_exchange import Pending, Ring

LENGTH, HEADS, KV_HEADS, DIM = 256, 4, 2, 16


class Held(TorchDispatchMode):
    """The bytes of the tensors that operators have returned and that are still there, and the most that there were."""

    def __init__(self):
        super().__init__()
        self.sizes, self.most = {}, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **(options or {}))
        for tensor in torch.utils._pytree.tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()).data_ptr() not in self.sizes:
                self.sizes[storage.data_ptr()] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, storage.data_ptr(), None)
        self.most = max(self.most, sum(self.sizes.values()))
        return found


def most(ranks, **options):
    """Bytes of a forward and a backward pass, inputs included."""
    shapes = [(1, heads, LENGTH // ranks, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
    with Held() as held:
        *tensors, upstream = [torch.randn(shape).requires_grad_(index < 3) for index, shape in enumerate(shapes)]
        attention = ring.ring_attention if ranks > 1 else tanhmax_attention
        attention(*tensors, is_causal=True, **options).backward(upstream)
    return held.most


@pytest.mark.parametrize(("ranks", "share"), [(2, 0.9), (4, 0.5)])
def test_more_ranks_divide_what_a_rank_holds(ranks, share, monkeypatch):
    monkeypatch.setattr(Ring, "pass_on", lambda _, tensors, tag: Pending((), tensors, tuple(map(torch.clone, tensors))))
    monkeypatch.setattr(ring, "ring_of", lambda _: Ring(None, 0, ranks))
    monkeypatch.setattr(ring, "check_agreement", lambda _, described, largest, device: largest)
    monkeypatch.setattr(ring, "refusing_together", lambda *_: nullcontext())
    alone = most(1)
    assert most(ranks) < share * alone, most(ranks) / alone
