"""`tanhmax_attention`: the one door to TanhMax attention. Arguments are checked here and nowhere below; implementations are chosen here."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..functional import check_added, check_keep, check_polarity, log_polarity
from .composed.identities import composed_attention
from .cpu.blocked import BlockedProblem
from .cpu.operator import why_not_native
from .kernels.support import decodable, decode_unsupported, fused_unsupported
from .mask import Visibility, packed_segments
from .ops import blocked_attention, decode_attention, fused_attention
from .paged_cache import Paging, checked_paging
from .reference import reference_attention

Causal = bool | Literal["upper_left", "lower_right"]
IMPLEMENTATIONS = ("reference", "composed", "triton", "cpu")
INFERENCE_ONLY = ("decode",)
# What "auto" tries, by type of device, before the reference.
AUTOMATIC = {"cpu": ("cpu",), "cuda": ("triton", "composed")}


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `tanhmax_attention`, as they came."""

    keep: Tensor | None
    bias: Tensor | None
    additive_mask: Tensor | None
    is_causal: Causal
    scale: float | None
    window: int | None
    softcap: float | None
    dropout_p: float
    polarity: float | Tensor
    cu_seqlens: Tensor | None
    block_table: Tensor | None
    return_weights: bool


@dataclass(frozen=True)
class Call:
    """One checked call: everything an implementation may need, with polarity as a number or `[heads]`."""

    query: Tensor
    key: Tensor
    value: Tensor
    visibility: Visibility
    paging: Paging | None
    bias: Tensor | None
    additive_mask: Tensor | None
    scale: float
    softcap: float | None
    dropout_p: float
    polarity: float | Tensor
    return_weights: bool

    @property
    def polarities(self) -> Tensor:
        """The polarity as `[heads]`, in float32 or float64."""
        if isinstance(self.polarity, Tensor):
            return self.polarity
        exact = torch.promote_types(self.query.dtype, torch.float32)
        return torch.full((self.query.shape[1],), self.polarity, dtype=exact, device=self.query.device)

    @property
    def needs_gradient(self) -> bool:
        """Whether anything that is computed with is to be differentiated."""
        tensors = (self.query, self.key, self.value, self.bias, self.additive_mask, self.polarity)
        return torch.is_grad_enabled() and any(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors)

    @property
    def wishes(self) -> dict[str, Any]:
        """What is wanted besides the output, as `decodable` asks for it."""
        return {"needs_gradient": self.needs_gradient, "dropout_p": self.dropout_p, "packed": self.visibility.segments is not None}


def tanhmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    keep: Tensor | None = None,
    bias: Tensor | None = None,
    additive_mask: Tensor | None = None,
    is_causal: Causal = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    polarity: float | Tensor = 1.0,
    cu_seqlens: Tensor | None = None,
    block_table: Tensor | None = None,
    implementation: str = "auto",
    return_weights: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention whose weights are signed: `tanhmax(softcap(scale * Q K^T) + bias, additive_mask) V` (Huang et al. 2024).

    Args:
        query: `[batch, heads, queries, head_dim]`, of one dtype with key and value; under autocast different ones become autocast's.
        key: `[batch, kv_heads, keys, head_dim]`; `kv_heads` divides `heads` (GQA).
        value: `[batch, kv_heads, keys, value_dim]`.
        keep: boolean, broadcasts to `[batch, heads, queries, keys]`; True takes part. A query that keeps no key gets output 0.
        bias: floating point, broadcasts likewise; added to the scores after the softcap, so it may turn their signs. Differentiable.
        additive_mask: floating point, broadcasts likewise; what softmax attention adds to its scores to hide keys, or to fade them by
            position. It turns no sign, but multiplies the share of a key: with scores a (the bias included), mask m and polarity p,
            `w_j = e^m_j (e^a_j - p e^-a_j) / sum_k e^m_k (e^a_k + p e^-a_k)`. Values of -9000 and less hide as `keep` does. Differentiable.
        is_causal: hide later keys. True and `"upper_left"` put the first query at the first key; `"lower_right"` puts the last query
            at the last key, as in a chunk appended to a cache.
        scale: multiplies query times key; None is `head_dim ** -0.5`.
        window: a query sees the `window` keys up to its own if causal, else also `window - 1` later ones.
        softcap: scores become `softcap * tanh(scores / softcap)`.
        dropout_p: share of the weights set to 0, the others divided by `1 - dropout_p`; give 0 in evaluation.
        polarity: 1 is TanhMax, 0 softmax; a number in [0, 1] or a differentiable tensor `[heads]`.
        cu_seqlens: int32 or int64 `[sequences + 1]`, the bounds of sequences packed into a batch of one; no sequence sees another. With a
            `block_table`, the bounds of the batch entries' keys.
        block_table: int32 or int64; key and value are then blocks of a paged cache, `[blocks, kv_heads, keys of a block, dim]`, and this
            counts those of each entry, `[batch, blocks]`, or, if blocks hold one key, of one entry after the other. `is_causal` is False or
            `"lower_right"`, and there is no keep, no bias and no additive mask.
        implementation: a name runs or raises. `"auto"` is `"cpu"` on the CPU, `"triton"` on CUDA where it can run (`why_not` says why it
            cannot), else `"composed"`, and `"reference"` where weights are wanted, where `"composed"` would lack dropout or softcap, and
            in `torch.export`, `torch.onnx.export` and `torch.jit.trace`, which write for runtimes that have no operators but torch's.
            `"triton"` is `"decode"` where that can run: 1 to 16 queries without gradients, whose keys are read once, by all of the GPU,
            and through the block table. The reference gathers blocks first, and the others take none.
        return_weights: also return the weights `[batch, heads, queries, keys]`; only the reference has them. Gradients pass through them,
            in the dtype of the query.

    Returns:
        Output `[batch, heads, queries, value_dim]` in the dtype of the query, and the weights if wanted.

    Raises:
        ValueError, TypeError: an argument that does not fit; the sentence names it.
        NotImplementedError: a named implementation that does not do what is asked.
    """
    masks, packing = (keep, bias, additive_mask, is_causal), (cu_seqlens, block_table)
    options = Options(*masks, scale, window, softcap, dropout_p, polarity, *packing, return_weights)
    call = _checked(query, key, value, options)
    name = _chosen(implementation, call)
    if not _autocasts(query.device.type):
        return _run(name, call)
    # An implementation chooses its own precision: autocast inside it would round scores and weights to half.
    with torch.autocast(query.device.type, enabled=False):
        return _run(name, call)


def why_not(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    keep: Tensor | None = None,
    bias: Tensor | None = None,
    additive_mask: Tensor | None = None,
    is_causal: Causal = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    polarity: float | Tensor = 1.0,
    cu_seqlens: Tensor | None = None,
    block_table: Tensor | None = None,
    implementation: str = "triton",
    return_weights: bool = False,
) -> str | None:
    """Why an implementation would not run a call of `tanhmax_attention` with these arguments, as a sentence; None if it would.

    Of `"native"`, the C++ operator: why `"cpu"` would not use it for this call.

    Raises:
        ValueError, TypeError: an argument that does not fit, as in `tanhmax_attention`.
    """
    masks, packing = (keep, bias, additive_mask, is_causal), (cu_seqlens, block_table)
    options = Options(*masks, scale, window, softcap, dropout_p, polarity, *packing, return_weights)
    if implementation != "native":
        _check_name(implementation)
    call = _checked(query, key, value, options)
    reason = unsupported("cpu", call) or _native_unsupported(call) if implementation == "native" else unsupported(implementation, call)
    return None if reason is None else f"implementation={implementation!r} {reason}"


def _checked(query: Tensor, key: Tensor, value: Tensor, options: Options) -> Call:
    if query.dtype != value.dtype or key.dtype != value.dtype:
        query, key, value = _cast_alike(query, key, value)
    _check_tensors(query, key, value, paged=options.block_table is not None)
    keep, bias, additive = options.keep, options.bias, options.additive_mask
    paging = None if options.block_table is None else _paging(query, key, options)
    if keep is not None:
        check_keep(keep, _score_shape(query, key), "[batch, heads, queries, keys]")
        _check_device("keep", keep, query)
    for name, added in (("bias", bias), ("additive_mask", additive)):
        if added is not None:
            check_added(name, added, _score_shape(query, key), "[batch, heads, queries, keys]")
            _check_device(name, added, query)
    _check_numbers(options.window, options.softcap, options.dropout_p)
    return Call(
        query=query,
        key=key,
        value=value,
        visibility=_visibility(query, key, options),
        paging=paging,
        bias=None if bias is None else bias[(None,) * (4 - bias.dim())],
        additive_mask=None if additive is None else additive[(None,) * (4 - additive.dim())],
        scale=query.shape[-1] ** -0.5 if options.scale is None else options.scale,
        softcap=options.softcap,
        dropout_p=options.dropout_p,
        polarity=_checked_polarity(options.polarity, query),
        return_weights=options.return_weights,
    )


def _chosen(implementation: str, call: Call) -> str:
    if implementation == "auto":
        names = () if _exporting() else AUTOMATIC.get(call.query.device.type, ("composed",))
        return next((name for name in names if unsupported(name, call) is None), "reference")
    _check_name(implementation)
    reason = unsupported(implementation, call)
    if reason is not None:
        raise NotImplementedError(f"implementation={implementation!r} {reason}; use implementation='auto' or 'reference'")
    return implementation


def _exporting() -> bool:
    """Whether the call is recorded for another runtime, which knows torch's operators and not those of `ops`."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def _autocasts(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def _check_name(implementation: str) -> None:
    if implementation not in (names := (*IMPLEMENTATIONS, *INFERENCE_ONLY)):
        raise ValueError(f"unknown implementation {implementation!r}; there are auto, {', '.join(names)}")


def unsupported(implementation: str, call: Call) -> str | None:
    """Why an implementation cannot run a call, as the end of a sentence; None if it can."""
    if implementation == "reference":
        return None
    if call.return_weights:
        return "has no weights to return"
    if implementation in ("triton", "decode") and call.bias is not None and call.additive_mask is not None:
        return "takes a bias or an additive mask, but both are given"
    if implementation == "decode" or (implementation == "triton" and call.paging is not None):
        return decode_unsupported(call.query, call.value, **call.wishes)
    if implementation == "triton":
        return fused_unsupported(call.query, call.value)
    if call.paging is not None:
        return "reads no block table"
    if implementation == "cpu" and call.query.device.type != "cpu":
        return f"runs on the CPU alone, but the tensors are on {call.query.device}"
    if implementation == "composed" and call.softcap is not None:
        return "has no softcap: stock softmax kernels lack it"
    if implementation == "composed" and call.dropout_p > 0:
        return "has no dropout: a softmax kernel would drop the two halves of a weight separately"
    return None


def _native_unsupported(call: Call) -> str | None:
    tensors = (call.query, call.key, call.value, log_polarity(call.polarities), call.visibility, call.bias, call.additive_mask)
    return why_not_native(BlockedProblem(*tensors, call.scale, call.softcap, call.dropout_p, None))


def reads_blocks(query: Tensor, value: Tensor) -> bool:
    """Whether `"auto"` reads a block table with such tensors where it lies, if no weights are wanted; else keys are to be gathered."""
    needs_gradient = torch.is_grad_enabled() and (query.requires_grad or value.requires_grad)
    if "triton" not in AUTOMATIC.get(query.device.type, ()) or not decodable(
        query, needs_gradient=needs_gradient, dropout_p=0.0, packed=False
    ):
        return False
    return fused_unsupported(query, value) is None


def _run(implementation: str, call: Call) -> Tensor | tuple[Tensor, Tensor]:
    tensors, visibility = (call.query, call.key, call.value), call.visibility
    constant = not isinstance(call.polarity, Tensor) and call.polarity in (0.0, 1.0)
    if implementation == "decode" or (implementation == "triton" and decodable(call.query, **call.wishes)):
        log_p = None if constant else log_polarity(call.polarities)
        blocks = (None, None) if call.paging is None else (call.paging.block_table, call.paging.bounds)
        seen = (call.bias, call.additive_mask, visibility.keep, *blocks, visibility.causal, visibility.offset, visibility.window)
        return decode_attention(*tensors, log_p, *seen, call.scale, call.softcap, call.polarity == 1.0 if constant else True)[0]
    if implementation in ("cpu", "triton"):
        seed = torch.randint(2**62, (), device=call.query.device) if call.dropout_p > 0 else None
        masks = (call.bias, call.additive_mask, visibility.keep, visibility.segments, seed)
        rest = (visibility.causal, visibility.offset, visibility.window, call.scale, call.softcap, call.dropout_p)
        if implementation == "cpu":
            return blocked_attention(*tensors, log_polarity(call.polarities), *masks, *rest)[0]
        log_p = None if constant else log_polarity(call.polarities)
        return fused_attention(*tensors, log_p, *masks, *rest, call.polarity == 1.0 if constant else True)[0]
    if call.paging is not None:
        tensors, visibility = call.paging.gathered(*tensors, visibility)
    if implementation == "composed" and call.key.numel() and call.query.numel():  # stock kernels stop the process at 0 keys
        return composed_attention(
            *tensors,
            visibility,
            bias=call.bias,
            additive_mask=call.additive_mask,
            scale=call.scale,
            polarity=call.polarities,
        )
    output, weights = reference_attention(
        *tensors,
        visibility,
        bias=call.bias,
        additive_mask=call.additive_mask,
        scale=call.scale,
        softcap=call.softcap,
        dropout_p=call.dropout_p,
        polarity=call.polarity,
        return_weights=call.return_weights,
    )
    return output if weights is None else (output, weights)


def _score_shape(query: Tensor, key: Tensor) -> tuple[int, int, int, int]:
    return query.shape[0], query.shape[1], query.shape[2], key.shape[2]


def _check_tensors(query: Tensor, key: Tensor, value: Tensor, *, paged: bool) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} must be [batch, heads, length, head_dim], but has shape {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, but is {tensor.dtype}")
        if tensor.dtype != query.dtype:
            raise TypeError(f"query, key and value must have one dtype, but {name} is {tensor.dtype} and query is {query.dtype}")
        _check_device(name, tensor, query)
    if (query.shape[0] != key.shape[0] and not paged) or key.shape[:3] != value.shape[:3]:
        raise ValueError(
            "query, key and value must agree in batch, and key and value in heads and length, but have shapes "
            f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        )
    if query.shape[3] != key.shape[3]:
        raise ValueError(f"query and key must have one head size, but have {query.shape[3]} and {key.shape[3]}")
    if key.shape[1] == 0 or query.shape[1] % key.shape[1]:
        raise ValueError(f"the {key.shape[1]} key heads must divide the {query.shape[1]} query heads")


def _cast_alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of several dtypes in autocast's, if it is on and would cast them for torch's own attention; else as they are."""
    kind = tensors[0].device.type
    if not _autocasts(kind) or any(tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16) for tensor in tensors):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)


def _check_device(name: str, tensor: Tensor, query: Tensor) -> None:
    if tensor.device != query.device:
        raise ValueError(f"{name} is on {tensor.device}, but query is on {query.device}; move one of them")


def _check_numbers(window: int | None, softcap: float | None, dropout_p: float) -> None:
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, as a query sees its own key, but is {window}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be positive, but is {softcap}")
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must be in [0, 1), but is {dropout_p}")


def _visibility(query: Tensor, key: Tensor, options: Options) -> Visibility:
    is_causal, keep = options.is_causal, options.keep
    if is_causal not in (False, True, "upper_left", "lower_right"):
        raise ValueError(f'is_causal must be a bool, "upper_left" or "lower_right", but is {is_causal!r}')
    queries, keys = query.shape[2], key.shape[2]
    return Visibility(
        queries=queries,
        keys=keys,
        causal=bool(is_causal),
        offset=keys - queries if is_causal == "lower_right" else 0,
        window=options.window,
        keep=None if keep is None else keep[(None,) * (4 - keep.dim())],
        segments=None if options.cu_seqlens is None or options.block_table is not None else packed_segments(options.cu_seqlens, query, key),
    )


def _paging(query: Tensor, key: Tensor, options: Options) -> Paging:
    for name, given in (("keep", options.keep), ("bias", options.bias), ("additive_mask", options.additive_mask)):
        if given is not None:
            raise ValueError(f"with a block_table there is no {name}: cu_seqlens says how many keys each entry has")
    if options.is_causal not in (False, "lower_right") or (options.window is not None and not options.is_causal):
        raise ValueError(
            'with a block_table is_causal must be "lower_right", or False without a window, as the last query is at the last key; '
            f"but is_causal is {options.is_causal!r} and window {options.window}"
        )
    return checked_paging(options.block_table, options.cu_seqlens, query, key)  # type: ignore[arg-type]


def _checked_polarity(polarity: float | Tensor, query: Tensor) -> float | Tensor:
    heads, exact = query.shape[1], torch.promote_types(query.dtype, torch.float32)
    checked = check_polarity(polarity)
    if not isinstance(checked, Tensor):
        return checked
    if checked.dim() > 1 or checked.numel() not in (1, heads):
        raise ValueError(f"a polarity tensor must be a scalar or [heads] = [{heads}], but has shape {tuple(checked.shape)}")
    _check_device("polarity", checked, query)
    return checked.to(exact).expand(heads)
