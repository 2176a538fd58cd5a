"""Contributions, orientation and one-signed heads of tensors made by hand."""

import torch

from hf_tanhmax.interpret.attribution.orientation import contributions_of, one_signed, orientation_of


def test_contributions_are_the_derivative_along_each_weight():
    weights, values, gradients = torch.randn(2, 5, 7, dtype=torch.float64), torch.randn(2, 7, 3).double(), torch.randn(2, 5, 3).double()
    weights.requires_grad_()
    found = contributions_of(weights, values, gradients)
    slope = torch.autograd.grad(((weights @ values) * gradients).sum(), weights)[0]
    torch.testing.assert_close(found, weights * slope)


def test_orientation_is_the_sign_that_is_right_for_most_of_the_contributions():
    generator = torch.Generator().manual_seed(3)
    weights, slopes = torch.randn(200, 3, 5, generator=generator), torch.randn(200, 3, 5, generator=generator)
    contributions = weights * slopes
    right = {sign: (contributions.abs() * ((sign * weights).sign() == contributions.sign())).sum((1, 2)) for sign in (1, -1)}
    found = orientation_of(weights, contributions)
    assert (found == torch.where(right[1] >= right[-1], 1.0, -1.0)).all()
    assert 0 < (found > 0).sum() < 200


def test_a_head_that_does_nothing_keeps_its_sign():
    assert orientation_of(torch.ones(2, 3, 3), torch.zeros(2, 3, 3)).tolist() == [1, 1]


def test_one_signed_heads_have_little_of_the_other_sign():
    weights = torch.tensor([[[0.96, -0.04]], [[-0.96, 0.04]], [[0.9, -0.1]], [[0.0, 0.0]]])
    assert one_signed(weights).tolist() == [True, True, False, True]
