"""Triton's interpreter, corrected where it differs from a GPU in silence: tests and rehearsals run the kernels in it.

* `tl.dot` multiplies the raw bits of bfloat16 operands, which it holds as uint16: they are widened first, and accumulated in float32.
* A cast from float32 to bfloat16 cuts digits off: it rounds to nearest even here, as a GPU does.
* Tensor descriptors cannot add, which the interpreter says: here they can.
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

    create_dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl
    add = getattr(InterpreterBuilder, "create_descriptor_reduce", None)  # there within another such context

    def dot(_builder: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        with np.errstate(invalid="ignore", over="ignore"):  # a GPU says nothing of rows that overflow and are stored nowhere
            product = np.matmul(_widened(a), _widened(b), dtype=d.data.dtype)
        return TensorHandle(product + d.data, d.dtype.scalar)

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            return TensorHandle(_rounded(src.data), dst_type.scalar)
        return cast(self, src, dst_type)

    def reduce(self: Any, kind: Any, descriptor: Any, value: Any, offsets: Any) -> None:
        if kind != ir.DESCRIPTOR_REDUCE_KIND.ADD:
            raise NotImplementedError(f"the interpreter's descriptors only add, but {kind} is wanted")
        pointers, mask = descriptor.materialize_pointers(offsets)
        self.create_atomic_rmw(ir.ATOMIC_OP.FADD, pointers, value, mask, ir.MEM_SEMANTIC.RELAXED, None)

    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = dot, cast_impl
    InterpreterBuilder.create_descriptor_reduce = reduce
    try:
        yield
    finally:
        InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = create_dot, cast
        if add is None:
            del InterpreterBuilder.create_descriptor_reduce
        else:
            InterpreterBuilder.create_descriptor_reduce = add
