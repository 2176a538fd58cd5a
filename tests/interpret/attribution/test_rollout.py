"""Rollout against paths through the layers, counted one by one, and against Abnar and Zuidema's for softmax."""

import itertools

import pytest
import torch

from hf_tanhmax.interpret import rollout

WEIGHTS = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_paths(start, end):
    """Sums of the products of all paths from input `start` to output `end`, by sign, through one head or the residual in each layer."""
    layers, _, length, _ = WEIGHTS.shape
    sums = {1: 0.0, -1: 0.0}
    for heads in itertools.product((0, 1, None), repeat=layers):
        for between in itertools.product(range(length), repeat=layers - 1):
            places, product = (start, *between, end), 1.0
            for layer, head in enumerate(heads):
                source, target = places[layer], places[layer + 1]
                product *= 0.5 * (float(source == target) if head is None else float(WEIGHTS[layer, head, target, source]) / 2)
            sums[1 if product > 0 else -1] += abs(product)
    return sums


def test_positive_and_negative_paths():
    paths = by_paths(3, 1)
    assert float(rollout(WEIGHTS, "positive")[1, 3]) == pytest.approx(paths[1])
    assert float(rollout(WEIGHTS, "negative")[1, 3]) == pytest.approx(paths[-1])
    assert float(rollout(WEIGHTS, "signed")[1, 3]) == pytest.approx(paths[1] - paths[-1])
    assert float(rollout(WEIGHTS, "abs")[1, 3]) == pytest.approx(paths[1] + paths[-1])


def test_softmax_gives_abnar_and_zuidemas():
    weights = WEIGHTS.softmax(-1)
    want = torch.eye(4, dtype=torch.float64)
    for layer in weights.mean(1):
        joined = layer + torch.eye(4)
        want = (joined / joined.sum(-1, keepdim=True)) @ want
    torch.testing.assert_close(rollout(weights), want)
    torch.testing.assert_close(rollout(weights, "abs"), want)


def test_without_residual_it_is_the_product_of_the_weights():
    mean = WEIGHTS.mean(1)
    torch.testing.assert_close(rollout(WEIGHTS, residual=False), mean[2] @ mean[1] @ mean[0])


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="no rollout variant 'mean'; choose one of signed, abs, positive, negative"):
        rollout(WEIGHTS, "mean")
    with pytest.raises(ValueError, match=r"takes weights \[layers, heads, length, length\], but got \(2, 4, 4\)"):
        rollout(WEIGHTS[0])
