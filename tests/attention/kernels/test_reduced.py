"""The backward pass in one kernel, which adds dQ up in no certain order: right, for the calls it is for, and only if the user asks."""

import pytest
import torch
from cases import error

from hf_tanhmax import tanhmax_attention

launch = pytest.importorskip("hf_tanhmax.attention.kernels.launch", reason="needs triton")
from hf_tanhmax.attention.kernels.schedule import Tile, adds_atomically
from hf_tanhmax.attention.mask import AttentionMask

GPU = "cuda" if torch.cuda.is_available() else "cpu"
HOPPER = GPU == "cpu" or torch.cuda.get_device_capability() == (9, 0)
SIZE = (32, 32, 4, 1) if GPU == "cpu" else (64, 128, 8, 2)

pytestmark = pytest.mark.skipif(not HOPPER, reason="needs compute capability 9.0, or the interpreter")


@pytest.fixture
def kernels(monkeypatch):
    """Which kernels of the backward pass have run, with a row for one kernel in the table."""
    ran = []
    monkeypatch.setenv("HF_TANHMAX_ATOMIC", "1")
    monkeypatch.setattr(launch, "tiles", lambda *_: (Tile(*SIZE), Tile(*SIZE, reduced=True)))
    run = launch.FusedProblem.run
    monkeypatch.setattr(launch.FusedProblem, "run", lambda self, kernel, start: (ran.append(kernel), run(self, kernel, start)))
    return ran


def gradients(tensors, implementation, **arguments):
    output = tanhmax_attention(*tensors, implementation=implementation, **arguments)
    upstream = torch.linspace(-1.0, 1.5, output.numel(), dtype=torch.float64).cos().view_as(output).to(output)
    return torch.autograd.grad(output, tensors, upstream)


def inputs(heads=2, kv_heads=1, head_dim=8, dtype=torch.bfloat16, queries=19):
    sizes = ((heads, queries), (kv_heads, 37), (kv_heads, 37))
    return [torch.randn(2, many, length, head_dim, device=GPU).to(dtype).requires_grad_() for many, length in sizes]


CALLS = {
    "heads in groups, window, softcap": ({}, {"window": 5, "softcap": 3.0}),
    "causal, padded head size, polarity": ({"head_dim": 12, "kv_heads": 2}, {"is_causal": "lower_right", "polarity": 0.5}),
    "additive mask": ({}, {"additive_mask": -5.0 * torch.rand(2, 37, generator=torch.Generator().manual_seed(4))[:, None, None]}),
    "mask with empty rows": ({}, {"keep": torch.rand(2, 1, 19, 37, generator=torch.Generator().manual_seed(3)) > 0.7}),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_gradients_are_those_of_the_reference(kernels, name):
    shape, arguments = CALLS[name]
    tensors = inputs(**shape)
    placed = {key: item.to(GPU) if isinstance(item, torch.Tensor) else item for key, item in arguments.items()}
    found = gradients(tensors, "triton", **placed)
    assert kernels == ["forward"], "the kernel for rows is not needed, and the table's first row not taken"
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    for one, other in zip(found, gradients(exact, "reference", **placed), strict=True):
        assert one.dtype == torch.bfloat16
        assert error(one.cpu(), other.cpu()) < 8e-3


def test_the_two_kernels_differ_by_no_more_than_rounding(kernels, monkeypatch):
    tensors = inputs()
    one = gradients(tensors, "triton", is_causal="lower_right")
    monkeypatch.setenv("HF_TANHMAX_ATOMIC", "0")
    two = gradients(tensors, "triton", is_causal="lower_right")
    assert kernels == ["forward", "forward", "query", "key_value"]
    assert torch.equal(one[1], two[1])
    assert torch.equal(one[2], two[2])
    assert error(one[0].double(), two[0].double()) < 4e-3


@pytest.mark.parametrize(
    ("dtype", "score"), [(torch.bfloat16, -480.0), (torch.float16, -14.0)], ids=["2^-L is infinite", "dS is, in float16"]
)
def test_keys_beyond_the_last_add_nothing_to_the_query(kernels, monkeypatch, dtype, score):
    """37 keys end inside a block that needs no mask; beyond them scores are 0, which is far above those that there are."""
    tensors = query, key, value = inputs(dtype=dtype, queries=70)
    with torch.no_grad():
        key.mul_(0.2).add_(1.0)
        query.mul_(0.2).add_(1.0).mul_(score / 8)
        value.mul_(2**8 if dtype == torch.float16 else 1)
    one = gradients(tensors, "triton", scale=1.0, polarity=0.0)
    assert kernels == ["forward"]
    monkeypatch.setenv("HF_TANHMAX_ATOMIC", "0")
    for found, expected in zip(one, gradients(tensors, "triton", scale=1.0, polarity=0.0), strict=True):
        assert found.isfinite().all()
        assert error(found.double(), expected.double()) < 4e-3


@pytest.mark.parametrize(
    ("changes", "wanted", "expected"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"exact": True}, False, False),
        ({"head_dim": 6}, False, False),
        ({"capability": None}, False, False),
    ],
    ids=["plain", "gradient of the polarity", "exact float32", "head size", "another GPU"],
)
def test_which_calls_it_is_for(monkeypatch, changes, wanted, expected):
    monkeypatch.setenv("HF_TANHMAX_ATOMIC", "1")
    monkeypatch.setattr(launch, "capability", lambda _: changes.get("capability", (9, 0)))
    tensors = inputs(head_dim=changes.get("head_dim", 64))
    numbers = (None, True, AttentionMask(19, 37), None, 1.0, None, 0.0, None, changes.get("exact", False))
    problem = launch.FusedProblem(*tensors, *numbers)
    assert (problem.reduced(polarity=wanted) is not None) is expected
    assert not any(problem.fits(tile) for tile in launch.tiles("key_value", 64, 2, (9, 0)) if tile.reduced), "by default, two kernels"


def test_nobody_gets_it_who_has_not_asked(monkeypatch):
    monkeypatch.delenv("HF_TANHMAX_ATOMIC", raising=False)
    assert not adds_atomically()
    monkeypatch.setenv("HF_TANHMAX_ATOMIC", "1")
    assert adds_atomically()
    torch.use_deterministic_algorithms(True)
    try:
        assert not adds_atomically()
    finally:
        torch.use_deterministic_algorithms(False)
