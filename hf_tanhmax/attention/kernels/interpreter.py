"""Corrects Triton's interpreter where it silently differs from a GPU, while one of these kernels runs in it.

* `tl.dot` multiplies the raw bits of bfloat16 operands, which it holds as uint16: they are widened first, and accumulated in float32.
* A cast from float32 to bfloat16 cuts digits off: it rounds to nearest even here, as a GPU does.
* Tensor descriptors cannot add, which the interpreter says: here they can.
* A fused multiply-add rounds once, which that of Triton 3.6 does not.

There is one interpreter in a process, so one thread at a time launches kernels of ours; what other threads interpret meanwhile meets the
corrections too. Where kernels are compiled there is nothing to correct.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import _GeneratorContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, TypeVar

import torch
import triton
import triton.language as tl

from .forward import forward_kernel

Function = TypeVar("Function", bound=Callable[..., Any])
IN_INTERPRETER = not isinstance(forward_kernel, triton.JITFunction)
INTERPRETER_LOCK = threading.RLock()


class _Unchanged(nullcontext[None]):
    """A context without effect, that decorates without cost."""

    def __call__(self, function: Function) -> Function:
        return function


def faithful() -> "_Unchanged | _GeneratorContextManager[None]":
    """Correct the interpreter for the duration of the context, which may be nested; it is also a decorator."""
    return _corrected() if IN_INTERPRETER else _Unchanged()


@contextmanager
def _corrected() -> Iterator[None]:
    builder = import_module("triton.runtime.interpreter").InterpreterBuilder
    with INTERPRETER_LOCK:
        corrections = _corrections(builder.cast_impl, builder.create_fma)
        before = {name: vars(builder).get(name) for name in corrections}
        for name, correction in corrections.items():
            setattr(builder, name, correction)
        try:
            yield
        finally:
            for name, method in before.items():
                if method is None:
                    delattr(builder, name)
                else:
                    setattr(builder, name, method)


def _corrections(cast: Any, multiply_add: Any) -> dict[str, Any]:
    """The methods of the interpreter to be replaced, by name; `cast` and `multiply_add` are its own, for all other dtypes."""
    # Not by import statements: whoever loads a published file would have to install what they name.
    np, ir = import_module("numpy"), import_module("triton._C.libtriton").ir
    TensorHandle = import_module("triton.runtime.interpreter").TensorHandle  # noqa: N806

    def _widened(handle: Any) -> Any:
        return (handle.data.astype(np.uint32) << 16).view(np.float32) if handle.dtype.scalar == tl.bfloat16 else handle.data

    def _dot(_builder: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        with np.errstate(invalid="ignore", over="ignore"):  # a GPU says nothing of rows that overflow and are stored nowhere
            product = np.matmul(_widened(a), _widened(b), dtype=d.data.dtype)
        return TensorHandle(product + d.data, d.dtype.scalar)

    def _cast(builder: Any, source: Any, wanted: Any) -> Any:
        if source.dtype.scalar != tl.float32 or wanted.scalar != tl.bfloat16:
            return cast(builder, source, wanted)
        rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16()
        return TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), wanted.scalar)

    def _fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
        if z.data.dtype != np.float32:
            return multiply_add(builder, x, y, z)
        exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
        return TensorHandle(exact.astype(np.float32), z.dtype.scalar)

    def _reduce(builder: Any, kind: Any, descriptor: Any, value: Any, offsets: Any) -> None:
        if kind != ir.DESCRIPTOR_REDUCE_KIND.ADD:
            raise NotImplementedError(f"the interpreter's descriptors only add, but {kind} is wanted")
        pointers, mask = descriptor.materialize_pointers(offsets)
        builder.create_atomic_rmw(ir.ATOMIC_OP.FADD, pointers, value, mask, ir.MEM_SEMANTIC.RELAXED, None)

    return {"create_dot": _dot, "cast_impl": _cast, "create_fma": _fma, "create_descriptor_reduce": _reduce}
