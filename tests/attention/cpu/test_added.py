"""Softcap, bias, additive mask and dropout inside the C++ operator, against float64 and against torch's own operators."""

import itertools
import math

import pytest
import torch
from blocked_problems import problem
from cases import error

from hf_tanhmax import tanhmax_attention, why_not
from hf_tanhmax.attention.cpu.balanced import balanced_backward, balanced_forward
from hf_tanhmax.attention.cpu.blocked import blocked_backward, blocked_forward
from hf_tanhmax.attention.cpu.build import why_no_library
from hf_tanhmax.attention.cpu.operator import native_backward, native_forward, why_not_native
from hf_tanhmax.attention.mask import AttentionMask
from hf_tanhmax.functional import tanhmax

pytestmark = pytest.mark.skipif(bool(why_no_library()), reason=f"the C++ operator {why_no_library()}")

B, H, HK, LQ, LK = 3, 6, 2, 53, 67
SHAPES = {  # that broadcast to [B, H, LQ, LK]
    "dense": (B, H, LQ, LK),
    "by head": (1, H, LQ, LK),
    "by entry": (B, 1, LQ, LK),
    "one for all": (1, 1, LQ, LK),
    "by key": (B, 1, 1, LK),
    "by query": (B, H, LQ, 1),
    "by head alone": (1, H, 1, 1),
    "one number": (1, 1, 1, 1),
}
SHIFTS = pytest.mark.parametrize("balanced", [False, True])


def tensors(queries=LQ, keys=LK, dim=5, value_dim=7, std=1.0):
    query = torch.randn(B, H, queries, dim) * std
    return query, torch.randn(B, HK, keys, dim), torch.randn(B, HK, keys, value_dim)


def shortened(shape, queries):
    return (*shape[:2], min(shape[2], queries), shape[3])


def additive(shape):
    """Keys as they are, keys that fade, and hidden ones."""
    values = torch.tensor([0.0, -0.5, -3.0, -30.0, -100.0, -8999.0, -9000.0, -1e4, torch.finfo(torch.float32).min, -math.inf])
    return values[torch.randint(len(values), shape)] + torch.randn(shape)


def made(kind, shape, queries):
    """What is added to a call."""
    shape = shortened(shape, queries)
    return {
        "bias": lambda: {"bias": torch.randn(shape)},
        "additive": lambda: {"additive_mask": additive(shape)},
        "all": lambda: {
            "bias": torch.randn(shape),
            "additive_mask": additive(shape),
            "softcap": 1.5,
            "dropout_p": 0.3,
            "seed": torch.tensor(7),
        },
    }[kind]()


def assert_exact(tensors, tolerance=2e-6, **options):
    """Forward and backward, and so the log-sum-exp, as torch's operators compute them in float64; all gradients that there are."""
    case, exact = problem(*tensors, **options), problem(*(tensor.double() for tensor in tensors), **options)
    assert why_not_native(case) is None
    forward, backward = (balanced_forward, balanced_backward) if case.balanced else (blocked_forward, blocked_backward)
    (output, lse), (expected, expected_lse) = native_forward(case), forward(exact)
    assert error(output, expected) < tolerance
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-5)
    wanted = {"polarity": True, "bias": case.bias is not None, "additive_mask": case.additive_mask is not None}
    upstream = torch.randn_like(output)
    one, other = (call(part, upstream, **wanted) for call, part in ((native_backward, case), (backward, exact)))
    for name in ("query", "key", "value", "polarity", "bias", "additive_mask"):
        found, true = getattr(one, name), getattr(other, name)
        assert (found is None) == (true is None), name
        if true is not None:
            assert found.shape == true.shape
            assert found.isfinite().all(), name
            # A constant added to a row of an additive mask changes nothing, nor one of scores if balanced: what is left is rounding.
            size = max(true.norm(), 0.1 * upstream.norm())
            assert (found - true).norm() < 10 * tolerance * size, name
    return output


@SHIFTS
@pytest.mark.parametrize("queries", [1, 5, LQ])
@pytest.mark.parametrize("std", [0.1, 12.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["bias", "additive", "all"])
def test_every_shape(kind, shape, std, queries, balanced):
    """Of few and many queries, in rows with a shift and without."""
    mask = AttentionMask(queries, LK, causal=True, offset=LK - queries - 9)
    options = {"polarity": 0.3, "mask": mask, "balanced": balanced} | made(kind, SHAPES[shape], queries)
    assert_exact(tensors(queries, std=std), 2e-6 if std < 1.0 else 1e-5, **options)  # scores of 50 have the rounding of sums as large


@SHIFTS
@pytest.mark.parametrize("queries", [1, 5, LQ])
@pytest.mark.parametrize("std", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("softcap", [0.05, 2.0, 50.0, 1e4])
def test_softcaps(softcap, std, queries, balanced):
    """Also where it leaves nothing of a slope, or nothing of a cap; a score is as uncertain as the sum that it is."""
    assert_exact(tensors(queries, std=std), 3e-5 if std == 30.0 else 2e-6, softcap=softcap, balanced=balanced)


@SHIFTS
@pytest.mark.parametrize("queries", [5, LQ])
@pytest.mark.parametrize("keep", [(B, 1, 1, LK), (1, H, LQ, LK), (LQ, 1)])
def test_masks_of_both_kinds(keep, queries, balanced):
    """A boolean mask of any shape beside an additive one; rows without keys, and with keys that one of the two hides."""
    keep = torch.rand(shortened((1,) * (4 - len(keep)) + keep, queries)) > 0.5
    mask = AttentionMask(queries, LK, causal=True, offset=LK - queries - 40, keep=keep)
    added = additive((B, 1, queries, LK))
    added[0, 0, 2] = -math.inf
    options = {"mask": mask, "additive_mask": added, "bias": torch.randn(1, H, 1, 1), "balanced": balanced}
    assert not assert_exact(tensors(queries), **options)[0, :, 2].any()


@pytest.mark.parametrize("queries", [2, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_strides_and_dtypes_of_what_is_added(dtype, queries):
    """As positions and masks come: expanded, transposed, every other number, in another dtype than the query."""
    dense = torch.randn(1, H, queries, LK)
    layouts = {
        "columns first": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        "every other": lambda x: torch.stack([x, x], -1).flatten(3)[..., ::2],
        "expanded": lambda x: x.expand(B, -1, -1, -1),
        "heads last": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).expand(B, -1, -1, -1),
        "one column": lambda x: x[..., :1].expand(-1, -1, -1, LK),
    }
    query, key, value = (tensor.to(dtype) for tensor in tensors(queries))
    for (name, layout), kind in itertools.product(layouts.items(), ("bias", "additive_mask")):
        for given in (torch.float32, torch.float64, torch.bfloat16):
            strided = layout(dense).to(given).requires_grad_()
            copied = strided.detach().contiguous().requires_grad_()
            results = []
            for added in (strided, copied):
                output = tanhmax_attention(query, key, value, implementation="cpu", **{kind: added})
                results.append((output, *torch.autograd.grad(output.float().square().sum(), [added])))
            for one, other in zip(*results, strict=True):
                torch.testing.assert_close(one, other, msg=name)


@pytest.mark.parametrize("shift", [None, "balanced"])
@pytest.mark.parametrize("queries", [3, 20])
def test_what_an_additive_mask_hides_is_as_if_it_were_not_there(queries, shift):
    """Sliced away, to the rounding of sums; and what hidden and later keys hold reaches neither outputs nor gradients, to the bit."""
    query, key, value = tensors(queries)
    shown = torch.arange(LK) % 3 > 0
    mask = torch.where(shown, torch.randn(LK), -math.inf).requires_grad_()
    bias = torch.randn(H, queries, LK)
    options = {"softcap": 3.0, "shift": shift, "implementation": "cpu"}

    def run(key, value, mask, bias, **more):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in (query, key, value, mask, bias)]
        output = tanhmax_attention(*leaves[:3], additive_mask=leaves[3], bias=leaves[4], **options, **more)
        return output.detach(), *torch.autograd.grad(output.sum(), leaves)

    sliced = run(key[:, :, shown], value[:, :, shown], mask[shown], bias[..., shown])
    found = run(key, value, mask, bias)
    for one, other, dim in zip(found, sliced, (None, None, 2, 2, 0, 2), strict=True):
        torch.testing.assert_close(one if dim is None else one.index_select(dim, shown.nonzero()[:, 0]), other, rtol=1e-4, atol=1e-5)
    hidden = ~shown
    key, value, bias = (tensor.clone() for tensor in (key, value, bias))
    again = run(key, value, mask, bias)
    key[:, :, hidden], value[:, :, hidden], bias[..., hidden] = 0.7, 33.0, -0.6
    for one, other in zip(again, run(key, value, mask, bias), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    before = run(key, value, mask, bias, is_causal=True)
    value[:, :, queries:], key[:, :, queries:] = -5.0, 0.1
    for one, other in zip(before, run(key, value, mask, bias, is_causal=True), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@SHIFTS
@pytest.mark.parametrize("shape", SHAPES)
def test_threads_change_no_gradient_of_what_is_added(shape, balanced):
    """Nor do they write over each other, whatever a gradient is summed over."""
    case = problem(*tensors(), balanced=balanced, **made("all", SHAPES[shape], LQ))
    upstream = torch.randn(B, H, LQ, 7)
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found = native_backward(case, upstream, bias=True, additive_mask=True, polarity=True)
            results.append([*native_forward(case), found.query, found.key, found.value, found.bias, found.additive_mask, found.polarity])
    finally:
        torch.set_num_threads(1)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_infinite_additions_are_left_to_others(number, queries):
    """A bias of -inf is a score of -inf, whose share is negative; an additive mask of -inf hides."""
    added = torch.zeros(1, 1, 1, LK)
    added[..., 3] = number
    case = problem(*tensors(queries), bias=added)
    assert why_not_native(case).endswith("a bias that bound the scores by a finite number")
    assert native_forward(case) is None
    assert native_backward(case, torch.randn(B, H, queries, 7), bias=True) is None
    case = problem(*tensors(queries), additive_mask=added)
    if number == -math.inf:
        assert_exact(tensors(queries), additive_mask=added)
        return
    assert why_not_native(case) == "needs an additive mask without NaN and without infinity above 0"
    assert native_forward(case) is None


@pytest.mark.parametrize("queries", [1, 20])
def test_infinite_products_are_left_to_others_in_spite_of_a_softcap(queries):
    query, key, value = tensors(queries)
    query[0, 0, 0, 0] = math.inf
    case = problem(query, key, value, softcap=2.0)
    assert why_not_native(case).endswith("bound the scores by a finite number")
    assert native_forward(case) is None


def test_why_not_speaks_of_it():
    query, key, value = tensors()
    given = {"bias": torch.zeros(LK), "additive_mask": torch.zeros(LK), "softcap": 1.0, "dropout_p": 0.1}
    assert why_not(query, key, value, **given, implementation="native") is None


def drawn_mask(p, seed, queries=LQ, keys=LK, batch=B, heads=H):
    """What dropout leaves of each weight, 0 or 1 / (1 - p), by values that are unit vectors."""
    query, key = torch.zeros(batch, heads, queries, 1), torch.zeros(batch, heads, keys, 1)
    value = torch.eye(keys).expand(batch, heads, keys, keys)
    case = problem(query, key, value, polarity=0.0, dropout_p=p, seed=torch.tensor(seed))
    return native_forward(case)[0] * keys


@pytest.mark.parametrize("queries", [1, 8, 9, LQ])
@pytest.mark.parametrize("p", [1e-3, 0.1, 0.5, 0.999])
def test_the_same_weights_are_dropped_by_all(p, queries):
    """By torch's operators in blocks of any kind, and in the operator by its ways for few and many queries."""
    found = drawn_mask(p, 5, queries)
    case = problem(*tensors(queries), dropout_p=p, seed=torch.tensor(5))
    blocks = torch.zeros(B, H, queries, LK)
    for block in case.blocks():
        part = case.by_head(case.dropout(block), block)
        blocks[block.batch, block.heads, slice(*block.rows), slice(*block.columns)] = part
    torch.testing.assert_close(found, blocks, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_statistics_of_dropout(p):
    """Shares in all, by row and by column; neighbours in every direction, and masks of neighbouring seeds, have nothing to do with each
    other; each within five standard deviations."""
    kept = (drawn_mask(p, 1, 200, 300) != 0).double()
    deviation = math.sqrt(p * (1 - p))
    assert abs(kept.mean() - (1 - p)) < 5 * deviation / math.sqrt(kept.numel())
    for dims in ((0, 1, 2), (3,), (2, 3)):
        found = kept.mean(dims)
        assert (found - (1 - p)).abs().max() < 5.5 * deviation / math.sqrt(kept.numel() / found.numel())
    centred = (kept - (1 - p)) / deviation
    pairs = [centred.unfold(dim, 2, 1).unbind(-1) for dim in range(4)]
    pairs += [(centred[..., step:], centred[..., :-step]) for step in (2, 16, 64, 128)]
    pairs += [(centred, (drawn_mask(p, seed, 200, 300) != 0).double().sub(1 - p) / deviation) for seed in (0, 2, 2**61)]
    for one, other in pairs:
        assert abs((one * other).mean()) < 5 / math.sqrt(one.numel())
    rows = centred.flatten(0, 2)[:1000]
    between = (rows @ rows.T / rows.shape[1]).fill_diagonal_(0.0)
    assert between.abs().max() < 8.0 / math.sqrt(rows.shape[1])


@pytest.mark.parametrize("shift", [None, "balanced"])
@pytest.mark.parametrize("queries", [3, LQ])
def test_gradients_with_dropout_are_those_of_the_weights_that_were_left(queries, shift):
    """Written out in float64 with the drawn mask; torch's generator says which it is."""
    mask = None
    leaves = [*tensors(queries), torch.randn(1, H, queries, LK), additive((B, 1, 1, LK)), torch.rand(H)]
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn = drawn_mask(0.4, int(torch.randint(2**62, ())), queries)
        assert mask is None or torch.equal(mask, drawn) == (seed == 1)
        mask = drawn
        results = []
        for exact in (False, True):
            query, key, value, bias, faded, polarity = inputs = [
                leaf.detach().to(torch.float64 if exact else torch.float32).requires_grad_() for leaf in leaves
            ]
            if exact:
                scores = 1.7 * torch.tanh(query @ key.repeat_interleave(3, 1).transpose(2, 3) / 1.7) + bias
                weights = tanhmax(scores, additive_mask=faded, polarity=polarity[:, None, None], shift=shift)
                output = (weights * (mask != 0) / 0.6) @ value.repeat_interleave(3, 1)
            else:
                torch.manual_seed(seed)
                options = {"bias": bias, "additive_mask": faded, "polarity": polarity, "shift": shift}
                output = tanhmax_attention(query, key, value, scale=1.0, softcap=1.7, dropout_p=0.4, implementation="cpu", **options)
            upstream = torch.linspace(-1.0, 1.0, output.numel(), dtype=output.dtype).view(output.shape)
            results.append((output, *torch.autograd.grad(output, inputs, upstream)))
        for one, true in zip(*results, strict=True):
            assert error(one, true) < 2e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{"softcap": 2.0}, {"bias": True}, {"additive_mask": True}, {"dropout_p": 0.3}])
def test_numbers_of_16_bits(options, dtype):
    """As the same numbers in float32, to the rounding of results, of weights and of the gradient of the scores."""
    leaves = [tensor.to(dtype) for tensor in tensors(130, 200, 33, 40)]
    leaves += [torch.randn(1, H, 130, 200).to(dtype)]
    name = next(iter(options))
    results = []
    for wide in (False, True):
        inputs = [leaf.to(torch.float32 if wide else dtype).requires_grad_() for leaf in leaves]
        given = {name: inputs[3] if options[name] is True else options[name]}
        torch.manual_seed(3)
        output = tanhmax_attention(*inputs[:3], implementation="cpu", is_causal="lower_right", **given)
        wanted = inputs if options[name] is True else inputs[:3]
        results.append((output, *torch.autograd.grad(output.float().square().sum(), wanted)))
    for one, other in zip(*results, strict=True):
        assert one.dtype == dtype
        assert error(one, other) < (2**-6 if dtype == torch.bfloat16 else 2**-9)
