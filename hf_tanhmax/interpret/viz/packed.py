"""Matrices as short text: float16 with a scale, deflated, in base64.

A matrix is divided by a power of two, so that its largest number lies in (1/2, 1] and small ones keep their digits: a number comes back
with a relative error of at most 2^-11, and an absolute one of at most 2^-24 of the largest. Low bytes stand before high ones, as the high
ones (sign and exponent) repeat and deflate well.
"""

import base64
import math
import zlib

import numpy as np
from torch import Tensor

BYTES = 2  # of a number, before it is deflated


def packed(matrix: Tensor) -> tuple[float, str]:
    """The scale of a matrix and its numbers as text.

    Args:
        matrix: of any shape; its numbers follow each other in row-major order.
    """
    largest = float(matrix.abs().max())
    scale = 2.0 ** math.ceil(math.log2(largest)) if largest else 1.0
    halves = (matrix / scale).numpy().astype("<f2")
    planes = halves.reshape(-1).view(np.uint8).reshape(-1, BYTES).T
    # Zeros in a row and the bytes' frequencies are all there is to gain; a search for repeats takes four times as long and finds no more.
    deflate = zlib.compressobj(strategy=zlib.Z_RLE)
    return scale, base64.b64encode(deflate.compress(planes.tobytes()) + deflate.flush()).decode("ascii")


def unpacked(scale: float, text: str) -> np.ndarray:
    """The numbers that `packed` made text of, as flat float32."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(BYTES, -1)
    return np.ascontiguousarray(planes.T).view("<f2").reshape(-1).astype(np.float32) * np.float32(scale)
