"""Sums of a weighted ridge regression, and what they come to."""

import pytest
import torch

from hf_tanhmax.conversion.regression import OutputSums, Stream

ROWS, WIDTH, HIDDEN = 23, 5, 7


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    heads, *streams = (torch.randn(ROWS, size, generator=generator, dtype=torch.float64) for size in (WIDTH, *[HIDDEN] * 4))
    return [tensor.to(dtype) for tensor in (heads, *streams)]


def sums_of(heads, before, added, softmax_before, softmax_added):
    return OutputSums.of(heads, Stream(before, added), Stream(softmax_before, softmax_added))


def test_sums_of_parts_are_those_of_the_whole():
    whole = sums_of(*problem())
    parts = [sums_of(*(tensor[start:end] for tensor in problem())) for start, end in ((0, 3), (3, 17), (17, ROWS))]
    for name, value in vars(parts[0] + parts[1] + parts[2]).items():
        torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(getattr(whole, name)))
    assert whole.rows == ROWS
    assert whole.squares.shape == (WIDTH + 1, WIDTH + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sums_are_in_float64(dtype):
    found = sums_of(*problem(dtype))
    exact = sums_of(*(tensor.double() for tensor in problem(dtype)))
    for name, value in vars(found).items():
        assert name == "rows" or value.dtype == torch.float64
        torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(getattr(exact, name)))


@pytest.mark.parametrize("bias", [True, False])
def test_a_solution_is_where_the_penalised_error_is_least(bias):
    """No small step away from it, in any direction, is better; errors are those of the rows."""
    heads, before, added, softmax_before, softmax_added = problem()
    ridge, pull = 0.3, torch.randn(WIDTH, HIDDEN, dtype=torch.float64)
    change = sums_of(*problem()).solve(ridge, pull, bias=bias)
    weights = 1 / (softmax_before + softmax_added).square().mean(-1, keepdim=True)
    wanted = softmax_before + softmax_added - before - added
    scale = ridge * (weights * heads.square()).sum() / WIDTH

    def error(weight, shift):
        return (weights * (wanted - heads @ weight.T - shift).square()).sum()

    def penalised(weight, shift):
        return error(weight, shift) + scale * (weight.T - pull).square().sum() + 1e-3 * weights.sum() * shift.square().sum()

    least = penalised(*change[:2])
    for _ in range(20):
        step = torch.randn(HIDDEN, WIDTH, dtype=torch.float64) * 1e-3, torch.randn(HIDDEN, dtype=torch.float64) * 1e-3 * bias
        assert penalised(change.weight + step[0], change.bias + step[1]) > least
    norm = (weights * softmax_added.square()).sum()
    assert change.before == pytest.approx(float((error(torch.zeros_like(change.weight), 0) / norm).sqrt()))
    assert change.after == pytest.approx(float((error(*change[:2]) / norm).sqrt()))
    assert bias or not change.bias.any()


def test_rows_that_are_not_finite():
    heads, *streams = problem()
    assert sums_of(heads, *streams).finite
    heads[3, 1] = torch.nan
    assert not sums_of(heads, *streams).finite


def test_rows_of_a_great_norm_do_not_decide():
    """A row that is a thousand times larger in every stream weighs as much as before."""
    whole, scaled = problem(), problem()
    for tensor in scaled:
        tensor[4] *= 1000
    torch.testing.assert_close(sums_of(*scaled).left, sums_of(*whole).left)
