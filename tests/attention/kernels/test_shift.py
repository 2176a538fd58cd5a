"""The forward kernel with a fixed shift, with and without the polynomial: against float64, and like the running maximum where that ends."""

import struct
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from cases import error
from thorough import thorough_only

from hf_tanhmax import tanhmax_attention

shift = pytest.importorskip("hf_tanhmax.attention.kernels.shift", reason="needs triton")
import triton
import triton.language as tl
from gpu_exponentials import gpu_exponentials

from hf_tanhmax.attention.kernels import forward, launch
from hf_tanhmax.attention.kernels.schedule import Tile
from hf_tanhmax.attention.mask import AttentionMask
from hf_tanhmax.attention.ops import fused_attention

GPU = "cuda" if torch.cuda.is_available() else "cpu"
SIZE = (32, 32, 4, 1) if GPU == "cpu" else (64, 64, 4, 3)
ONLINE, STATIC, POLYNOMIAL = Tile(*SIZE), Tile(*SIZE, static=True), Tile(*SIZE, static=True, polynomial=True)
STDS = (1e-3, 1e-2, 0.1, 1.0, 10.0, 40.0)


@pytest.fixture
def with_tile(monkeypatch):
    """Run a call with one row as the whole table."""

    def run(tile, query, key, value, *, implementation="triton", **arguments):
        monkeypatch.setattr(launch, "tiles", lambda *_: (tile, ONLINE))
        return tanhmax_attention(query, key, value, implementation=implementation, **arguments)

    return run


def oracle(query, key, value, **arguments):
    return tanhmax_attention(
        *(tensor.double().cpu() for tensor in (query, key, value)), implementation="reference", **placed(arguments, "cpu")
    )  # fmt: skip


def scored(std, dtype=torch.float32, *, heads=1, dim=16):
    """Query, key and value, with scores of this standard deviation at the scale 1."""
    query, key, value = (torch.randn(1, heads, length, dim, device=GPU) for length in (33, 49, 49))
    return (query * std / dim**0.5).to(dtype), key.to(dtype), value.to(dtype)


@pytest.fixture
def taken(monkeypatch):
    """Which blocks of rows have been done with the fixed shift."""
    if GPU != "cpu":
        pytest.skip("looks into the interpreter")
    seen = []

    def watched(*arguments):
        found = shift.static_shift(*arguments)
        seen.append(bool(found[1].handle.data.item()))
        return found

    monkeypatch.setattr(forward, "static_shift", watched)
    return seen


@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize(
    ("dtype", "tile"), [(torch.float32, STATIC), (torch.bfloat16, STATIC), (torch.bfloat16, POLYNOMIAL)], ids=["fp32", "bf16", "polynomial"]
)
def test_no_less_accurate_than_the_running_maximum(with_tile, dtype, tile, std):
    tensors = scored(std, dtype)
    true = oracle(*tensors, scale=1.0)
    found, online = (error(with_tile(each, *tensors, scale=1.0).cpu(), true) for each in (tile, ONLINE))
    # Where one score dominates, the running maximum makes its weight 1, which rounds to itself; by a fixed shift it is rounded as the
    # output is, once more: a factor of the square root of 2, more or less.
    assert found <= 2 * max(online, 1.2e-7)
    assert found < 4e-3


@pytest.mark.parametrize("std", [1e-2, 10.0])
def test_float32_that_may_be_multiplied_as_tf32(with_tile, std):
    before = torch.get_float32_matmul_precision()
    tensors = scored(std)
    try:
        torch.set_float32_matmul_precision("high")
        found = with_tile(STATIC, *tensors, scale=1.0)
    finally:
        torch.set_float32_matmul_precision(before)
    # In units of log 2 the difference of two exponentials keeps 2^-24 / (2 |a|) of itself; a GPU rounds the operands to TF32.
    assert error(found.cpu(), oracle(*tensors, scale=1.0)) < (5e-6 if GPU == "cpu" else 2e-3)


def test_float32_keeps_its_digits_where_the_bound_is_loose(with_tile):
    """All exponents are about 33 below 0, which is no reason to lose more digits than the difference from the shift does."""
    query, key, value = scored(1.0)
    query[..., 0], key[..., 0], query[..., 1], key[..., 1] = 9.0, 0.0, 0.0, 8.0
    with np.errstate(all="ignore"), gpu_exponentials() if GPU == "cpu" else nullcontext():
        found = with_tile(STATIC, query, key, value, scale=1.0)
    assert error(found.cpu(), oracle(query, key, value, scale=1.0)) < 1.3e-6


@pytest.mark.parametrize(("factor", "expected"), [(0.5, True), (3.0, True), (6.0, True), (12.0, False)])
def test_bounds_decide(with_tile, taken, factor, expected):
    """Norms of 4 and 4 bound scores by 16, 23 units of log 2: 140 of them are six times as many."""
    query, key, value = (torch.nn.functional.normalize(torch.randn(1, 1, 33, 16), dim=-1) * 4 for _ in range(3))
    found = with_tile(STATIC, query, key, value, scale=factor)
    assert set(taken) == {expected}
    assert error(found, oracle(query, key, value, scale=factor)) < 3e-6


@pytest.mark.parametrize("tile", [STATIC, POLYNOMIAL], ids=["static", "polynomial"])
def test_shifts_above_zero(with_tile, taken, tile):
    """Keys along the query reach the bound of 88, where the shift is 28; without one the sums would pass 2^88."""
    query = torch.zeros(1, 1, 32, 16).index_fill(-1, torch.tensor([3]), 1.0)
    key = torch.zeros(1, 1, 48, 16)
    key[..., 3] = torch.linspace(-88, 88, 48)
    value = torch.randn(1, 1, 48, 16)
    tensors = [tensor.bfloat16() for tensor in (query, key, value)]
    found = with_tile(tile, *tensors, scale=0.6931471805599453)
    assert taken
    assert all(taken)
    assert error(found, oracle(*tensors, scale=0.6931471805599453)) < 4e-3


CASES = {
    "causal": {"is_causal": "lower_right"},
    "window": {"window": 7, "is_causal": True},
    "padding": {"keep": (torch.arange(49) < 21).view(1, 1, 1, -1)},
    "empty rows": {"keep": (torch.arange(33) % 5 > 0).view(1, 1, -1, 1) & (torch.rand(1, 1, 33, 49) > 0.3)},
    "nothing": {"keep": torch.zeros(1, 1, 1, 49, dtype=torch.bool)},
    "softcap": {"softcap": 5.0},
    "softcap beyond the bound": {"softcap": 200.0},
    "negative scale": {"scale": -0.5},
}


def placed(arguments, device):
    return {name: item.to(device) if isinstance(item, torch.Tensor) else item for name, item in arguments.items()}


@pytest.mark.parametrize("name", CASES)
def test_masks_and_softcaps_with_gradients(with_tile, name):
    if name in ("window", "padding", "softcap beyond the bound"):
        thorough_only("other masks and a smaller softcap are run")
    tensors = [tensor.requires_grad_() for tensor in scored(2.0)]
    arguments = {"scale": 1.0} | placed(CASES[name], GPU)
    found = with_tile(STATIC, *tensors, **arguments)
    assert error(found.cpu(), oracle(*tensors, **arguments)) < 1e-6
    twins = [tensor.detach().double().cpu().requires_grad_() for tensor in tensors]
    true = tanhmax_attention(*twins, implementation="reference", **placed(arguments, "cpu"))
    expected = torch.autograd.grad(true.square().sum(), twins)
    for one, other in zip(torch.autograd.grad(found.square().sum(), tensors), expected, strict=True):
        assert error(one.cpu(), other) < 3e-6


@pytest.mark.parametrize("name", ["causal", "empty rows", "softcap"])
def test_the_polynomial_under_masks_is_the_same_to_the_bit_each_time(with_tile, name):
    tensors = scored(2.0, torch.bfloat16)
    arguments = {"scale": 1.0} | placed(CASES[name], GPU)
    found, again = (with_tile(POLYNOMIAL, *tensors, **arguments) for _ in range(2))
    assert error(found.cpu(), oracle(*tensors, **arguments)) < 4e-3
    assert torch.equal(found, again)


def test_without_keys_there_is_nothing(with_tile):
    query, key, value = scored(1.0)
    assert torch.equal(with_tile(STATIC, query, key[:, :, :0], value[:, :, :0]), torch.zeros_like(query))


def test_log_sum_exp_is_that_of_the_scores(with_tile, monkeypatch):
    monkeypatch.setattr(launch, "tiles", lambda *_: (STATIC,))
    for dtype in (torch.float32, torch.bfloat16):
        query, key, value = scored(20.0, dtype)
        constants = (False, 0, None, 1.0, None, 0.0, True, False, True)
        _, lse, _ = fused_attention(query, key, value, *[None] * 6, *constants)
        scores = query.double() @ key.double().transpose(-1, -2)
        torch.testing.assert_close(lse.double(), torch.cat([scores, -scores], -1).logsumexp(-1), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("place", "bad"),
    [(place, float("nan")) for place in ("query", "key", "value", "hidden key", "hidden value")]
    + [("query", float("-inf")), ("key", float("inf")), ("value", float("-inf")), ("value", 1e30)],
)
def test_numbers_without_an_end_end_as_with_the_running_maximum(with_tile, place, bad):
    tensors = dict(zip(("query", "key", "value"), scored(1.0, torch.bfloat16), strict=True))
    keep = torch.ones(1, 1, 1, 49, dtype=torch.bool, device=GPU)
    keep[..., 20] = not place.startswith("hidden")
    tensors[place.split()[-1]][0, 0, 20, 3] = bad
    expected = with_tile(ONLINE, **tensors, keep=keep)
    found = with_tile(POLYNOMIAL, **tensors, keep=keep)
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=2e-2, atol=2e-2)
    assert torch.equal(found.isnan(), expected.isnan())


def test_huge_hidden_keys_send_their_head_to_the_running_maximum(with_tile, taken):
    query, key, value = scored(1.0, heads=2)
    keep = torch.arange(49) < 40
    key[:, 1, 40:] = 1e18
    arguments = {"scale": 1.0, "keep": keep.view(1, 1, 1, -1)}
    found = with_tile(STATIC, query, key, value, **arguments)
    assert taken == [True] * 2 + [False] * 2
    assert error(found, oracle(query, key, value, **arguments)) < 1e-6


@triton.jit
def pairs_kernel(X, S, P, N, MIX: tl.constexpr, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    b_x, b_s = tl.load(X + o), tl.load(S + o)
    if MIX:
        b_p, b_n = shift.mixed_pair(b_x, b_s, o)
    else:
        b_p, b_n = shift.polynomial_pair(b_x, b_s)
    tl.store(P + o, b_p)
    tl.store(N + o, b_n)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_polynomial_is_what_its_degree_allows(mixed):
    """Both exponentials within 1.1e-4, their difference too, over all exponents that its bound lets through."""
    x = torch.cat([torch.linspace(-92, 92, 3584), torch.linspace(-1.5, 1.5, 256), torch.logspace(-6, -1, 256)])
    for steps in (0.0, 7.0, 32.0):
        s, p, n = torch.full_like(x, steps), torch.zeros_like(x), torch.zeros_like(x)
        pairs_kernel[1,](*(tensor := [each.to(GPU) for each in (x, s, p, n)]), MIX=mixed, BLOCK=4096)
        p, n = (each.cpu() for each in tensor[2:])
        true_p, true_n = torch.exp2(x.double() - steps), torch.exp2(-x.double() - steps)
        assert ((p - true_p) / true_p).abs().max() < 1.1e-4
        assert ((n - true_n) / true_n).abs().max() < 1.1e-4
        if steps == 0.0:
            near = x.abs() > 1e-3  # closer to 0 float32's own rounding of the difference is larger
            difference = true_p - true_n
            assert (((p - n) - difference) / difference)[near].abs().max() < 3e-4


def execute(text, operands):
    """Run the PTX of an element-wise assembly on float32 operands $0, $1, ...: arrays, of which the results are None."""
    registers = {f"${place}": operand for place, operand in enumerate(operands)}

    def read(name, kind=np.float32):
        if name.startswith("0f"):
            return np.float32(struct.unpack(">f", bytes.fromhex(name[2:]))[0])
        return np.uint32(name) if name.isdigit() else registers[name].view(kind)

    exact = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "fma": lambda x, y, z: x * y + z, "neg": np.negative, "ex2": np.exp2}
    whole = {"add": np.add, "sub": np.subtract, "shl": np.left_shift, "mov": lambda bits: bits}
    body = text[text.index("\n") :].rstrip("}")
    for statement in filter(None, map(str.strip, body.replace("\n", " ").split(";"))):
        name, target, *sources = statement.replace(",", " ").split()
        operation, kind = name.split(".")[0], name.split(".")[-1]
        if kind == "f32":  # in float64, rounded once, as a GPU rounds
            registers[target] = exact[operation](*(read(source).astype(np.float64) for source in sources)).astype(np.float32)
        else:
            registers[target] = whole[operation](*(read(source, np.uint32) for source in sources))
    return [registers[f"${place}"].view(np.float32) for place, operand in enumerate(operands) if operand is None]


@pytest.mark.parametrize("steps", [0.0, 7.0, 32.0])
def test_the_instructions_do_what_the_steps_do(steps):
    """No GPU runs them here, so their text is run: three elements by special functions, the fourth by the polynomial."""
    x = np.random.default_rng(0).uniform(-92, 92, (4, 500)).astype(np.float32)
    x[:, :100] /= 1e3
    s = np.full(500, steps, np.float32)
    found = execute(shift.MIXED.value, [None] * 8 + list(x) + [s] * 4)
    for place in range(4):
        for result, sign in ((found[place], 1), (found[4 + place], -1)):
            true = np.exp2(sign * x[place].astype(np.float64) - steps)
            relative = np.abs(result / true - 1).max()
            assert 2e-5 < relative < 1.1e-4 if place == 3 else relative < 6e-6
    if GPU == "cpu":
        tensors = [torch.from_numpy(array) for array in (x[3], s, np.zeros_like(s), np.zeros_like(s))]
        tensors = [torch.nn.functional.pad(tensor, (0, 12)) for tensor in tensors]
        pairs_kernel[1,](*tensors, MIX=False, BLOCK=512)
        for result, steps_result in zip((found[3], found[7]), tensors[2:], strict=True):
            np.testing.assert_allclose(result, steps_result[:500].numpy(), rtol=2.5e-7)


def test_norms_of_keys():
    for dtype, dim, keys in ((torch.float32, 5, 300), (torch.bfloat16, 64, 128)):
        key = torch.randn(2, 3, keys, dim, device=GPU).to(dtype)
        key[0, 1, 7] = float("nan")
        numbers = (None, True, AttentionMask(4, keys), None, 1.0, None, 0.0, None, True)
        found = launch.FusedProblem(torch.randn(2, 6, 4, dim, device=GPU).to(dtype), key, key, *numbers).norms().cpu()
        squares = key.float().square().sum(-1).nan_to_num(nan=float("inf")).cpu()
        expected = torch.stack([part.amax(-1) for part in squares.split(128, -1)], -1).flatten(0, 1)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("changes", "static", "polynomial"),
    [
        ({}, True, True),
        ({"dtype": torch.float32}, True, False),
        ({"dtype": torch.float16}, False, False),
        ({"signed": False}, False, False),
        ({"polarity": torch.zeros(2)}, False, False),
        ({"bias": torch.zeros(1, 1, 1, 49, dtype=torch.bfloat16)}, False, False),
        ({"bias": torch.zeros(1, 1, 1, 49, dtype=torch.bfloat16), "additive": True}, False, False),
        ({"softcap": 30.0, "dropout_p": 0.1}, True, True),
    ],
)
def test_which_calls_a_row_is_for(changes, static, polynomial):
    tensors = scored(1.0, changes.get("dtype", torch.bfloat16))
    fields = {"polarity": None, "signed": True, "bias": None, "softcap": None, "dropout_p": 0.0, "seed": None, "exact": False}
    fields |= {name: item for name, item in changes.items() if name != "dtype"}
    problem = launch.FusedProblem(*tensors, visibility=AttentionMask(33, 49), scale=1.0, **fields)
    assert [problem.fits(tile) for tile in (ONLINE, STATIC, POLYNOMIAL)] == [True, static, polynomial]
