"""Whether the fused kernels can run a call here, and if not, why not. No GPU is needed; Triton is imported only to see if it can be."""

import importlib
import importlib.util
import os
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

OLDEST, NEWEST = (3, 6), (3, 9)
OLDEST_CAPABILITY = (8, 0)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_HEAD = 256
MOST_QUERIES = 16
DEVICES = ("cuda", "xpu")
UNCHANGED = nullcontext()
MULTIPROCESSORS = 132  # of the GPU that the interpreter stands for
TOO_LATE = "has an interpreter, but TRITON_INTERPRET=1 was set after Triton was imported; set it before triton or hf_tanhmax is imported"


def fused_unsupported(query: Tensor, value: Tensor) -> str | None:
    """Why the fused kernels cannot run a call with these tensors, as the end of a sentence; None if they can."""
    if query.dtype not in DTYPES:
        return f"computes float16, bfloat16 and float32, but the tensors are {query.dtype}"
    for name, size in (("head_dim", query.shape[3]), ("value_dim", value.shape[3])):
        if size > LARGEST_HEAD or size == 0:
            return f"has head sizes from 1 to {LARGEST_HEAD}, but {name} is {size}"
    reason = triton_missing()
    return _device(query) if reason is None else reason


def decode_unsupported(query: Tensor, value: Tensor, *, needs_gradient: bool, dropout_p: float, packed: bool) -> str | None:
    """Why the decoding kernel cannot run a call, as the end of a sentence; None if it can.

    Args:
        query, value: as for `tanhmax_attention`.
        needs_gradient: whether anything that reaches the kernel is to be differentiated.
        dropout_p: share of the weights to drop.
        packed: whether sequences are packed into a batch of one.
    """
    if decodable(query, needs_gradient=needs_gradient, dropout_p=dropout_p, packed=packed):
        return fused_unsupported(query, value)
    if needs_gradient:
        return "has no gradient, but one is needed; call it under torch.no_grad(), or detach the tensors"
    if dropout_p > 0:
        return f"has no dropout, but dropout_p is {dropout_p}"
    if packed:
        return "has no packed sequences, but cu_seqlens is given without a block_table"
    return f"takes 1 to {MOST_QUERIES} queries, but there are {query.shape[2]}"


def decodable(query: Tensor, *, needs_gradient: bool, dropout_p: float, packed: bool) -> bool:
    """Whether the decoding kernel takes a call that the fused kernels take; arguments as in `decode_unsupported`.

    To a compiler with dynamic lengths this is one comparison. A sentence with the number of queries would tie the graph to that number.
    """
    return not (needs_gradient or dropout_p > 0 or packed) and 1 <= query.shape[2] <= MOST_QUERIES


def capability(device: torch.device) -> tuple[int, int] | None:
    """The compute capability of an NVIDIA GPU; None for any other device."""
    return _probe_capability(device.index or 0) if device.type == "cuda" and torch.version.hip is None else None


@cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU, or of the one that the interpreter stands for."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else MULTIPROCESSORS


def _device(query: Tensor) -> str | None:
    if query.device.type == "cpu" and _interpreter_asked():
        return None if interpreted() else TOO_LATE
    if query.device.type not in DEVICES:
        return f"runs on {' and '.join(DEVICES)} devices (and in Triton's interpreter), but the tensors are on {query.device}"
    return _capability(query.device.index or 0) if query.device.type == "cuda" else None


# To the compiler these answers are constants. It would trace through a cache, so the caches lie behind functions of their own.
@torch.compiler.assume_constant_result
def triton_missing() -> str | None:
    """Why there is no usable Triton, as the end of a sentence; None if there is one."""
    return probe_triton()


@torch.compiler.assume_constant_result
def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU. Of its own functions, which ours call, it decides when it is imported."""
    library = sys.modules.get("triton.language.standard")
    return _interpreter_asked() and (library is None or not isinstance(library.zeros, sys.modules["triton"].JITFunction))


@torch.compiler.assume_constant_result
def _interpreter_asked() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@torch.compiler.assume_constant_result
def _capability(index: int) -> str | None:
    have = _probe_capability(index)
    if have < OLDEST_CAPABILITY and torch.version.hip is None:
        return f"needs an NVIDIA GPU of compute capability {_dotted(OLDEST_CAPABILITY)} or newer, but this one has {_dotted(have)}"
    return None


@cache
def _probe_capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


@cache
def probe_triton() -> str | None:
    """The answer of `triton_missing`, computed once."""
    wanted = f"triton {_dotted(OLDEST)} to {_dotted(NEWEST)}"
    if importlib.util.find_spec("triton") is None:
        return f"needs {wanted}, which is not installed (pip install hf-tanhmax[triton])"
    try:
        module = importlib.import_module("triton")
        importlib.import_module("triton.language")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"needs {wanted}, but the installed one cannot be imported: {error}"
    have = tuple(int(part) for part in re.findall(r"\d+", module.__version__)[:2])
    if not OLDEST <= have <= NEWEST:
        return f"needs {wanted}, but {module.__version__} is installed"
    return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def device_of(tensor: Tensor) -> AbstractContextManager[None]:
    """Make the tensor's GPU the current one: Triton launches there, wherever the tensors are."""
    device = tensor.device
    if device.type == "cpu" or (device.type == "cuda" and torch.cuda.current_device() == device.index):
        return UNCHANGED
    return torch.get_device_module(tensor.device).device(tensor.device)
