"""The map against its definition in float64, at its edges, and through PyTorch's transforms."""

import math

import pytest
import torch

from hf_tanhmax import tanhmax
from hf_tanhmax.functional import log_polarity

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
POLARITIES = (0.0, 1e-6, 0.3, 1.0)


def definition(scores, keep=None, polarity=1.0):
    """The formula in float64 for scores below 300, in the form without a difference: sinh(a + c) / sum cosh(a + c), p = exp(-2c)."""
    scores = scores.double()
    if polarity == 0:
        signed = both = torch.exp(scores)
    else:
        shifted = scores - 0.5 * math.log(polarity)
        signed, both = torch.sinh(shifted), torch.cosh(shifted)
    if keep is not None:
        signed, both = signed * keep, both * keep
    return signed / both.sum(-1, keepdim=True)


def shifted(scores, keep=None, polarity=1.0, mask=None):
    """The map of scores shifted by the constant of each row that balances them; for polarities above 0 and rows with a kept key."""
    level = torch.zeros_like(scores) if mask is None else mask
    if keep is not None:
        level = level.masked_fill(~keep, -math.inf)
    lowest, highest = (torch.logsumexp(level + half, -1, keepdim=True) for half in (-scores, scores))
    return tanhmax(scores + 0.5 * (lowest - highest - torch.as_tensor(polarity).log()), keep, additive_mask=mask)


def close(weights, expected):
    """Within rounding: an exponential whose argument x is rounded is off by x eps, and half precision may be subnormal."""
    kind = torch.finfo(weights.dtype)
    torch.testing.assert_close(weights.double(), expected, rtol=16 * kind.eps, atol=kind.smallest_normal * kind.eps)


@pytest.mark.parametrize("polarity", POLARITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_definition_in_every_dtype(dtype, polarity):
    scores = (torch.randn(3, 5, 7) * 3).to(dtype)
    weights = tanhmax(scores, polarity=polarity)
    assert weights.dtype == dtype
    close(weights, definition(scores, polarity=polarity))


def test_polarity_zero_is_softmax_and_one_is_sinh_over_sum_cosh():
    scores = torch.randn(5, 11, dtype=torch.float64)
    torch.testing.assert_close(tanhmax(scores, polarity=0.0), scores.softmax(-1))
    torch.testing.assert_close(tanhmax(scores), torch.sinh(scores) / torch.cosh(scores).sum(-1, keepdim=True))


def test_polarity_is_a_score_bias():
    scores, bias = torch.randn(5, 11, dtype=torch.float64), 0.7
    torch.testing.assert_close(tanhmax(scores, polarity=math.exp(-2 * bias)), tanhmax(scores + bias))


def test_is_odd_and_bounded():
    scores = torch.randn(13, 17) * 5
    weights = tanhmax(scores)
    torch.testing.assert_close(tanhmax(-scores), -weights)
    assert (weights.abs() < 1).all()
    assert (weights.abs().sum(-1) <= 1 + 1e-6).all()


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
def test_any_dimension(dim):
    scores, keep = torch.randn(3, 5, 7), torch.rand(3, 5, 7) > 0.3
    moved = tanhmax(scores.movedim(dim, -1), keep.movedim(dim, -1)).movedim(-1, dim)
    torch.testing.assert_close(tanhmax(scores, keep, dim=dim), moved)


@pytest.mark.parametrize("polarity", POLARITIES)
def test_masked_equals_sliced(polarity):
    scores, keep = torch.randn(7, dtype=torch.float64), torch.tensor([1, 0, 1, 1, 0, 1, 0], dtype=torch.bool)
    scores[1], scores[4] = 1e300, float("nan")
    weights = tanhmax(scores, keep, polarity=polarity)
    torch.testing.assert_close(weights[keep], tanhmax(scores[keep], polarity=polarity))
    assert (weights[~keep] == 0).all()


@pytest.mark.parametrize("polarity", POLARITIES)
def test_empty_rows_are_zero_with_zero_gradients(polarity):
    scores = torch.randn(3, 5, requires_grad=True)
    keep = torch.tensor([True, False, True])[:, None]
    weights = tanhmax(scores, keep, polarity=polarity)
    (gradient,) = torch.autograd.grad(weights, scores, torch.randn(3, 5))
    assert (weights[1] == 0).all()
    assert (gradient[1] == 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_no_elements(shape):
    assert tanhmax(torch.randn(shape)).shape == shape


@pytest.mark.parametrize("polarity", POLARITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_scores_stay_finite(dtype, polarity):
    scores = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e-4]], dtype=dtype, requires_grad=True)
    weights = tanhmax(scores, polarity=polarity)
    (gradient,) = torch.autograd.grad(weights, scores, torch.ones_like(weights))
    assert weights.isfinite().all()
    assert gradient.isfinite().all()
    expected = {0.0: [1.0, 0.0, 0.0], 1.0: [0.5, -0.5, 0.0]}.get(polarity)
    if expected:
        torch.testing.assert_close(weights[0], torch.tensor(expected, dtype=dtype))


def test_infinite_scores_saturate_and_nan_propagates():
    weights = tanhmax(torch.tensor([[math.inf, 0.0], [math.inf, -math.inf], [0.0, math.nan]]))
    torch.testing.assert_close(weights[:2], torch.tensor([[1.0, 0.0], [0.5, -0.5]]))
    assert weights[2].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_keeps_relative_accuracy_near_zero(dtype):
    scores = torch.randn(7, 13).to(dtype) * 1e-3
    close(tanhmax(scores), definition(scores))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("polarity", POLARITIES)
def test_gradcheck(polarity, masked):
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(3, 5) > 0.4 if masked else None
    assert torch.autograd.gradcheck(lambda x: tanhmax(x, keep, polarity=polarity), scores)
    assert torch.autograd.gradgradcheck(lambda x: tanhmax(x, keep, polarity=polarity), scores)


def test_an_additive_mask_multiplies_shares():
    """In the definition's numerator and denominator alike; -9000 and less hide, and a row of those alone is 0."""
    scores = torch.randn(4, 5, dtype=torch.float64)
    mask = torch.tensor([[0.0, -1.0, 2.0, -30.0, -100.0], [-9000.0, 0.0, -1e4, 0.3, -math.inf], [-50.0] * 5, [-1e9] * 5]).double()
    shares = mask.masked_fill(mask <= -9000, -math.inf).exp()
    for polarity in POLARITIES:
        signed, both = torch.exp(scores) - polarity * torch.exp(-scores), torch.exp(scores) + polarity * torch.exp(-scores)
        expected = shares * signed / (shares * both).sum(-1, keepdim=True).clamp(min=1e-300)
        found = tanhmax(scores, polarity=polarity, additive_mask=mask)
        torch.testing.assert_close(found, expected)
        assert (found[1, [0, 2, 4]] == 0).all()
        torch.testing.assert_close(found[2], tanhmax(scores[2], polarity=polarity))
        assert (found[3] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_additive_mask_leaves_scores_their_digits_around_zero(dtype):
    scores, mask = torch.randn(7, 13).to(dtype) * 1e-3, torch.full((13,), -100.0, dtype=dtype)
    close(tanhmax(scores, additive_mask=mask), definition(scores))


@pytest.mark.parametrize("polarity", [*POLARITIES, torch.tensor([[0.2], [1.0], [0.01]], dtype=torch.float64)])
def test_gradcheck_of_an_additive_mask(polarity):
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([0.0, -0.4, -20.0, -9001.0, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, m: tanhmax(x, polarity=polarity, additive_mask=m), (scores, mask))
    assert torch.autograd.gradgradcheck(lambda x, m: tanhmax(x, polarity=polarity, additive_mask=m), (scores, mask))


def test_gradcheck_of_a_polarity_tensor():
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    polarity = torch.tensor([[0.2], [1.0], [0.01]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, p: tanhmax(x, polarity=p), (scores, polarity))
    assert torch.autograd.gradgradcheck(lambda x, p: tanhmax(x, polarity=p), (scores, polarity))


def test_polarity_tensor_at_zero_has_the_one_sided_derivative():
    scores = torch.randn(3, 5, dtype=torch.float64)
    polarity = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    grad_weights = torch.randn(3, 5, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(tanhmax(scores, polarity=polarity), polarity, grad_weights)
    step = 1e-7
    difference = ((definition(scores, polarity=step) - definition(scores, polarity=0.0)) * grad_weights).sum(-1, keepdim=True)
    torch.testing.assert_close(gradient, difference / step, rtol=1e-4, atol=1e-6)


def test_log_polarity_at_zero():
    polarity = torch.tensor([0.0, 0.5], requires_grad=True)
    log_polarity(polarity)[1].backward()
    torch.testing.assert_close(log_polarity(polarity).detach(), torch.tensor([-math.inf, math.log(0.5)]))
    torch.testing.assert_close(polarity.grad, torch.tensor([0.0, 2.0]))


HEADS = torch.tensor([[0.2], [1.0], [0.01]], dtype=torch.float64)


@pytest.mark.parametrize("masked", ["nothing", "keep", "additive", "both"])
@pytest.mark.parametrize("polarity", [1e-6, 0.3, 1.0, HEADS])
def test_a_balanced_shift_is_a_constant_added_to_each_row(polarity, masked):
    """Outputs, gradients and second derivatives equal those of the map at polarity 1, whose row constant is differentiated with it."""
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(3, 5) > 0.4 if masked in ("keep", "both") else None
    if keep is not None:
        keep[:, 0] = True
    mask = torch.tensor([0.3, -0.4, -20.0, -2.0, 0.9], dtype=torch.float64, requires_grad=True)
    added = mask if masked in ("additive", "both") else None
    inputs = (scores,) if added is None else (scores, mask)
    found, expected = (
        tanhmax(scores, keep, polarity=polarity, additive_mask=added, shift="balanced"),
        shifted(scores, keep, polarity, added),
    )
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(3, 5, dtype=torch.float64)
    first = [torch.autograd.grad(each, inputs, upstream, create_graph=True) for each in (found, expected)]
    torch.testing.assert_close(*first)
    seconds = [torch.autograd.grad(sum(one.square().sum() for one in each), inputs) for each in first]
    torch.testing.assert_close(*seconds)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dim", [0, -1])
def test_gradcheck_of_a_balanced_shift(dim, masked):
    scores, polarity = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), HEADS.clone().requires_grad_()
    mask = torch.tensor([0.0, -0.4, -20.0, -9001.0, 0.9], dtype=torch.float64, requires_grad=True)
    keep = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]], dtype=torch.bool) if masked else None

    def call(scores, polarity, mask):
        return tanhmax(scores, keep, dim=dim, polarity=polarity, additive_mask=mask, shift="balanced")

    assert torch.autograd.gradcheck(call, (scores, polarity, mask))
    assert torch.autograd.gradgradcheck(call, (scores, polarity, mask))


@pytest.mark.parametrize("dtype", DTYPES)
def test_edges_of_a_balanced_shift(dtype):
    """Softmax at 0; one key (1 - p) / (1 + p); no key 0 with gradient 0; odd at 1; a row's constant; hidden NaN; saturation; sums."""
    scores = (torch.randn(3, 5, 7) * 3).to(dtype).requires_grad_()
    exactly = scores.to(torch.promote_types(dtype, torch.float32)).softmax(-1).to(dtype)
    assert torch.equal(tanhmax(scores, polarity=0.0, shift="balanced"), exactly)
    torch.testing.assert_close(tanhmax(-scores, shift="balanced"), -tanhmax(scores, shift="balanced"))
    keep = torch.zeros(3, 5, 7, dtype=torch.bool)
    keep[0, :, 3], keep[1] = True, torch.arange(7) < 4
    for polarity in POLARITIES:
        found = tanhmax(torch.where(keep, scores, math.nan), keep, polarity=polarity, shift="balanced")
        torch.testing.assert_close(found[0, :, 3], torch.full((5,), (1 - polarity) / (1 + polarity), dtype=dtype))
        assert (found[~keep] == 0).all()
        torch.testing.assert_close(found[1, :, :4], tanhmax(scores[1, :, :4], polarity=polarity, shift="balanced"))
        (gradient,) = torch.autograd.grad(found, scores, torch.randn(found.shape).to(dtype))
        assert gradient.isfinite().all()
        assert (gradient[2] == 0).all()
        exact = tanhmax(scores.double(), polarity=polarity, shift="balanced")
        torch.testing.assert_close(exact.sum(-1), torch.full((3, 5), (1 - polarity) / (1 + polarity), dtype=torch.float64))
        assert (exact.abs().sum(-1) <= 1 + 1e-12).all()
        moved = tanhmax(scores.double() + 100.0, polarity=polarity, shift="balanced", additive_mask=torch.full((7,), -50.0))
        torch.testing.assert_close(moved, exact)
        torch.testing.assert_close(tanhmax(scores, polarity=polarity, shift="balanced"), exact.to(dtype))
    edges = torch.tensor([[math.inf, 0.0], [math.inf, -math.inf], [0.0, math.nan]], dtype=dtype)
    torch.testing.assert_close(tanhmax(edges, shift="balanced")[:2], torch.tensor([[0.5, -0.5]] * 2, dtype=dtype))
    assert tanhmax(edges, shift="balanced")[2].isnan().all()
    assert tanhmax(torch.randn(3, 0), shift="balanced").shape == (3, 0)


def test_an_additive_mask_leaves_balanced_scores_their_digits():
    scores, mask = torch.randn(3, 5, 7), torch.full((7,), -8000.0)
    torch.testing.assert_close(tanhmax(scores, additive_mask=mask, shift="balanced"), tanhmax(scores, shift="balanced"))


def test_vmap_and_compile():
    scores = torch.randn(3, 5, 7)
    torch.testing.assert_close(torch.func.vmap(tanhmax)(scores), tanhmax(scores))
    torch.testing.assert_close(torch.func.vmap(lambda x: tanhmax(x, dim=0), in_dims=2)(scores).movedim(0, -1), tanhmax(scores, dim=0))
    compiled = torch.compile(tanhmax, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(scores), tanhmax(scores))
    torch.testing.assert_close(compiled(scores, shift="balanced"), tanhmax(scores, shift="balanced"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scores": torch.ones(3, dtype=torch.int64)}, TypeError, "scores must be floating point, but are torch.int64"),
        ({"keep": torch.ones(3)}, TypeError, "keep must be boolean .* but is torch.float32"),
        ({"keep": torch.ones(2, dtype=torch.bool)}, ValueError, r"keep of shape \(2,\) does not broadcast"),
        ({"keep": torch.ones(2, 1, 3, dtype=torch.bool)}, ValueError, "does not broadcast"),
        ({"additive_mask": torch.ones(3, dtype=torch.bool)}, TypeError, "additive_mask must be floating point, .* goes to `keep`"),
        ({"additive_mask": torch.ones(2)}, ValueError, r"additive_mask of shape \(2,\) does not broadcast"),
        ({"polarity": 1.5}, ValueError, r"polarity must be in \[0, 1\] .* but is 1.5"),
        ({"polarity": float("nan")}, ValueError, "polarity must be in"),
        ({"polarity": "learned"}, TypeError, "polarity must be a number"),
        ({"polarity": True}, TypeError, "polarity must be a number"),
        ({"polarity": torch.ones(3, dtype=torch.int64)}, TypeError, "polarity tensor must be floating point"),
        ({"shift": "centred"}, ValueError, "shift must be None or \"balanced\", but is 'centred'"),
        ({"shift": True}, ValueError, 'shift must be None or "balanced", but is True'),
        ({"dim": 3}, IndexError, "Dimension out of range"),
    ],
)
def test_bad_input(arguments, error, message):
    arguments = {"scores": torch.randn(3), **arguments}
    with pytest.raises(error, match=message):
        tanhmax(arguments.pop("scores"), **arguments)
