"""Exponentials as inexact as those of a GPU, in Triton's interpreter, whose own are numpy's."""

from contextlib import contextmanager

import numpy as np


@contextmanager
def gpu_exponentials():
    """Exponentials in float32 by a GPU's special-function unit, as the compiler asks for them.

    `tl.exp2` is one instruction that is off by up to 2^-22.5 of its result, here by a share of that which depends on its argument, and that
    gives 0 where the result is below the least normal number; `tl.exp` is the same behind a product with log2(e), rounded to float32.
    """
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def special(x):
        x = x.astype(np.float64)
        wide = np.exp2(x) * (1.0 + 2.0**-22.5 * np.sin(1e4 * np.where(np.isfinite(x), x, 0.0)))
        return np.where(wide < np.finfo(np.float32).tiny, 0.0, wide).astype(np.float32)

    def exp2(_builder, arg):
        return TensorHandle(special(arg.data), arg.dtype.scalar)

    def exp(_builder, arg):
        return TensorHandle(special(arg.data * np.float32(np.log2(np.e))), arg.dtype.scalar)

    before = InterpreterBuilder.create_exp, InterpreterBuilder.create_exp2
    InterpreterBuilder.create_exp, InterpreterBuilder.create_exp2 = exp, exp2
    try:
        yield
    finally:
        InterpreterBuilder.create_exp, InterpreterBuilder.create_exp2 = before
