"""Matrices as text in as few characters as a page can spend on them, each with its rounding error.

Two ways, both deflated and in base64; x is a number over the scale of its matrix:

* *float16*: the scale is a power of two, so that the largest |x| lies in (1/2, 1] and small ones keep their digits. The relative error is
  at most 2^-11, and the absolute one at most 2^-24 of the largest. Low bytes stand before high ones, as the high ones (sign and exponent)
  repeat and deflate well.
* *levels*: q = sign(x) round(n |x|^(1/2)) as one signed byte, with the scale the largest number and n levels, from 127 down to 7. The
  number comes back as sign(q) (q/n)^2, off by at most 1/n + 1/(4 n^2) of the largest where it is large, and by 1/(4 n^2) near zero:
  attention has few large weights and many small ones.

A matrix takes the finest of these that fits its budget, or the coarsest.
"""

import base64
import math
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

BYTES_PER_NUMBER = 2  # of float16, before it is deflated
LEVELS = (127, 63, 31, 23, 19, 15, 13, 11, 9, 7)
CHARACTERS_PER_BYTE = 4 / 3  # in base64
SAMPLED, SLACK = 8, 1.05  # levels are tried if the entropy of every eighth number lets hope that they fit


class Packed(NamedTuple):
    """A matrix as text: `levels` is 0 for float16; `error` is the largest error of any number of the matrix, measured."""

    scale: float
    levels: int
    error: float
    text: str


def pack(matrix: Tensor, *, budget: float = math.inf) -> Packed:
    """A matrix as text.

    Args:
        matrix: of any shape, float32; its numbers follow each other in row-major order.
        budget: characters that the text should not exceed; it is longer only where even the coarsest levels do not fit.
    """
    numbers = matrix.reshape(-1).numpy()
    # A float16 that is not zero takes more than a byte.
    if np.count_nonzero(numbers) * CHARACTERS_PER_BYTE <= budget:
        packed = _float16(numbers)
        if len(packed.text) <= budget:
            return packed
    scale = float(np.abs(numbers).max()) or 1.0
    roots = np.sign(numbers) * np.sqrt(np.abs(numbers / np.float32(scale)))
    for levels in LEVELS:
        if levels > LEVELS[-1] and _characters(roots[::SAMPLED], levels) * SAMPLED > budget * SLACK:
            continue
        packed = _levels(numbers, roots, scale, levels)
        if len(packed.text) <= budget:
            break
    return packed


def unpack(packed: Packed) -> NDArray[np.float32]:
    """The numbers of a packed matrix, flat, as the page reads them."""
    data = np.frombuffer(zlib.decompress(base64.b64decode(packed.text)), np.uint8)
    if packed.levels:
        return _of_levels(data.view(np.int8), packed.scale, packed.levels)
    planes = data.reshape(BYTES_PER_NUMBER, -1)
    return np.ascontiguousarray(planes.T).view("<f2").reshape(-1).astype(np.float32) * np.float32(packed.scale)


def _float16(numbers: NDArray[np.float32]) -> Packed:
    largest = float(np.abs(numbers).max())
    scale = 2.0 ** math.ceil(math.log2(largest)) if largest else 1.0
    halves = (numbers / np.float32(scale)).astype("<f2")
    error = float(np.abs(halves.astype(np.float32) * np.float32(scale) - numbers).max())
    planes = halves.view(np.uint8).reshape(-1, BYTES_PER_NUMBER).T
    # Zeros in a row and the bytes' frequencies are all there is to gain; a search for repeats takes four times as long and finds no more.
    return Packed(scale, 0, error, _deflated(planes.tobytes(), zlib.Z_RLE))


def _levels(numbers: NDArray[np.float32], roots: NDArray[np.float32], scale: float, levels: int) -> Packed:
    rounded = np.rint(levels * roots).astype(np.int8)
    error = float(np.abs(_of_levels(rounded, scale, levels) - numbers).max())
    return Packed(scale, levels, error, _deflated(rounded.tobytes(), zlib.Z_HUFFMAN_ONLY))


def _characters(roots: NDArray[np.float32], levels: int) -> float:
    """How long the text of these numbers would be, by the entropy of their levels."""
    shares = np.bincount(np.rint(levels * roots).astype(np.int64) + levels) / roots.size
    shares = shares[shares > 0]
    return -float((shares * np.log2(shares)).sum()) * roots.size / 8 * CHARACTERS_PER_BYTE


def _of_levels(rounded: NDArray[np.int8], scale: float, levels: int) -> NDArray[np.float32]:
    shares = rounded.astype(np.float32) / np.float32(levels)
    return np.float32(scale) * shares * np.abs(shares)


def _deflated(data: bytes, strategy: int) -> str:
    deflate = zlib.compressobj(strategy=strategy)
    return base64.b64encode(deflate.compress(data) + deflate.flush()).decode("ascii")
