"""The C++ operator against float64 and against torch's own operators, and the rule that says which of the two computes a call."""

import math

import pytest
import torch
from blocked_problems import problem
from cases import BALANCED, CASES, allowed, error, measured, with_gradients

from hf_tanhmax import tanhmax_attention, why_not
from hf_tanhmax.attention import ops
from hf_tanhmax.attention.cpu.balanced import balanced_backward, balanced_forward
from hf_tanhmax.attention.cpu.blocked import blocked_backward, blocked_forward
from hf_tanhmax.attention.cpu.build import NATIVE_SWITCH, native_library, why_no_library
from hf_tanhmax.attention.cpu.operator import _side_by_side, native_backward, native_forward, why_not_native
from hf_tanhmax.attention.mask import AttentionMask

pytestmark = pytest.mark.skipif(bool(why_no_library()), reason=f"the C++ operator {why_no_library()}")

ALL = CASES | BALANCED


@pytest.fixture
def computed_by(monkeypatch):
    """What computed the forward and backward passes: native, or blocked, or balanced by torch's operators."""
    found = []

    def recorded(name, real):
        def call(*args, **kwargs):
            result = real(*args, **kwargs)
            found.extend([name] * (result is not None))
            return result

        return call

    for name in ("native", "blocked", "balanced"):
        for way in ("forward", "backward"):
            monkeypatch.setattr(ops, f"{name}_{way}", recorded(name, getattr(ops, f"{name}_{way}")))
    return found


def tensors(batch=3, heads=6, kv_heads=2, queries=53, keys=67, dim=5, value_dim=7, std=1.0):
    query = torch.randn(batch, heads, queries, dim) * std
    return query, torch.randn(batch, kv_heads, keys, dim), torch.randn(batch, kv_heads, keys, value_dim)


def gradients(found):
    return [found.query, found.key, found.value, *([] if found.polarity is None else [found.polarity])]


def by_operators(case):
    """What computes a case by torch's operators, forward and backward."""
    return (balanced_forward, balanced_backward) if case.balanced else (blocked_forward, blocked_backward)


def assert_alike(case, tolerance=2e-6):
    """Forward and backward as torch's operators have them, and so the log-sum-exp."""
    assert why_not_native(case) is None
    forward, backward = by_operators(case)
    (output, lse), (expected, expected_lse) = native_forward(case), forward(case)
    assert error(output, expected) < tolerance
    assert torch.equal(lse.isinf(), expected_lse.isinf())
    torch.testing.assert_close(lse, expected_lse)
    upstream = torch.randn_like(output)
    both = (function(case, upstream, polarity=True) for function in (native_backward, backward))
    for one, other in zip(*map(gradients, both), strict=True):
        assert error(one, other) < 10 * tolerance
        assert one.isfinite().all()


@pytest.mark.parametrize("switch", ["0", "1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL)
def test_no_worse_than_eager_with_and_without(name, dtype, switch, monkeypatch, computed_by):
    """No worse than the worst of eager runs in the same dtype, number by number, whatever order a processor adds in."""
    monkeypatch.setenv(NATIVE_SWITCH, switch)
    inputs, arguments = ALL[name].tensors(dtype)
    exact, roundings = measured(name, dtype)
    found = with_gradients(tanhmax_attention(*inputs[:3], implementation="cpu", **arguments), inputs)
    polarity = arguments.get("polarity", 1.0)
    softmax = not isinstance(polarity, torch.Tensor) and polarity == 0.0  # which does not see a shift
    fallback = "balanced" if "shift" in arguments and not softmax else "blocked"
    assert set(computed_by) == {fallback if switch == "0" else "native"}
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


SHIFTS = pytest.mark.parametrize("balanced", [False, True])


@SHIFTS
@pytest.mark.parametrize("std", [1e-3, 1.0, 40.0])
@pytest.mark.parametrize("mask", MASKS)
def test_masks_small_and_large_scores(mask, std, balanced):
    mask = AttentionMask(53, 67, **MASKS[mask])
    assert_alike(problem(*tensors(std=std), polarity=0.3, mask=mask, balanced=balanced))


@SHIFTS
@pytest.mark.parametrize("std", [1.0, 40.0])
@pytest.mark.parametrize("polarity", [0.0, 1e-30, 0.5, 1.0, 1e8])
def test_polarities(polarity, std, balanced):
    """Also one that is above 1, as a learned score bias may make it."""
    case = problem(*tensors(std=std), polarity=polarity, balanced=balanced)
    forward, backward = by_operators(case)
    (output, _), (expected, _) = native_forward(case), forward(case)
    assert error(output, expected) < 2e-6
    upstream = torch.randn_like(output)
    for one, other in zip(*(gradients(call(case, upstream)) for call in (native_backward, backward)), strict=True):
        assert error(one, other) < 2e-5


@SHIFTS
def test_small_and_large_heads_in_one_call(balanced):
    """Whether scores are shifted is decided for each key head."""
    query, key, value = tensors()
    key[1, 0] *= 100
    case = problem(query, key, value, balanced=balanced)
    assert (case.bounds < 60).tolist() == [[True, True], [False, True], [True, True]]
    assert_alike(case)


@pytest.mark.parametrize("keys", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("queries", [1, 16, 129])
def test_lengths(queries, keys):
    assert_alike(problem(*tensors(batch=1, queries=queries, keys=keys)))
    if keys > 1:
        assert_alike(problem(*tensors(batch=1, queries=queries, keys=keys), polarity=0.3, balanced=True))


@pytest.mark.parametrize("std", [1.0, 40.0])
@pytest.mark.parametrize("queries", [1, 16, 129])
def test_one_key_has_a_balanced_weight_whatever_its_score(queries, std):
    """(1 - p) / (1 + p), so that nothing reaches query and key but rounding."""
    query, key, value = tensors(batch=1, queries=queries, keys=1, std=std)
    case = problem(query, key, value, polarity=0.6, balanced=True)
    output = native_forward(case)[0]
    torch.testing.assert_close(output, (0.25 * value).repeat_interleave(3, 1).expand_as(output))
    found = native_backward(case, torch.ones_like(output), polarity=True)
    assert max(found.query.abs().max(), found.key.abs().max()) < 1e-4
    torch.testing.assert_close(found.value, torch.full_like(value, 0.25 * 3 * queries))
    per_head = -2.0 / 1.6**2 * queries * value.sum((0, 2, 3)).repeat_interleave(3)
    torch.testing.assert_close(found.polarity, per_head)


@pytest.mark.parametrize("shift", [None, "balanced"])
def test_strides_of_every_kind(shift, computed_by):
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
            output = tanhmax_attention(*inputs, shift=shift, implementation="cpu")
            results.append((output, *torch.autograd.grad(output.sum(), inputs)))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, msg=name)
    assert set(computed_by) == {"native"}


@SHIFTS
@pytest.mark.parametrize(("name", "other"), [("dtype", torch.float64), ("dtype", torch.bfloat16), ("device", "meta")])
def test_defaults_of_torch_change_nothing(name, other, balanced):
    """The library writes float32 to the CPU, whatever torch makes by default."""
    case = problem(*tensors(), mask=AttentionMask(53, 67, causal=True), balanced=balanced)
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


@SHIFTS
def test_weights_are_odd_to_the_bit(balanced):
    query, key, value = tensors(std=0.1)
    positive, negative = (native_forward(problem(item, key, value, balanced=balanced))[0] for item in (query, -query))
    assert torch.equal(positive, -negative)


@SHIFTS
@pytest.mark.parametrize("std", [1.0, 40.0])
def test_threads_change_nothing(std, balanced):
    case = problem(*tensors(std=std), mask=AttentionMask(53, 67, causal=True, offset=14), balanced=balanced)
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


@SHIFTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_threads_that_share_a_key_head_change_nothing(dtype, balanced):
    """Each thread packs or widens the head's keys and values for the tiles that it takes."""
    given = [tensor.to(dtype) for tensor in tensors(batch=1, kv_heads=1, queries=300, keys=310)]
    case = problem(*given, mask=AttentionMask(300, 310, causal=True, offset=10), balanced=balanced)
    upstream, results = torch.randn(1, 6, 300, 7), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append([*native_forward(case), *gradients(native_backward(case, upstream, polarity=True))])
    finally:
        torch.set_num_threads(1)
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("shift", [None, "balanced"])
@pytest.mark.parametrize("queries", [3, 53])
def test_masks_of_every_layout(queries, shift, computed_by):
    """One number for all keys, every other number of a longer mask, keys before queries in memory, one row for all."""
    given, longer = tensors(queries=queries), torch.rand(3, 1, queries, 2 * 67) > 0.3
    layouts = [
        torch.tensor([True, False, True])[:, None, None, None].expand(3, 1, queries, 1),
        longer[..., ::2],
        longer[..., :67].transpose(2, 3).contiguous().transpose(2, 3),
        (torch.rand(1, 1, 1, 67) > 0.3).expand(3, 6, queries, 67),
    ]
    for keep in layouts:
        found = tanhmax_attention(*given, keep=keep, shift=shift, implementation="cpu")
        exact = [tensor.double() for tensor in given]
        assert error(found, tanhmax_attention(*exact, keep=keep.contiguous(), shift=shift, implementation="reference")) < 2e-6
    assert set(computed_by) == {"native"}


def test_a_mask_is_copied_without_its_repetitions():
    turned = (torch.rand(40, 50) > 0.5).t()[None, None].expand(3, 6, 50, 40)
    assert _side_by_side(turned, 40).numel() == 40 * 50
    by_query = (torch.rand(1, 1, 50, 1) > 0.5).expand(3, 6, 50, 40)
    assert _side_by_side(by_query, 40).shape == (1, 1, 50, 40)
    dense = torch.rand(3, 1, 50, 40) > 0.5
    assert _side_by_side(dense, 40).data_ptr() == dense.data_ptr()


def test_hidden_infinities_and_nan_are_the_other_paths():
    """There a hidden key may hold anything; a kept NaN reaches the rows that see it."""
    query, key, value = tensors()
    key[:, :, 5] = math.nan
    keep = torch.ones(1, 1, 1, 67, dtype=torch.bool)
    keep[..., 5] = False
    case = problem(query, key, value, mask=AttentionMask(53, 67, keep=keep))
    assert why_not_native(case) == "needs queries, keys, log-polarities and a bias that bound the scores by a finite number"
    assert blocked_forward(case)[0].isfinite().all()


@SHIFTS
def test_scores_up_to_the_largest_number(balanced):
    """A bound that is finite is enough: nothing overflows on the way."""
    query, key, value = tensors()
    assert_alike(problem(query * 1e18, key, value, balanced=balanced))
    assert why_not_native(problem(query * 1e20, key, value)).endswith("bound the scores by a finite number")


def test_the_rule():
    query, key, value = tensors()
    assert why_not_native(problem(query, key, value)) is None
    assert why_not_native(problem(query.double(), key, value)) == "computes in float32, not in torch.float64"
    nothing = tensors(dim=0), tensors(value_dim=0), tensors(queries=0), tensors(keys=0), tensors(batch=0)
    for empty in nothing:
        assert why_not_native(problem(*empty)) == "computes nothing from empty tensors"


def test_why_not_speaks_of_it():
    query, key, value = tensors()
    assert why_not(query, key, value, is_causal=True, implementation="native") is None
    assert why_not(query.double(), key.double(), value.double(), implementation="native") == (
        "implementation='native' computes in float32, not in torch.float64"
    )
    assert why_not(query, key, value, return_weights=True, implementation="native") == "implementation='native' has no weights to return"


@SHIFTS
@pytest.mark.parametrize("std", [1.0, 12.0])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_the_heads_of_a_group_share_a_single_query(kv_heads, std, balanced):
    """Each with its own polarity, mask and gradient (of scores so large that rows are shifted, not so large that it vanishes)."""
    query, key, value = tensors(queries=1, kv_heads=kv_heads, std=std)
    mask = AttentionMask(1, 67, causal=True, offset=50, keep=torch.rand(3, 6, 1, 67) > 0.3)
    case = problem(query, key, value, mask=mask, balanced=balanced)
    case.log_polarity = torch.linspace(-3.0, 0.5, 6)
    assert_alike(case)
    assert_alike(problem(query[:, :1].expand(3, 6, 1, 5), key, value, mask=mask, balanced=balanced))


def test_a_large_constant_in_each_row_leaves_balanced_digits_alone():
    """As far as rows may lie from 0 without a shift of their scores, where the product of both sums' ratio would overflow."""
    query, key, value = tensors(dim=6, std=0.15)
    query[..., 5], key[..., 5], value = 1.0, 0.0, value * 10.0
    expected, upstream = native_forward(problem(query, key, value, balanced=True, polarity=0.3))[0], torch.randn(3, 6, 53, 7)
    for constant in (-45.0, 45.0):
        key[..., 5] = constant
        case = problem(query, key, value, balanced=True, polarity=0.3)
        assert bool((case.bounds < 60).all())
        assert error(native_forward(case)[0], expected) < 1e-5
        assert all(gradient.isfinite().all() for gradient in gradients(native_backward(case, 1e6 * upstream, polarity=True)))


def worst(call, tensors, upstream, **options):
    """The largest error of output and gradients, over the largest number of each, in float64 by the reference."""
    results = []
    for kind, name in ((tensors[0].dtype, "cpu"), (torch.float64, "reference")):
        inputs = [tensor.to(kind).requires_grad_() for tensor in tensors]
        output = tanhmax_attention(*inputs, implementation=name, **options)
        results.append([output, *torch.autograd.grad(output, inputs, upstream.to(kind))])
    return max(error(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shift", [None, "balanced"])
@pytest.mark.parametrize(
    "options", [{}, {"is_causal": True}, {"is_causal": "lower_right", "window": 70}, {"scale": 9.0}, {"polarity": 0.3}]
)
@pytest.mark.parametrize(("queries", "keys", "dim", "value_dim"), [(9, 1, 64, 64), (70, 65, 5, 7), (65, 200, 80, 16), (130, 600, 33, 130)])
def test_products_of_16_bits_round_once(queries, keys, dim, value_dim, options, shift, dtype, able, computed_by, monkeypatch):
    """Sums are in float32, so the error is that of the results' dtype and, in bfloat16, of weights and of the gradient of the scores.

    Also where a processor does not multiply such numbers itself.
    """
    if not able:
        monkeypatch.setattr(native_library(), "hf_tanhmax_half", lambda: 0)
    one, key, value = (tensor.to(dtype) for tensor in tensors(queries=queries, keys=keys, dim=dim, value_dim=value_dim))
    upstream = torch.randn(3, 6, queries, value_dim).to(dtype)
    if keys == 1 and shift is not None:
        return  # where nothing but rounding reaches query and key
    assert worst(one, (one, key, value), upstream, shift=shift, **options) < (2**-6 if dtype == torch.bfloat16 else 2**-10)
    assert set(computed_by) == {"native"}


MANY = 1700  # keys, of which a part has at least 512
FEW = {
    "none": {},
    "rows without keys in a part": {"causal": True, "offset": 900},
    "lower right": {"causal": True, "offset": MANY - 2},
    "window": {"window": 40, "offset": 1000},
    "padding": {"keep": torch.arange(MANY) < torch.tensor([MANY, 600, 0]).view(3, 1, 1, 1)},
    "by query": {"keep": (torch.arange(2 * MANY) % 7 > 2).view(1, 1, 2, MANY)},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("std", [0.1, 1.0, 40.0])
@pytest.mark.parametrize("mask", FEW)
def test_parts_of_the_keys_of_few_queries_merge(mask, std, dtype):
    """Several threads take a part each, with shifts of their own; one takes all."""
    made = tensors(batch=3 if mask == "padding" else 1, heads=1, kv_heads=1, queries=2, keys=MANY, std=std, value_dim=37)
    case = problem(*(tensor.to(dtype) for tensor in made), mask=AttentionMask(2, MANY, **FEW[mask]))
    expected, expected_lse = blocked_forward(case)
    for threads in (1, 3, 9):
        try:
            torch.set_num_threads(threads)
            output, lse = native_forward(case)
        finally:
            torch.set_num_threads(1)
        assert output.dtype == dtype
        assert error(output, expected) < (1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps)
        torch.testing.assert_close(lse, expected_lse)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("queries", [1, 20])
def test_nothing_is_widened_whole(queries, dtype):
    """The keys of a cache are read where they lie, and those of many queries one head after the other; results have the call's dtype."""
    query, key, value = (tensor.to(dtype) for tensor in tensors(queries=queries))
    case = problem(query, key, value)
    output, _ = native_forward(case)
    found = native_backward(case, output)
    assert (output.dtype, found.query.dtype) == (dtype, dtype)
    assert not {"query", "key", "value"} & vars(case).keys()


ALL_FLOAT16 = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)


@pytest.mark.parametrize("queries", [1, 20])
def test_every_number_of_float16_is_read_and_written_as_it_is(queries):
    """Where a query sees one key whose score is large, the output is that key's value, from the smallest number to the largest."""
    finite = ALL_FLOAT16[ALL_FLOAT16.isfinite()].view(1, 1, 1, -1)
    query, key = torch.full((1, 1, queries, 1), 30.0), torch.ones(1, 1, 1, 1)
    case = problem(query.half(), key.half(), finite)
    assert torch.equal(native_forward(case)[0], finite.expand(1, 1, queries, -1))
    assert native_forward(problem(torch.full_like(case.given["query"], math.inf), key.half(), finite)) is None
    assert native_forward(problem(torch.full_like(case.given["query"], math.nan), key.half(), finite)) is None


@pytest.mark.parametrize("queries", [1, 20])
def test_what_float16_cannot_hold_is_infinite(queries):
    """As with torch's own conversion: from halfway to the next number on, which would be 65536. Nothing between is out of its range."""
    query, key = torch.full((1, 1, queries, 1), 1.0), torch.tensor([12.0, 12.0]).view(1, 1, 2, 1)
    value = torch.tensor([65504.0, -65504.0, 65504.0, 6e-8]).view(1, 1, 2, 2)
    case = problem(query.half(), key.half(), value.half(), polarity=1.0)
    output = native_forward(case)[0]
    assert torch.equal(output[0, 0, 0], torch.tensor([65504.0, -32752.0]).half())
    upstream = torch.full((1, 1, 20, 2), 6e4).half()
    many = problem(query[:, :, :1].expand(1, 1, 20, 1).half(), key.half(), value.half())
    assert native_backward(many, upstream).value.isfinite().all()  # 20 * 6e4 / 2, in float32
    assert native_backward(many, upstream).value.half().isinf().all()


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("queries", [1, 20])
def test_what_nothing_finite_bounds_is_left_to_others(queries, number):
    query, key, value = tensors(queries=queries)
    key[1, 0, 3] = number
    assert native_forward(problem(query, key, value)) is None
    assert native_backward(problem(query, key, value), torch.randn(3, 6, queries, 7)) is None


@pytest.mark.parametrize("shift", [None, "balanced"])
@pytest.mark.parametrize("queries", [1, 5, 20])
@pytest.mark.parametrize("hidden", [88.8, -88.8, 300.0, 1e10])
def test_scores_of_hidden_keys_may_be_anything(hidden, queries, shift, computed_by):
    """Those of the visible ones say whether a row needs a shift: what hidden ones come to is left out, not multiplied by 0."""
    query, key, value = tensors(queries=queries, keys=9)
    key[:, :, 3:6, 0] = hidden
    query[..., 0] = 1.0
    keep = torch.ones(3, 1, 1, 9, dtype=torch.bool)
    keep[..., 3:6] = False
    found = tanhmax_attention(query, key, value, keep=keep, scale=1.0, shift=shift, implementation="cpu")
    assert computed_by == ["native"]
    shown = [0, 1, 2, 6, 7, 8]
    exact = tanhmax_attention(
        query.double(), key[:, :, shown].double(), value[:, :, shown].double(), scale=1.0, shift=shift, implementation="reference"
    )
    assert error(found, exact) < 2e-6


@pytest.mark.parametrize("shift", [None, "balanced"])
@pytest.mark.parametrize("queries", [1, 20])
def test_any_byte_but_0_is_true(queries, shift):
    """As torch itself reads a boolean tensor that is a view of bytes."""
    query, key, value = tensors(queries=queries)
    keep = torch.randint(256, (3, 1, queries, 67), dtype=torch.uint8) * torch.randint(2, (67,), dtype=torch.uint8)
    found = [tanhmax_attention(query, key, value, keep=each, shift=shift) for each in (keep.view(torch.bool), keep != 0)]
    assert torch.equal(*found)


@pytest.mark.parametrize("causal", [False, True, "lower_right"])
@pytest.mark.parametrize("queries", [5, 20])
def test_a_window_may_be_as_large_as_an_integer(queries, causal):
    query, key, value = tensors(queries=queries)
    found = [tanhmax_attention(query, key, value, is_causal=causal, window=window) for window in (2**63 - 1, 2**31, None)]
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[2])
