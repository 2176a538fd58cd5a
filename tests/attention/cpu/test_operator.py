"""The C++ operator against float64 and against torch's own operators, and the rule that says which of the two computes a call."""

import math

import pytest
import torch
from blocked_problems import problem
from cases import CASES, allowed, error, measured, with_gradients

from hf_tanhmax import tanhmax_attention, why_not
from hf_tanhmax.attention import ops
from hf_tanhmax.attention.cpu import operator as native_attention
from hf_tanhmax.attention.cpu.blocked import blocked_backward, blocked_forward
from hf_tanhmax.attention.cpu.build import NATIVE_SWITCH, why_no_library
from hf_tanhmax.attention.cpu.operator import native_backward, native_forward, native_rows, why_not_native
from hf_tanhmax.attention.mask import AttentionMask

pytestmark = pytest.mark.skipif(bool(why_no_library()), reason=f"the C++ operator {why_no_library()}")

NOT_NATIVE = {name for name, case in CASES.items() if {"softcap", "bias", "additive_mask"} & case.arguments.keys()}


@pytest.fixture
def computed_by(monkeypatch):
    """Which of the two computed the forward and backward passes."""
    found = []

    def recorded(name, real):
        def call(*args, **kwargs):
            found.append(name.split("_")[0])
            return real(*args, **kwargs)

        return call

    for name in ("native_forward", "native_backward", "blocked_forward", "blocked_backward"):
        monkeypatch.setattr(ops, name, recorded(name, getattr(ops, name)))
    return found


def tensors(batch=3, heads=6, kv_heads=2, queries=53, keys=67, dim=5, value_dim=7, std=1.0):
    query = torch.randn(batch, heads, queries, dim) * std
    return query, torch.randn(batch, kv_heads, keys, dim), torch.randn(batch, kv_heads, keys, value_dim)


def gradients(found):
    return [found.query, found.key, found.value, *([] if found.polarity is None else [found.polarity])]


def assert_alike(case, tolerance=2e-6):
    """Forward and backward as `blocked` has them, and so its log-sum-exp."""
    assert why_not_native(case) is None
    (output, lse), (expected, expected_lse) = native_forward(case), blocked_forward(case)
    assert error(output, expected) < tolerance
    assert torch.equal(lse.isinf(), expected_lse.isinf())
    torch.testing.assert_close(lse, expected_lse)
    upstream = torch.randn_like(output)
    both = (function(case, upstream, polarity=True) for function in (native_backward, blocked_backward))
    for one, other in zip(*map(gradients, both), strict=True):
        assert error(one, other) < 10 * tolerance
        assert one.isfinite().all()


@pytest.mark.parametrize("switch", ["0", "1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_no_worse_than_eager_with_and_without(name, dtype, switch, monkeypatch, computed_by):
    """No worse than the worst of eager runs in the same dtype, number by number, whatever order a processor adds in."""
    monkeypatch.setenv(NATIVE_SWITCH, switch)
    inputs, arguments = CASES[name].tensors(dtype)
    exact, roundings = measured(name, dtype)
    found = with_gradients(tanhmax_attention(*inputs[:3], implementation="cpu", **arguments), inputs)
    assert set(computed_by) == {"blocked" if switch == "0" or name in NOT_NATIVE else "native"}
    for one, true, rounding in zip(found, exact, roundings, strict=True):
        assert one.dtype == dtype
        assert one.isfinite().all()
        if true.isfinite().all() and math.isfinite(rounding):
            assert error(one, true) <= allowed(rounding, dtype)


MASKS = {
    "none": {},
    "causal": {"causal": True},
    "lower right": {"causal": True, "offset": 14},
    "rows without keys": {"causal": True, "offset": -20},
    "window": {"window": 9, "offset": 3},
    "causal window": {"causal": True, "window": 9},
    "padding": {"keep": torch.arange(67).expand(3, 1, 1, 67) < torch.tensor([67, 20, 0]).view(3, 1, 1, 1)},
    "one mask for all keys": {"keep": torch.arange(53).view(1, 1, 53, 1) % 3 > 0},
    "by head, every other key": {"keep": (torch.arange(3 * 6 * 53 * 134).view(3, 6, 53, 134) % 7 > 2)[..., ::2]},
    "mask and causal": {"keep": torch.arange(67).view(1, 1, 1, 67) % 5 > 1, "causal": True, "offset": 14},
}


@pytest.mark.parametrize("std", [1e-3, 1.0, 40.0])
@pytest.mark.parametrize("mask", MASKS)
def test_masks_small_and_large_scores(mask, std):
    mask = AttentionMask(53, 67, **MASKS[mask])
    assert_alike(problem(*tensors(std=std), polarity=0.3, mask=mask))


@pytest.mark.parametrize("std", [1.0, 40.0])
@pytest.mark.parametrize("polarity", [0.0, 1e-30, 0.5, 1.0, 1e8])
def test_polarities(polarity, std):
    """Also one that is above 1, as a learned score bias may make it."""
    case = problem(*tensors(std=std), polarity=polarity)
    (output, _), (expected, _) = native_forward(case), blocked_forward(case)
    assert error(output, expected) < 2e-6
    upstream = torch.randn_like(output)
    for one, other in zip(*(gradients(call(case, upstream)) for call in (native_backward, blocked_backward)), strict=True):
        assert error(one, other) < 2e-5


def test_small_and_large_heads_in_one_call():
    """Whether scores are shifted is decided for each key head."""
    query, key, value = tensors()
    key[1, 0] *= 100
    case = problem(query, key, value)
    assert (case.bounds < 60).tolist() == [[True, True], [False, True], [True, True]]
    assert_alike(case)


@pytest.mark.parametrize("keys", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("queries", [1, 16, 129])
def test_lengths(queries, keys):
    assert_alike(problem(*tensors(batch=1, queries=queries, keys=keys)))


def test_strides_of_every_kind(computed_by):
    """As models make them (heads beside each other), one number for all rows, every other number, and sums' gradients."""
    query, key, value = tensors(kv_heads=6, queries=67, value_dim=5)
    layouts = {
        "heads inside": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "columns first": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        "every other": lambda x: torch.stack([x, x], -1).flatten(3)[..., ::2],
        "padded": lambda x: torch.nn.functional.pad(x, (0, 3))[..., :5],
        "one row": lambda x: x[:, :, :1].expand_as(x),
    }
    for name, layout in layouts.items():
        strided = [layout(tensor).requires_grad_() for tensor in (query, key, value)]
        dense = [tensor.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for tensor in strided]
        results = []
        for inputs in (strided, dense):
            output = tanhmax_attention(*inputs, implementation="cpu")
            results.append((output, *torch.autograd.grad(output.sum(), inputs)))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, msg=name)
    assert set(computed_by) == {"native"}


@pytest.mark.parametrize(("name", "other"), [("dtype", torch.float64), ("dtype", torch.bfloat16), ("device", "meta")])
def test_defaults_of_torch_change_nothing(name, other):
    """The library writes float32 to the CPU, whatever torch makes by default."""
    case = problem(*tensors(), mask=AttentionMask(53, 67, causal=True))
    upstream = torch.randn(3, 6, 53, 7)

    def run():
        return [*native_forward(case), *gradients(native_backward(case, upstream, polarity=True))]

    expected, default = run(), getattr(torch, f"get_default_{name}")()
    try:
        getattr(torch, f"set_default_{name}")(other)
        found = run()
    finally:
        getattr(torch, f"set_default_{name}")(None if name == "device" else default)
    for one, wanted in zip(found, expected, strict=True):
        assert torch.equal(one, wanted)


def test_weights_are_odd_to_the_bit():
    query, key, value = tensors(std=0.1)
    assert torch.equal(native_forward(problem(-query, key, value))[0], -native_forward(problem(query, key, value))[0])


@pytest.mark.parametrize("std", [1.0, 40.0])
def test_threads_change_nothing(std):
    case = problem(*tensors(std=std), mask=AttentionMask(53, 67, causal=True, offset=14))
    upstream = torch.randn(3, 6, 53, 7)
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append([*native_forward(case), *gradients(native_backward(case, upstream, polarity=True))])
    finally:
        torch.set_num_threads(1)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_hidden_infinities_and_nan_are_the_other_paths():
    """There a hidden key may hold anything; a kept NaN reaches the rows that see it."""
    query, key, value = tensors()
    key[:, :, 5] = math.nan
    keep = torch.ones(1, 1, 1, 67, dtype=torch.bool)
    keep[..., 5] = False
    case = problem(query, key, value, mask=AttentionMask(53, 67, keep=keep))
    assert why_not_native(case) == "needs queries, keys and log-polarities that bound the scores by a finite number"
    assert blocked_forward(case)[0].isfinite().all()


def test_scores_up_to_the_largest_number():
    """A bound that is finite is enough: nothing overflows on the way."""
    query, key, value = tensors()
    assert_alike(problem(query * 1e18, key, value))
    assert why_not_native(problem(query * 1e20, key, value)).endswith("bound the scores by a finite number")


def test_the_rule():
    query, key, value = tensors()
    assert why_not_native(problem(query, key, value)) is None
    assert why_not_native(problem(query.double(), key, value)) == "computes in float32, not in torch.float64"
    for option in ({"bias": torch.zeros(1, 1, 1, 1)}, {"softcap": 2.0}, {"dropout_p": 0.1}):
        assert why_not_native(problem(query, key, value, **option)) == "has no bias, no additive mask, no softcap and no dropout"
    nothing = tensors(dim=0), tensors(value_dim=0), tensors(queries=0), tensors(keys=0), tensors(batch=0)
    for empty in nothing:
        assert why_not_native(problem(*empty)) == "computes nothing from empty tensors"


def test_why_not_speaks_of_it():
    query, key, value = tensors()
    assert why_not(query, key, value, is_causal=True, implementation="native") is None
    assert why_not(query, key, value, softcap=1.0, implementation="native") == (
        "implementation='native' has no bias, no additive mask, no softcap and no dropout"
    )
    assert why_not(query, key, value, return_weights=True, implementation="native") == "implementation='native' has no weights to return"


@pytest.mark.parametrize("std", [1.0, 12.0])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_the_heads_of_a_group_share_a_single_query(kv_heads, std):
    """Each with its own polarity, mask and gradient (of scores so large that rows are shifted, not so large that it vanishes)."""
    query, key, value = tensors(queries=1, kv_heads=kv_heads, std=std)
    mask = AttentionMask(1, 67, causal=True, offset=50, keep=torch.rand(3, 6, 1, 67) > 0.3)
    case = problem(query, key, value, mask=mask)
    case.log_polarity = torch.linspace(-3.0, 0.5, 6)
    assert_alike(case)
    assert_alike(problem(query[:, :1].expand(3, 6, 1, 5), key, value, mask=mask))


def test_memory_is_linear_in_the_length(monkeypatch):
    """A tile has at most 128 rows, and where so many would be too much, 16."""
    assert [native_rows(*sizes) for sizes in ((53, 67), (300, 300), (300, 2**16))] == [53, 128, 16]
    query = torch.randn(1, 1, 4096, 8)
    sizes = []
    real = torch.empty
    monkeypatch.setattr(native_attention.torch, "empty", lambda *shape, **kwargs: (sizes.append(shape), real(*shape, **kwargs))[1])
    native_backward(problem(query, query, query), query)
    assert sizes == [(128 * (3 * 4096 + 9),)]
