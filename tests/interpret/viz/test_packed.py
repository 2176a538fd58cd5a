"""Matrices as text come back within what float16 promises."""

import base64
import zlib

import numpy as np
import pytest
import torch

from hf_tanhmax.interpret.viz.packed import packed, unpacked


@pytest.mark.parametrize("size", [1e-30, 1e-6, 0.3, 1.0, 7e4])
def test_relative_and_absolute_error(size):
    matrix = torch.randn(37, 41).pow(5)
    matrix *= size / matrix.abs().max()
    back = torch.from_numpy(unpacked(*packed(matrix))).reshape(37, 41)
    error = (back - matrix).abs().double()
    assert (error <= torch.maximum(matrix.abs().double() * 2**-11, torch.tensor(size * 2**-24, dtype=torch.float64))).all()
    assert error.max() > 0


def test_what_is_exact():
    matrix = torch.tensor([[0.0, -0.25, 1.0], [0.5, -1.0, 2**-10]])
    scale, text = packed(matrix)
    assert scale == 1
    assert torch.equal(torch.from_numpy(unpacked(scale, text)).reshape(2, 3), matrix)
    assert not unpacked(*packed(torch.zeros(3, 5))).any()


def test_the_order_of_bytes():
    """As the page reads them: the low byte of every number, then the high one."""
    _, text = packed(torch.tensor([[1.0, -0.5]]))
    assert zlib.decompress(base64.b64decode(text)) == bytes([0x00, 0x00, 0x3C, 0xB8])
    assert np.float16(-0.5).view(np.uint16) == 0xB800


def test_a_causal_head_takes_little_more_than_half():
    full, causal = torch.randn(128, 128), torch.randn(128, 128).tril()
    assert len(packed(causal)[1]) < 0.6 * len(packed(full)[1]) < 0.6 * 128 * 128 * 2 * 4 / 3
