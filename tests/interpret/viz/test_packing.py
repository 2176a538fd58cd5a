"""Matrices as text come back within the errors that are promised, in as many characters as they may have."""

import base64
import zlib

import numpy as np
import pytest
import torch

from hf_tanhmax.interpret.viz.packing import LEVELS, pack, unpack


def back(packed, shape):
    return torch.from_numpy(unpack(packed)).reshape(shape)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 0.3, 1.0, 7e4])
def test_relative_and_absolute_error_of_float16(size):
    matrix = torch.randn(37, 41).pow(5)
    matrix *= size / matrix.abs().max()
    packed = pack(matrix)
    error = (back(packed, matrix.shape) - matrix).abs().double()
    assert (error <= torch.maximum(matrix.abs().double() * 2**-11, torch.tensor(size * 2**-24, dtype=torch.float64))).all()
    assert packed.levels == 0
    assert float(error.max()) == pytest.approx(packed.error, abs=0)
    assert packed.error > 0


def test_what_is_exact():
    matrix = torch.tensor([[0.0, -0.25, 1.0], [0.5, -1.0, 2**-10]])
    packed = pack(matrix)
    assert (packed.scale, packed.error) == (1, 0)
    assert torch.equal(back(packed, (2, 3)), matrix)
    for budget in (1e9, 0):
        assert not unpack(pack(torch.zeros(3, 5), budget=budget)).any()


def test_the_order_of_bytes():
    """As the page reads them: of float16 the low byte of every number, then the high one; of levels one signed byte each."""
    assert zlib.decompress(base64.b64decode(pack(torch.tensor([[1.0, -0.5]])).text)) == bytes([0x00, 0x00, 0x3C, 0xB8])
    assert np.float16(-0.5).view(np.uint16) == 0xB800
    packed = pack(torch.tensor([[4.0, -1.0, 0.0]]), budget=0)
    assert zlib.decompress(base64.b64decode(packed.text)) == np.array([7, -4, 0], np.int8).tobytes()
    assert packed.levels == 7


@pytest.mark.parametrize("size", [1e-30, 0.02, 3e4])
@pytest.mark.parametrize("characters", [1.4, 1.1, 0.9, 0.7])
def test_the_error_of_levels(size, characters):
    """At most 1/n + 1/(4 n^2) of the largest number, and near zero 1/(4 n^2)."""
    matrix = torch.randn(127, 131)
    matrix *= size / matrix.abs().max()
    matrix[::7] *= 1e-6
    packed = pack(matrix, budget=characters * matrix.numel())
    error = (back(packed, matrix.shape) - matrix).abs()
    assert len(packed.text) <= characters * matrix.numel()
    assert packed.levels in LEVELS
    n = packed.levels
    assert float(error.max()) == pytest.approx(packed.error, rel=1e-5, abs=0)
    assert packed.error <= size * (1 / n + 1 / (4 * n**2)) * 1.0001
    small = matrix.abs() < size / (4 * n**2)
    assert small.any()
    assert float(error[small].max()) <= size / (4 * n**2) * 1.0001


def test_the_finest_that_fits():
    matrix = torch.randn(101, 103)
    levels = [pack(matrix, budget=characters * matrix.numel()).levels for characters in (3, 1.3, 1.0, 0.8, 0.6, 0.1)]
    assert levels[0] == 0
    assert levels[1:] == sorted(levels[1:], reverse=True)
    assert levels[1] == 127
    assert levels[-1] == 7  # the coarsest, which does not fit


def test_a_causal_head_takes_little_more_than_half():
    full, causal = torch.randn(128, 128), torch.randn(128, 128).tril()
    assert len(pack(causal).text) < 0.6 * len(pack(full).text) < 0.6 * 128 * 128 * 2 * 4 / 3
