"""What layers share of their mask: while it is the same, and nobody has written to it."""

import gc
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention import sharing
from hf_tanhmax.attention.sharing import share, shared
from hf_tanhmax.integration.registration import split_mask


@pytest.fixture(autouse=True)
def _no_entries(monkeypatch):
    monkeypatch.setattr(sharing, "_entries", {})


def counter():
    computed = []
    return computed, lambda: computed.append(None) or len(computed)


def test_it_is_computed_once_for_a_mask_and_its_views():
    mask, (computed, compute) = torch.ones(2, 1, 3, 5, dtype=torch.bool), counter()
    share(mask)
    assert [shared(mask, "what", compute) for _ in range(3)] == [1, 1, 1]
    assert shared(mask[..., :5], "what", compute) == 1
    assert shared(mask[..., :4], "what", compute) == 2
    assert shared(mask[..., 1:], "what", compute) == 3
    assert shared(mask.transpose(0, 1), "what", compute) == 4
    assert shared(mask, "another", compute) == 5
    assert len(computed) == 5


def test_a_view_may_be_the_first_to_be_seen():
    mask, (_, compute) = torch.ones(2, 6, dtype=torch.bool), counter()
    share(mask[:, :4])
    assert shared(mask[:, :4], "what", compute) == shared(mask[:, :4], "what", compute) == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda mask: mask.fill_(False),
        lambda mask: mask[0].logical_not_(),
        lambda mask: mask.copy_(~mask),
        lambda mask: mask.__setitem__(0, False),
    ],
    ids=["all", "a view", "copy_", "an item"],
)
def test_a_write_makes_it_void(write):
    mask, (_, compute) = torch.ones(2, 5, dtype=torch.bool), counter()
    share(mask)
    assert shared(mask, "what", compute) == 1
    write(mask)
    assert [shared(mask, "what", compute) for _ in range(2)] == [2, 3]  # nobody has shared it since
    share(mask)
    assert [shared(mask, "what", compute) for _ in range(2)] == [4, 4]


def test_what_numpy_may_write_to_is_not_shared():
    mask = torch.zeros(1, 1, 4, 6)
    split_mask(mask, None, 6, paged=True)
    mask.numpy()[..., 2:] = torch.finfo(torch.float32).min
    assert split_mask(mask, None, 6, paged=True)[0].sum() == 8
    array = mask.numpy().copy()
    mask = torch.from_numpy(array)
    split_mask(mask, None, 6, paged=True)
    array[..., 1:] = array[..., 5:]
    assert split_mask(mask, None, 6, paged=True)[0].sum() == 4


def test_other_memory_of_the_same_tensor_is_another_mask():
    mask = torch.zeros(1, 1, 4, 6)
    split_mask(mask, None, 6, paged=True)
    mask.data = torch.full_like(mask, torch.finfo(torch.float32).min)
    assert not split_mask(mask, None, 6, paged=True)[0].any()


def test_a_mask_that_inference_mode_saw_first_serves_training():
    query, mask = torch.randn(1, 2, 4, 8, requires_grad=True), torch.zeros(1, 1, 4, 4)

    def layer():
        return tanhmax_attention(query, query, query, keep=split_mask(mask, None, 4, paged=True)[0])

    with torch.inference_mode():
        layer()
    layer().sum().backward()
    assert query.grad is not None


def test_transforms_of_torch_share_nothing():
    masks = torch.zeros(2, 1, 1, 4, 4)
    masks[0, ..., 1:] = -math.inf
    split_mask(masks[0], None, 4, paged=True)
    kept = torch.vmap(lambda mask: split_mask(mask, None, 4, paged=True)[0])(masks)
    assert [int(each.sum()) for each in kept] == [4, 16]


def test_an_entry_dies_with_its_mask():
    mask, (_, compute) = torch.ones(2, 5, dtype=torch.bool), counter()
    share(mask)
    shared(mask, "what", compute)
    assert len(sharing._entries) == 1
    del mask
    gc.collect()
    assert not sharing._entries


def test_what_nobody_has_shared_is_computed_each_time():
    mask, (_, compute) = torch.ones(2, 5, dtype=torch.bool), counter()
    assert [shared(mask, "what", compute) for _ in range(2)] == [1, 2]


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_where_somebody_looks_on_nothing_is_shared(monkeypatch):
    """They would take it for a constant, or for what it was when a graph was captured."""
    mask, (_, compute) = torch.ones(2, 5, dtype=torch.bool), counter()
    share(mask)
    assert shared(mask, "what", compute) == 1
    with Watching():
        assert shared(mask, "what", compute) == 2
    with monkeypatch.context() as patched:
        patched.setattr(torch.jit, "is_tracing", lambda: True)
        assert shared(mask, "what", compute) == 3
    with monkeypatch.context() as patched:
        patched.setattr(torch.compiler, "is_compiling", lambda: True)
        assert shared(mask, "what", compute) == 4
    assert shared(mask, "what", compute) == 1
    with torch.inference_mode():
        uncounted = torch.ones(2, 5, dtype=torch.bool)
        share(uncounted)
        assert [shared(uncounted, "what", compute) for _ in range(2)] == [5, 6]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("where", ["eager", "traced"])
def test_a_layer_whose_mask_was_written_to_sees_the_new_one(where):
    query = torch.randn(1, 2, 4, 8)
    mask = torch.zeros(1, 1, 4, 6)
    key = torch.randn(1, 2, 6, 8)

    def layer(query, mask):
        keep, _ = split_mask(mask, None, 6, paged=True)
        return tanhmax_attention(query, key, key, keep=keep)

    layer(query, mask)
    if where == "traced":
        layer = torch.jit.trace(layer, (query, mask), check_trace=False)
    mask[..., 2:] = torch.finfo(torch.float32).min
    expected = tanhmax_attention(query, key[:, :, :2], key[:, :, :2])
    torch.testing.assert_close(layer(query, mask), expected)


def test_layers_split_an_additive_mask_once():
    mask = torch.zeros(1, 1, 4, 6)
    first, second = (split_mask(mask, None, 6, paged=True)[0] for _ in range(2))
    assert first is second
    assert split_mask(mask, None, 5, paged=True)[0].shape[3] == 5
