"""What the first GPU run times: the fused kernels beside torch's, every tile that is not a default, float32, decoding and its host time.

One process has the GPU to itself. What decides most comes first, and every figure is written as soon as there is one. A rehearsal on the
CPU calls the same functions once, at small sizes, and times nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_tanhmax.attention.kernels.schedule import LEAST_ROWS, Kernel, tiles
from hf_tanhmax.errors import one_line

from ..attention.contenders import BASELINE, Contender, named, output_of, softmax
from ..attention.gpu import FLOPS, inputs
from ..attention.gpu_contenders import softmax_cudnn
from ..attention.gpu_plan import Setting
from ..measure import CudaMeter
from .cases import HEAD_DIMS
from .forced import HOPPER, TIMED_KERNELS, atomic, environment, least_share, row, rows

ROUNDS = 12
HOST_CALLS = 200
LENGTHS = (8192, 2048)
Manager = Callable[[], AbstractContextManager[None]]
Timer = Callable[[Callable[[], object]], float | None]
DECODING = ((1, 2048), (1, 32768), (8, 8192), (64, 2048))  # batch, keys


def speeds(device: str) -> Iterator[dict[str, Any]]:
    """One row after the other: `speed` says what, then milliseconds and TFLOP/s, or `error`."""
    timer = _timed if device == "cuda" else _rehearsed
    for setting, name, function, manager in _contenders(device):
        yield {"speed": f"{_label(setting)}, {name}"} | _guarded(partial(_both_passes, setting, function, manager, timer, device))
    for batch, keys in DECODING if device == "cuda" else ((1, 37),):
        for name, call in _decoding(batch, keys, device).items():
            label = f"decode, batch {batch}, {keys} keys, {name}"
            yield {"speed": label} | _guarded(partial(_decoded, call, timer, device))


def _guarded(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return measure()
    except Exception as error:  # whatever stops one contender must not stop the others
        return {"error": f"{type(error).__name__}: {one_line(error)}"[:300]}


def _contenders(device: str) -> Iterator[tuple[Setting, str, Contender, Manager]]:
    """Settings with who is timed in each. Default tiles are bound by shared memory: the rows that are not come right behind them."""
    fused = named("triton")
    everyone: dict[str, Contender] = {"flash": flash, "cuDNN": softmax_cudnn} if device == "cuda" else {BASELINE: softmax}
    everyone |= {"fused": fused, "fused softmax twin": named("triton", polarity=0.0)}
    settings = list(_settings(device))
    for setting in settings:
        for name, function in everyone.items():
            yield setting, name, function, nullcontext
        if setting.causal and setting.length == settings[-1].length:
            yield setting, "fused, additive mask", faded, nullcontext
            yield setting, "fused, boolean mask", kept, nullcontext
            yield setting, "fused, balanced", named("triton", shift="balanced", polarity=0.2), nullcontext
        for kernel, number in _promising(setting.head_dim) if setting.length == settings[0].length else ():
            yield setting, f"{kernel} row {number}", fused, partial(row, kernel, number)
    for precision in ("highest", "high"):
        setting = _small(Setting("float32", 32, 12, 12, 128, 64, False), device)  # BERT-base, by the Trainer's default
        for name, function in {BASELINE: softmax, "fused": fused, "reference": named("reference")}.items():
            yield setting, f"{name}, {precision}", function, partial(_precision, precision)
        if precision == "highest":
            yield setting, "fused, highest, split products", fused, partial(environment, "HF_TANHMAX_FLOAT32", "tf32x3")
    setting = Setting("bfloat16", 1, 32, 1, 8192, 64, True) if device == "cuda" else Setting("bfloat16", 1, 2, 1, 24, 64, True)
    yield setting, "fused, one key head", fused, partial(least_share, LEAST_ROWS if device == "cuda" else 1)
    yield setting, "fused, one key head, not split", fused, partial(least_share, 1 << 62)
    for setting in settings:
        if setting.length == settings[0].length and setting.causal:
            for kernel in TIMED_KERNELS:
                for number in rows(kernel, setting.head_dim):
                    yield setting, f"{kernel} row {number}", fused, partial(row, kernel, number)
            yield setting, "backward pass in one kernel", fused, atomic


def _settings(device: str) -> Iterator[Setting]:
    for length in LENGTHS:
        for head_dim in HEAD_DIMS:
            for causal in (True, False):
                heads = 2048 // head_dim
                setting = Setting("bfloat16", 16384 // length, heads, heads, length, head_dim, causal)
                if device == "cuda" or length == LENGTHS[0]:
                    yield _small(setting, device)


def _small(setting: Setting, device: str) -> Setting:
    """The setting itself, or what stands for it in a rehearsal."""
    return setting if device == "cuda" else Setting(setting.dtype, 1, 1, 1, 24, setting.head_dim, setting.causal)


def _promising(head_dim: int) -> Iterator[tuple[Kernel, int]]:
    sizes: dict[Kernel, tuple[int, int]] = {"forward": (128, 128), "key_value": (64, 128)}
    for kernel, size in sizes.items():
        known = tiles(kernel, head_dim, 2, HOPPER)
        yield from ((kernel, number) for number in rows(kernel, head_dim) if (known[number].rows, known[number].columns) == size)


def flash(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """torch's softmax attention by FlashAttention and nothing else."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return softmax(query, key, value, causal)


def faded(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """The fused kernels with a padding mask to add, which hides nothing: what it costs to add one."""
    mask = query.new_zeros(query.shape[0], 1, 1, key.shape[2])
    return output_of(query, key, value, is_causal=causal, additive_mask=mask, implementation="triton")


def kept(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """The fused kernels with a boolean mask of all scores that hides one key in eight: no block of keys is kept whole."""
    positions = torch.arange(key.shape[2], device=key.device)
    mask = ((positions[:, None] + positions) % 8 > 0).view(1, 1, *[key.shape[2]] * 2)
    return output_of(query, key, value, is_causal=causal, keep=mask, implementation="triton")


@contextmanager
def _precision(word: str) -> Iterator[None]:
    """Float32 products as torch is told in one word."""
    torch.set_float32_matmul_precision(word)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def _label(setting: Setting) -> str:
    shape = f"({setting.batch}, {setting.heads}, {setting.length}, {setting.head_dim})"
    return f"{setting.dtype} {shape}{' causal' if setting.causal else ''}"


_meter = cache(CudaMeter)


def _timed(call: Callable[[], object]) -> float:
    """Median in milliseconds from a flushed cache, once what has to be compiled is."""
    meter = _meter()  # one for all: it holds 2 GiB
    call()
    call()
    found = []
    for _ in range(ROUNDS):
        started = meter.start()
        call()
        found.append(meter.milliseconds(started))
    return sorted(found)[ROUNDS // 2]


def _rehearsed(call: Callable[[], object]) -> None:
    call()


def _both_passes(setting: Setting, function: Contender, manager: Manager, timer: Timer, device: str) -> dict[str, Any]:
    tensors = inputs(setting, device)
    query, key, value = leaves = [tensor.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for tensor in tensors[:3]]

    def _forward() -> None:
        with torch.no_grad():
            function(query, key, value, setting.causal)

    with manager():
        found = {"forward": timer(_forward)}
        output = function(query, key, value, setting.causal)
        found["backward"] = timer(lambda: torch.autograd.grad(output, leaves, tensors[3], retain_graph=True))
    operations = {what: FLOPS[what] * setting.head_dim * setting.scores * 1e-9 for what in found}
    rates = {f"{what}_tflops": operations[what] / ms for what, ms in found.items() if ms}
    return {f"{what}_ms": ms for what, ms in found.items()} | rates


def _decoding(batch: int, keys: int, device: str) -> dict[str, Callable[[], object]]:
    heads, kv_heads, dim = (32, 8, 128) if device == "cuda" else (2, 1, 64)
    query = torch.randn(batch, heads, 1, dim, device=device, dtype=torch.bfloat16)
    key, value = torch.randn(2, batch, kv_heads, keys, dim, device=device, dtype=torch.bfloat16)
    calls = {BASELINE: softmax, "decode": named("decode"), "decode softmax twin": named("decode", polarity=0.0)}
    calls["decode, balanced"] = named("decode", shift="balanced", polarity=0.2)
    return {name: partial(call, query, key, value, False) for name, call in calls.items()}


def _decoded(call: Callable[[], object], timer: Timer, device: str) -> dict[str, Any]:
    with torch.no_grad():
        found: dict[str, Any] = {"ms": timer(call)}
        if device == "cuda":
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(HOST_CALLS):
                call()
            found["host_us"] = (time.perf_counter() - began) / HOST_CALLS * 1e6
            torch.cuda.synchronize()
    return found
