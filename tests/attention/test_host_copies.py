"""No call copies from the host to its device: such a copy waits, and no CUDA graph can hold it. The device `meta` stands for a GPU."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention import api as attention
from hf_tanhmax.attention.kernels import support
from hf_tanhmax.integration.registration import SCORE_BIAS, _polarity, fused_forward
from hf_tanhmax.settings import LEARNED

HEADS = 4


class NoListsOnDevices(TorchFunctionMode):
    """Refuses Python lists as indices or data of another device's tensors: torch copies these before any operator is called."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        indexed = function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
        made = function in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        holder = args[0] if indexed else found
        listed = indexed and any(map(is_list, tree_leaves(args[1], is_leaf=is_list)))
        if (made or listed) and holder.is_meta:
            raise AssertionError(f"{function.__name__} copies between cpu and meta")
        return found


def is_list(item):
    return isinstance(item, list)


class NoHostCopies(TorchDispatchMode):
    """Refuses every operator that meets tensors of the CPU and of another device, be they its arguments or its results."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        if len(devices) > 1:
            raise AssertionError(f"{function} copies between {' and '.join(sorted(devices))}")
        return found


@pytest.fixture
def no_host_copies(monkeypatch):
    """Calls on `meta` are those of the kernels, of which only the shapes are computed."""
    monkeypatch.setattr(support, "_device", lambda query: None)
    monkeypatch.setattr(attention, "AUTOMATIC", {"meta": ("triton",)})
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta has none
    with NoListsOnDevices(), NoHostCopies():
        yield


def tensors(queries=5, **options):
    return [torch.randn(2, heads, length, 8, device="meta", **options) for heads, length in ((HEADS, queries), (2, 7), (2, 7))]


def module_with(polarity, chosen, *, heads=HEADS, device="meta"):
    module = torch.nn.Module()
    module.config = SimpleNamespace(num_attention_heads=heads, tanhmax_polarity=polarity, tanhmax_heads=chosen)
    module.register_parameter(SCORE_BIAS, torch.nn.Parameter(torch.full((heads,), 0.4, device=device)))
    return module.eval()


COPIES = {
    "a tensor as index": lambda there: there.repeat(3).index_put_((torch.tensor([0]),), there),
    "a list as index": lambda there: there.repeat(3)[[0, 2]],
    "a list as index of an assignment": lambda there: there.repeat(3, 3).__setitem__((0, [0, 2]), there),
    "a list as data": lambda there: torch.tensor([1.0, 2.0], device=there.device),
    "a tensor": lambda there: torch.ones(1).to(there),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_noticed(no_host_copies, copy):
    with pytest.raises(AssertionError, match="copies between cpu and meta"):
        copy(torch.ones((), device="meta"))


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("polarity", [0.0, 0.3, 1.0, LEARNED])
@pytest.mark.parametrize("heads", [None, (0, 2)])
def test_what_transformers_calls(no_host_copies, queries, polarity, heads):
    module = module_with(polarity, heads)
    mask = torch.zeros(2, 1, queries, 7, device="meta")
    for attention_mask in (None, mask == 0, mask):
        output, _ = fused_forward(module, *tensors(queries), attention_mask, scaling=0.3)
        assert output.shape == (2, queries, HEADS, 8)


@pytest.mark.parametrize("queries", [1, 5])
def test_the_door(no_host_copies, queries):
    query, key, value = tensors(queries)
    for arguments in (
        {"polarity": torch.rand(HEADS, device="meta")},
        {"is_causal": "lower_right", "window": 3, "softcap": 5.0, "polarity": 0.5},
        {"dropout_p": 0.1, "bias": torch.zeros(7, device="meta"), "keep": torch.ones(7, dtype=torch.bool, device="meta")},
    ):
        assert tanhmax_attention(query, key, value, **arguments).shape == query.shape
    bounds = torch.zeros(3, dtype=torch.int32, device="meta")
    assert tanhmax_attention(key[:1], key[:1], value[:1], cu_seqlens=bounds).shape == key[:1].shape


@pytest.mark.parametrize("heads", [(), (0,), (1, 3), (0, 31, 32, 69), tuple(range(70))], ids=len)
@pytest.mark.parametrize("polarity", [0.25, LEARNED])
def test_heads_beyond_any_word_of_bits_are_the_chosen_ones(heads, polarity):
    module = module_with(polarity, heads, heads=70, device="cpu")
    found = _polarity(module, torch.zeros(1, 70, 1, 8))
    wanted = torch.zeros(70)
    wanted[list(heads)] = 0.25 if polarity != LEARNED else torch.exp(torch.tensor(-0.8))
    assert torch.equal(found, wanted)


def test_the_mask_of_heads_is_one_graph():
    module = module_with(0.5, (0, 2), device="cpu")
    inputs = [torch.randn(1, heads, 6, 8) for heads in (HEADS, 2, 2)]
    compiled = torch.compile(lambda *given: fused_forward(module, *given)[0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), fused_forward(module, *inputs)[0])
