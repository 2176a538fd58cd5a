"""The forward kernel with keys and values by tensor descriptors: the same numbers, for the calls that descriptors can tell of."""

import pytest
import torch

from hf_tanhmax import tanhmax_attention

launch = pytest.importorskip("hf_tanhmax.attention.kernels.launch", reason="needs triton")
from hf_tanhmax.attention.kernels.schedule import Tile
from hf_tanhmax.attention.mask import AttentionMask

GPU = "cuda" if torch.cuda.is_available() else "cpu"
HOPPER = GPU == "cpu" or torch.cuda.get_device_capability() == (9, 0)
SIZE = (32, 32, 4, 1) if GPU == "cpu" else (64, 64, 4, 3)
POINTED, DESCRIBED = Tile(*SIZE), Tile(*SIZE, described=True)

pytestmark = pytest.mark.skipif(not HOPPER, reason="needs compute capability 9.0, or the interpreter")


@pytest.fixture
def with_tile(monkeypatch):
    """Run a call with one row as the whole table, and see which row it took."""
    taken = []
    monkeypatch.setattr(launch, "forward_kernel", _Watched(launch.forward_kernel, taken))

    def run(tile, *tensors, **arguments):
        monkeypatch.setattr(launch, "tiles", lambda *_: (tile, POINTED))
        found = tanhmax_attention(*tensors, implementation="triton", **arguments)
        return found, taken.pop()

    return run


class _Watched:
    def __init__(self, kernel, taken):
        self.kernel, self.taken = kernel, taken

    def __getitem__(self, grid):
        def start(**arguments):
            self.taken.append(arguments["DESCRIBED"])
            return self.kernel[grid](**arguments)

        return start


def tensors(*, dim=16, heads=2, dtype=torch.float32, layout="bhsd"):
    def one(count, length):
        if layout == "bhsd":
            return torch.randn(2, count, length, dim, device=GPU).to(dtype)
        return torch.randn(2, length, count, dim, device=GPU).to(dtype).transpose(1, 2)

    return one(2, 19), one(heads, 37), one(heads, 37)


CALLS = {
    "full": ({}, {}),
    "causal, heads in groups": ({"heads": 1}, {"is_causal": "lower_right"}),
    "padded head size, window": ({"dim": 24}, {"window": 5}),
    "bfloat16, [batch, length, heads, dim]": (
        {"dtype": torch.bfloat16, "layout": "bshd"},
        {"keep": torch.arange(37).view(1, 1, 1, -1) > 17},
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_to_the_bit_what_pointers_give(with_tile, name):
    """Lengths are no multiples of the blocks: what descriptors load beyond the end of a head is 0 and not the next head."""
    shape, arguments = CALLS[name]
    placed = {key: item.to(GPU) if isinstance(item, torch.Tensor) else item for key, item in arguments.items()}
    inputs = tensors(**shape)
    expected, pointed = with_tile(POINTED, *inputs, **placed)
    found, described = with_tile(DESCRIBED, *inputs, **placed)
    assert (pointed, described) == (False, True)
    assert torch.equal(found, expected)


def test_with_a_fixed_shift_and_few_registers(with_tile):
    inputs = tensors(heads=1)
    expected, _ = with_tile(Tile(*SIZE, static=True), *inputs, is_causal=True)
    found, described = with_tile(Tile(*SIZE, described=True, static=True, registers=128), *inputs, is_causal=True)
    assert described
    assert torch.equal(found, expected)


def unaligned(tensor):
    """The same numbers, one element further."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda tensor: tensor, True),
        (unaligned, False),
        (lambda tensor: tensor[..., :13].contiguous(), False),
        (lambda tensor: tensor[:1].expand(2, -1, -1, -1), False),
        (lambda tensor: tensor[:, :, :0], False),
    ],
    ids=["aligned", "address", "row stride", "batch stride of 0", "empty"],
)
def test_which_tensors_descriptors_can_tell_of(change, expected):
    query, key, value = (tensor.bfloat16() for tensor in tensors())
    key, value = change(key), change(value)
    query = query[..., : key.shape[3]]
    numbers = (None, True, AttentionMask(19, key.shape[2]), None, 1.0, None, 0.0, None, False)
    assert launch.FusedProblem(query, key, value, *numbers).fits(DESCRIBED) is expected
    assert launch.FusedProblem(query, key, value, *numbers).fits(POINTED)


def test_what_they_cannot_tell_of_comes_by_pointers(with_tile):
    query, key, value = tensors()
    expected, _ = with_tile(POINTED, query, key, value)
    found, described = with_tile(DESCRIBED, query, unaligned(key), value)
    assert not described
    assert torch.equal(found, expected)
