"""Triton's interpreter, corrected where it differs from a GPU in silence: tests and rehearsals run the kernels in it.

* `tl.dot` multiplies the raw bits of bfloat16 operands, which it holds as uint16: they are widened first, and accumulated in float32.
* A cast from float32 to bfloat16 cuts digits off: it rounds to nearest even here, as a GPU does.
* Tensor descriptors cannot add, which the interpreter says: here they can.
* A fused multiply-add rounds once, which that of Triton 3.6 does not.

`gpu_exponentials` makes exponentials as inexact as those of a GPU, where the interpreter's are numpy's.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def _widened(handle: Any) -> np.ndarray:
    import triton.language as tl

    if handle.dtype.scalar != tl.bfloat16:
        return handle.data
    return (handle.data.astype(np.uint32) << 16).view(np.float32)


def _rounded(data: np.ndarray) -> np.ndarray:
    """float32 -> the bits of bfloat16, by torch."""
    return torch.from_numpy(np.ascontiguousarray(data)).bfloat16().view(torch.int16).numpy().view(np.uint16)


@contextlib.contextmanager
def faithful() -> Iterator[None]:
    """Correct the interpreter for the duration of the context; without Triton, or with a GPU, there is nothing to correct."""
    if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
        yield
        return
    import triton.language as tl
    from triton._C.libtriton import ir
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    create_dot, cast, multiply_add = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl, InterpreterBuilder.create_fma
    add = getattr(InterpreterBuilder, "create_descriptor_reduce", None)  # there within another such context

    def dot(_builder: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        with np.errstate(invalid="ignore", over="ignore"):  # a GPU says nothing of rows that overflow and are stored nowhere
            product = np.matmul(_widened(a), _widened(b), dtype=d.data.dtype)
        return TensorHandle(product + d.data, d.dtype.scalar)

    def fma(_builder: Any, x: Any, y: Any, z: Any) -> Any:
        if z.data.dtype != np.float32:
            return multiply_add(_builder, x, y, z)
        exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
        return TensorHandle(exact.astype(np.float32), z.dtype.scalar)

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            return TensorHandle(_rounded(src.data), dst_type.scalar)
        return cast(self, src, dst_type)

    def reduce(self: Any, kind: Any, descriptor: Any, value: Any, offsets: Any) -> None:
        if kind != ir.DESCRIPTOR_REDUCE_KIND.ADD:
            raise NotImplementedError(f"the interpreter's descriptors only add, but {kind} is wanted")
        pointers, mask = descriptor.materialize_pointers(offsets)
        self.create_atomic_rmw(ir.ATOMIC_OP.FADD, pointers, value, mask, ir.MEM_SEMANTIC.RELAXED, None)

    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl, InterpreterBuilder.create_fma = dot, cast_impl, fma
    InterpreterBuilder.create_descriptor_reduce = reduce
    try:
        yield
    finally:
        InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl, InterpreterBuilder.create_fma = create_dot, cast, multiply_add
        if add is None:
            del InterpreterBuilder.create_descriptor_reduce
        else:
            InterpreterBuilder.create_descriptor_reduce = add


@contextlib.contextmanager
def gpu_exponentials() -> Iterator[None]:
    """Exponentials in float32 by a GPU's special-function unit, as the compiler asks for them.

    `tl.exp2` is one instruction that is off by up to 2^-22.5 of its result, here by a share of that which depends on its argument, and that
    gives 0 where the result is below the least normal number; `tl.exp` is the same behind a product with log2(e), rounded to float32.
    """
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def special(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        wide = np.exp2(x) * (1.0 + 2.0**-22.5 * np.sin(1e4 * np.where(np.isfinite(x), x, 0.0)))
        return np.where(wide < np.finfo(np.float32).tiny, 0.0, wide).astype(np.float32)

    def exp2(_builder: Any, arg: Any) -> Any:
        return TensorHandle(special(arg.data), arg.dtype.scalar)

    def exp(_builder: Any, arg: Any) -> Any:
        return TensorHandle(special(arg.data * np.float32(np.log2(np.e))), arg.dtype.scalar)

    before = InterpreterBuilder.create_exp, InterpreterBuilder.create_exp2
    InterpreterBuilder.create_exp, InterpreterBuilder.create_exp2 = exp, exp2
    try:
        yield
    finally:
        InterpreterBuilder.create_exp, InterpreterBuilder.create_exp2 = before
