"""The correctness cases of the first GPU run: attention against float64; CUDA graphs, synchronisation and equal bits.

A case is a function without arguments that returns the relative errors it found and the limit that none may pass. Without a GPU the kernels
run in Triton's interpreter, at small sizes, and the cases that need one are not there.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import hf_tanhmax
from hf_tanhmax.attention.composed.identities import composed_attention
from hf_tanhmax.attention.mask import AttentionMask

from ..attention.contenders import LIMITS, output_of
from .forced import TIMED_KERNELS, atomic, environment, least_share, row, rows

HEAD_DIMS = (64, 128)
CRASH = "crash"  # ends its process without a word, as an illegal access does; run only by name
STOCK = ("flash", "cudnn", "efficient")  # the first takes no mask
SMALL: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "vocab_size": 512}


@dataclass(frozen=True)
class Outcome:
    """Relative errors, each of which is to be at most the limit; a case that is right or wrong has an error of 0 or 1, and the limit 0."""

    errors: list[float]
    limit: float

    @property
    def right(self) -> bool:
        """Whether no error is above the limit, or not a number."""
        return all(error <= self.limit for error in self.errors)


Case = Callable[[], Outcome]


@dataclass(frozen=True)
class Shape:
    """Sizes of query, key and value; odd and unequal by default. `heads_first` lays them out so in memory, else the length comes first."""

    device: str
    queries: int
    keys: int
    head_dim: int = 64
    value_dim: int | None = None
    dtype: torch.dtype = torch.bfloat16
    batch: int = 2
    heads: int = 4
    kv_heads: int = 2
    heads_first: bool = False

    def tensors(self) -> list[Tensor]:
        """Query, key and value, normally distributed, which want gradients."""
        sizes = [(self.heads, self.queries, self.head_dim), (self.kv_heads, self.keys, self.head_dim)]
        sizes.append((self.kv_heads, self.keys, self.value_dim or self.head_dim))
        found = []
        for heads, length, dim in sizes:
            if self.heads_first:
                tensor = torch.randn(self.batch, heads, length, dim, device=self.device)
            else:
                tensor = torch.randn(self.batch, length, heads, dim, device=self.device).transpose(1, 2)
            found.append(tensor.to(self.dtype).requires_grad_())
        return found


def cases(device: str) -> dict[str, Case]:
    """All cases by name, for `cuda` or for a rehearsal on `cpu`."""
    shape = Shape(device, 301, 333) if device == "cuda" else Shape(device, 20, 37)
    found = _attention_cases(shape) | _decoding_cases(shape) | _model_cases(shape)
    if device == "cuda":
        found |= _row_cases(shape) | _device_cases(shape)
        found |= {f"stock {kernel}": partial(stock, shape, kernel) for kernel in STOCK}
        found |= {f"stock {kernel}, mask": partial(lambda each: stock(shape, each, keep=_padded(shape)), kernel) for kernel in STOCK[1:]}
    return found | {CRASH: os.abort}


def compared(shape: Shape, *, limit: float | None = None, **arguments: Any) -> Outcome:
    """Output and all gradients of the fused kernels, those of floating-point arguments included."""
    tensors = shape.tensors()
    narrow, wide = (_arguments(arguments, dtype) for dtype in (torch.float32, torch.float64))
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    found = output_of(*tensors, implementation="triton", **narrow)
    expected = output_of(*exact, implementation="reference", **wide)
    upstream = torch.randn(found.shape, device=shape.device).to(found)
    gradients = torch.autograd.grad(found, [*tensors, *_leaves(narrow)], upstream)
    wanted = torch.autograd.grad(expected, [*exact, *_leaves(wide)], upstream.double())
    errors = [relative_error(one, other) for one, other in zip((found, *gradients), (expected, *wanted), strict=True)]
    return Outcome(errors, LIMITS[shape.dtype] if limit is None else limit)


def decoded(shape: Shape, **arguments: Any) -> Outcome:
    """The output of the decoding kernels."""
    with torch.no_grad():
        tensors = shape.tensors()
        found = output_of(*tensors, implementation="decode", **arguments)
        expected = output_of(*(tensor.double() for tensor in tensors), implementation="reference", **arguments)
    return Outcome([relative_error(found, expected)], LIMITS[shape.dtype])


def stock(shape: Shape, kernel: str, keep: Tensor | None = None) -> Outcome:
    """TanhMax by two calls of one of torch's softmax kernels; cuDNN may have no plan for a mask and an odd number of keys."""
    query, key, value = tensors = shape.tensors()
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    polarity = torch.ones(shape.heads, device=shape.device)
    scale = shape.head_dim**-0.5
    mask = AttentionMask(shape.queries, shape.keys, keep=keep)
    found = composed_attention(query, key, value, mask, scale=scale, polarity=polarity, kernel=kernel)
    expected = output_of(*exact, implementation="reference", keep=keep)
    upstream = torch.randn_like(found)
    gradients = torch.autograd.grad(found, tensors, upstream), torch.autograd.grad(expected, exact, upstream.double())
    pairs = [(found, expected), *zip(*gradients, strict=True)]
    return Outcome([relative_error(one, other) for one, other in pairs], 5e-2)  # its two halves are rounded before they cancel


def relative_error(found: Tensor, expected: Tensor) -> float:
    """In the Frobenius norm, against a float64 value."""
    return ((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)).item()


def _arguments(arguments: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        name: item.detach().to(dtype, copy=True).requires_grad_() if isinstance(item, Tensor) and item.is_floating_point() else item
        for name, item in arguments.items()
    }


def _leaves(arguments: dict[str, Any]) -> list[Tensor]:
    return [item for item in arguments.values() if isinstance(item, Tensor) and item.requires_grad]


def _padded(shape: Shape) -> Tensor:
    kept = torch.arange(shape.keys, device=shape.device) < shape.keys * 4 // 5
    return kept.view(1, 1, 1, shape.keys).expand(shape.batch, 1, 1, shape.keys)


def _faded_padding(shape: Shape) -> Tensor:
    """The padding of a batch as Transformers adds it to scores: the smallest number hides a key."""
    return torch.zeros(shape.batch, 1, 1, shape.keys, device=shape.device).masked_fill(~_padded(shape), torch.finfo(shape.dtype).min)


def _position_bias(shape: Shape) -> Tensor:
    """As T5 adds it to scores: a number for each head and distance, and the padding of each batch entry."""
    distances = torch.arange(shape.queries, device=shape.device)[:, None] - torch.arange(shape.keys, device=shape.device)
    table = torch.randn(shape.heads, shape.queries + shape.keys, device=shape.device)
    return table[:, distances + shape.keys] + _faded_padding(shape)


def _attention_cases(shape: Shape) -> dict[str, Case]:
    def _keep() -> Tensor:
        return torch.rand(shape.batch, 1, shape.queries, shape.keys, device=shape.device) > 0.3

    def _bias() -> Tensor:
        return torch.randn(1, shape.heads, shape.queries, shape.keys, device=shape.device)

    def _case(changes: dict[str, Any], arguments: Callable[[], dict[str, Any]]) -> Case:
        return lambda: compared(replace(shape, **changes), **arguments())

    def _everything(added: str) -> dict[str, Any]:
        return {"is_causal": "lower_right", "window": 50, "softcap": 5.0, "keep": _keep(), added: _bias(), "polarity": 0.5}

    masks: dict[str, Callable[[], dict[str, Any]]] = {
        "full": dict,
        "causal": lambda: {"is_causal": "lower_right"},
        "softmax": lambda: {"polarity": 0.0},
        "window": lambda: {"is_causal": "lower_right", "window": 50},
        "keep": lambda: {"keep": _keep()},
        "padding": lambda: {"keep": _padded(shape), "is_causal": "lower_right"},
        "softcap": lambda: {"softcap": 5.0},
        "bias": lambda: {"bias": _bias()},
        "polarity per head": lambda: {"polarity": torch.rand(shape.heads, device=shape.device)},
        "additive": lambda: {"additive_mask": _bias()},
        "additive, softmax": lambda: {"additive_mask": _bias(), "polarity": 0.0},
        "additive padding": lambda: {"additive_mask": _faded_padding(shape), "is_causal": "lower_right"},
        "position bias": lambda: {"additive_mask": _position_bias(shape), "scale": 1.0},
        "everything": lambda: _everything("bias"),
        "everything, additive": lambda: _everything("additive_mask"),
        "balanced": lambda: {"shift": "balanced", "is_causal": "lower_right", "polarity": torch.rand(shape.heads, device=shape.device)},
    }
    found = {f"bfloat16 D{dim} {name}": _case({"head_dim": dim}, arguments) for dim in HEAD_DIMS for name, arguments in masks.items()}
    for dim in HEAD_DIMS:
        found[f"bfloat16 D{dim} heads first"] = _case({"head_dim": dim, "heads_first": True}, dict)
        found[f"bfloat16 D{dim} no groups"] = _case({"head_dim": dim, "kv_heads": shape.heads}, dict)
        found[f"bfloat16 D{dim} packed"] = partial(_packed, replace(shape, head_dim=dim, batch=1, keys=shape.queries))
    for dim in (16, 32, 80, 96, 256):
        found[f"bfloat16 D{dim}"] = _case({"head_dim": dim}, masks["causal"])
    found["bfloat16 D5, values of 3"] = _case({"head_dim": 5, "value_dim": 3}, dict)
    found["float16 D64"] = _case({"dtype": torch.float16}, dict)
    for dim in HEAD_DIMS:
        found[f"float32 D{dim}"] = _case({"head_dim": dim, "dtype": torch.float32}, dict)
        for name in ("causal", "additive", "balanced"):
            found[f"float32 D{dim} {name}"] = _case({"head_dim": dim, "dtype": torch.float32}, masks[name])
    for name in ("causal", "keep", "everything"):
        found[f"float32 D64 {name}, split"] = partial(_split, _case({"dtype": torch.float32}, masks[name]))
    found["float32 by TF32"] = partial(_tf32, replace(shape, dtype=torch.float32))
    for dim in HEAD_DIMS:  # one key head for all queries: the backward pass splits the group
        long = replace(shape, head_dim=dim, batch=1, heads=8, kv_heads=1, queries=4 * shape.queries, keys=4 * shape.queries)
        found[f"bfloat16 D{dim} one key head"] = partial(_one_key_head, long)
    return found


def _split(case: Case) -> Outcome:
    """A case in float32, multiplied as three TF32 products of split numbers, which keep 21 bits of 24."""
    with environment("HF_TANHMAX_FLOAT32", "tf32x3"):
        return replace(case(), limit=2e-5)


def _one_key_head(shape: Shape) -> Outcome:
    with least_share(shape.queries):
        return compared(shape, is_causal=True)


def _packed(shape: Shape) -> Outcome:
    bounds = torch.tensor([0, shape.queries // 3, shape.queries], device=shape.device)
    return compared(shape, is_causal=True, cu_seqlens=bounds)


def _tf32(shape: Shape) -> Outcome:
    torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]  # which torch's types leave out; as the Trainer does, told tf32=True
    try:
        return compared(shape, limit=5e-3)
    finally:
        torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]


def _decoding_cases(shape: Shape) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for dim in HEAD_DIMS:
        for queries in (1, 3, 16):
            long = replace(shape, head_dim=dim, queries=queries, keys=8 * shape.keys)
            found[f"decode D{dim} queries {queries}"] = partial(decoded, long, is_causal="lower_right")
        short = replace(shape, head_dim=dim, queries=3, keys=8 * shape.keys)
        found[f"decode D{dim} balanced"] = partial(decoded, short, is_causal="lower_right", shift="balanced", polarity=0.2)
        one, far = (replace(shape, head_dim=dim, queries=1, keys=keys) for keys in (shape.keys, 8 * shape.keys))
        found[f"decode D{dim} padding"] = partial(lambda each: decoded(each, keep=_padded(each)), one)
        found[f"decode D{dim} additive padding"] = partial(lambda each: decoded(each, additive_mask=_faded_padding(each)), one)
        found[f"decode D{dim} position bias"] = partial(lambda each: decoded(each, additive_mask=_position_bias(each), scale=1.0), far)
    return found


def _row_cases(shape: Shape) -> dict[str, Case]:
    """Every row of the table that is not its entry's first, with both masks that are timed: what they compile, timing finds compiled."""

    def _forced(manager: Callable[[], AbstractContextManager[None]], dim: int) -> Outcome:
        masks: tuple[dict[str, Any], ...] = ({}, {"is_causal": "lower_right"})
        with manager():
            both = [compared(replace(shape, head_dim=dim), **mask) for mask in masks]
        return Outcome([error for one in both for error in one.errors], both[0].limit)

    found: dict[str, Case] = {
        f"row {kernel} D{dim} {number}": partial(_forced, partial(row, kernel, number), dim)
        for dim in HEAD_DIMS
        for kernel in TIMED_KERNELS
        for number in rows(kernel, dim)
    }
    return found | {f"atomic D{dim}": partial(_forced, atomic, dim) for dim in HEAD_DIMS}


def _model_cases(shape: Shape) -> dict[str, Case]:
    found: dict[str, Case] = {"compiled": partial(_compiled, shape)}
    return found | {f"generate, {way}": partial(_written, shape, way) for way in ("dynamic", "static", "batch")}


def _compiled(shape: Shape) -> Outcome:
    backend = "inductor" if shape.device == "cuda" else "aot_eager"
    tensors = replace(shape, queries=shape.keys).tensors()

    def _loss(*given: Tensor) -> Tensor:
        return output_of(*given, is_causal=True, implementation="auto").float().square().sum()

    compiled = torch.compile(_loss, fullgraph=True, backend=backend)
    pairs = zip(*(torch.autograd.grad(loss(*tensors), tensors) for loss in (compiled, _loss)), strict=True)
    return Outcome([relative_error(*pair) for pair in pairs], 1e-2)


def _written(shape: Shape, way: str) -> Outcome:
    """Whether the fast path writes the tokens that the reference does."""
    from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**SMALL, num_hidden_layers=2, num_key_value_heads=2, eos_token_id=None)).eval().to(shape.device)
    model.set_attn_implementation("sdpa")
    hf_tanhmax.use_tanhmax(model)
    tokens = torch.randint(512, (2, shape.queries), device=shape.device)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    if way == "batch":
        config = GenerationConfig(**options, eos_token_id=-1)
        batching = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=512)
        answers = model.generate_batch(tokens.tolist(), generation_config=config, continuous_batching_config=batching)
        found = [answer.generated_tokens for answer in answers.values()]
    else:
        cache = {"cache_implementation": "static"} if way == "static" else {}
        found = _generated(model, tokens, options | cache)
    model.set_attn_implementation("eager")
    return Outcome([float(found != _generated(model, tokens, options))], 0.0)


def _generated(model: Any, tokens: Tensor, options: dict[str, Any]) -> list[list[int]]:
    return model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)[:, tokens.shape[1] :].tolist()


def _device_cases(shape: Shape) -> dict[str, Case]:
    return {
        "cuda graph": partial(_captured, shape),
        "no wait": partial(_unwaited, shape),
        "no wait, some heads": partial(_unwaited_heads, shape),
        "the same bits": partial(_repeated, shape),
    }


def _captured(shape: Shape) -> Outcome:
    """Both passes with dropout in a CUDA graph: a replay from the same seed gives the same bits."""
    tensors = shape.tensors()
    keep = _padded(shape)

    def _step() -> list[Tensor]:
        output = output_of(*tensors, keep=keep, is_causal=True, dropout_p=0.1, implementation="triton")
        return [output, *torch.autograd.grad(output.float().square().sum(), tensors)]

    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        _step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = _step()
    replays = []
    for _ in range(2):
        torch.cuda.manual_seed(1)
        graph.replay()
        replays.append([result.clone() for result in results])
    return Outcome([relative_error(one, other) for one, other in zip(*replays, strict=True)], 0.0)


@contextlib.contextmanager
def _no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _unwaited(shape: Shape) -> Outcome:
    tensors, keep = shape.tensors(), _padded(shape)
    for manager in (contextlib.nullcontext, _no_waiting):
        with manager():
            output_of(*tensors, keep=keep, dropout_p=0.1, polarity=0.5, implementation="triton").sum().backward()
    return Outcome([0.0], 0.0)


def _unwaited_heads(shape: Shape) -> Outcome:
    from transformers import LlamaConfig, LlamaModel

    model = LlamaModel(LlamaConfig(**SMALL, num_hidden_layers=1)).eval().to(shape.device, torch.bfloat16)
    model.set_attn_implementation("sdpa")
    tokens = torch.zeros(1, 9, dtype=torch.long, device=shape.device)
    with torch.no_grad(), hf_tanhmax.tanhmax_on(model, heads=[0, 2]):
        for manager in (contextlib.nullcontext, _no_waiting):
            with manager():
                model(tokens)
    return Outcome([0.0], 0.0)


def _repeated(shape: Shape) -> Outcome:
    tensors, runs = shape.tensors(), []
    for _ in range(50):
        output = output_of(*tensors, is_causal="lower_right", implementation="triton")
        runs.append(torch.autograd.grad(output.float().sum(), tensors))
    return Outcome([float(not torch.equal(one, other)) for run in runs for one, other in zip(runs[0], run, strict=True)], 0.0)
