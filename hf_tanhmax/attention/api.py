"""`tanhmax_attention` and `why_not`: check the arguments once, choose an implementation and run it."""

from importlib import import_module
from types import BuiltinFunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..functional import Shift
from .call import Call, Causal, autocasts, transforms
from .composed.balanced import balanced_attention
from .composed.identities import composed_attention
from .cpu.operator import why_not_native
from .cpu.problem import BlockedProblem
from .kernels.support import decodable, decode_unsupported, fused_unsupported
from .ops import called, decode_attention, fused_attention
from .portable import portable_attention
from .reference import reference_attention
from .sharing import share

IMPLEMENTATIONS = ("reference", "composed", "triton", "cpu", "portable")
INFERENCE_ONLY = ("decode",)
# What "auto" tries, by type of device, before the reference.
AUTOMATIC = {"cpu": ("cpu",), "cuda": ("triton", "composed")}
# Transforms of torch.func that take derivatives.
DERIVATIVES = frozenset({"Grad", "Jvp"})
OPERATORS = frozenset({"cpu", "triton", "decode"})


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
    shift: Shift = None,
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
            To change it, write to it as torch counts it, or pass another: on the CPU what was read of it serves other layers (`sharing`).
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
        polarity: 1 is TanhMax, 0 softmax; a number in [0, 1] or a differentiable tensor `[heads]`, whose gradient at exactly 0 is 0
            unless the shift is balanced or the reference computes. Values above 1 are those of a score bias below 0, such as a learned
            one may become; values below 0 make NaN, as reading them would wait for a GPU.
        shift: None, or `"balanced"`: the scores of a row are shifted by one constant, so that the weights are `(P - p N) / (1 + p)` with P
            the softmax of the scores and N that of their negatives.
        cu_seqlens: int32 or int64 `[sequences + 1]`, the bounds of sequences packed into a batch of one; no sequence sees another. With a
            `block_table`, the bounds of the batch entries' keys.
        block_table: int32 or int64; key and value are then blocks of a paged cache, `[blocks, kv_heads, keys of a block, dim]`, and this
            counts those of each entry, `[batch, blocks]`, or, if blocks hold one key, of one entry after the other. `is_causal` is False or
            `"lower_right"`, and there is no keep, no bias and no additive mask.
        implementation: a name runs or raises. `"auto"` is `"cpu"` on the CPU and `"triton"` on CUDA where they can run (`why_not` says why
            not), else `"composed"`, and `"reference"` where weights, forward-mode derivatives or those of `torch.func` are wanted, or
            where `"composed"` would lack dropout or softcap. In `torch.export`, `torch.onnx.export` and `torch.jit.trace`, which write for
            runtimes that have no operators but torch's, it is `"portable"`, made of torch's `scaled_dot_product_attention`, and else
            `"reference"` likewise.
            `"triton"` is `"decode"` where that can run: 1 to 16 queries without gradients, whose keys are read once, by all of the GPU,
            and through the block table. The reference gathers blocks first, and the others take none.
        return_weights: also return the weights `[batch, heads, queries, keys]`; only the reference has them. Gradients pass through them,
            in the dtype of the query.

    Returns:
        Output `[batch, heads, queries, value_dim]` in the dtype of the query, and the weights if wanted.

    Raises:
        ValueError, TypeError: an argument that does not fit; the sentence names it.
        NotImplementedError: a named implementation that does not do what is asked.

    Within torch's `context_parallel` the tensors are this rank's part of a sequence, and `ring` computes.
    """
    numbers = (scale, window, softcap, dropout_p, polarity)
    arguments = (query, key, value, keep, bias, additive_mask, is_causal, *numbers, cu_seqlens, block_table, return_weights, shift)
    mesh = context_mesh()
    if mesh is not None:
        return ring_module().attention_in_context(mesh, implementation, arguments)
    call = Call(*arguments)
    name = _chosen(implementation, call)
    if not autocasts(query.device.type):
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
    shift: Shift = None,
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
    if implementation != "native":
        _check_name(implementation)
    numbers = (scale, window, softcap, dropout_p, polarity)
    call = Call(query, key, value, keep, bias, additive_mask, is_causal, *numbers, cu_seqlens, block_table, return_weights, shift)
    reason = unsupported("cpu" if implementation == "native" else implementation, call)
    if implementation == "native" and reason is None:
        reason = why_not_native(BlockedProblem(call.operator_inputs(kernels=False)))
    return None if reason is None else f"implementation={implementation!r} {reason}"


def context_mesh() -> object:
    """The device mesh of torch's `context_parallel` where that is on, so that a rank has a part of the sequence; else None.

    It replaces torch's own attention by a closure over the mesh, and leaves no other trace.
    """
    if isinstance(functional.scaled_dot_product_attention, BuiltinFunctionType):
        return None
    attention: Any = functional.scaled_dot_product_attention
    names = getattr(getattr(attention, "__code__", None), "co_freevars", ())
    return attention.__closure__[names.index("device_mesh")].cell_contents if "device_mesh" in names else None


def ring_module() -> ModuleType:
    """`ring_context`, which is no part of the file that is published with a checkpoint, and imports torch.distributed.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        return import_module("hf_tanhmax.attention.ring_context")
    except ModuleNotFoundError as error:
        raise ImportError("context parallelism of TanhMax attention needs the package: pip install hf-tanhmax") from error


def _chosen(implementation: str, call: Call) -> str:
    if implementation == "auto":
        names = ("portable",) if _exporting() else AUTOMATIC.get(call.query.device.type, ("composed",))
        name = next((name for name in names if unsupported(name, call) is None), "reference")
        return "reference" if name == "composed" and transforms() & DERIVATIVES else name  # it has no second derivatives there
    _check_name(implementation)
    reason = unsupported(implementation, call)
    if reason is not None:
        raise NotImplementedError(f"implementation={implementation!r} {reason}; use implementation='auto' or 'reference'")
    return implementation


def _exporting() -> bool:
    """Whether the call is recorded for another runtime, which knows torch's operators and not those of `ops`."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def _check_name(implementation: str) -> None:
    if implementation not in (names := (*IMPLEMENTATIONS, *INFERENCE_ONLY)):
        raise ValueError(f"unknown implementation {implementation!r}; there are auto, {', '.join(names)}")


def unsupported(implementation: str, call: Call) -> str | None:
    """Why an implementation cannot run a call, as the end of a sentence; None if it can."""
    if implementation == "reference":
        return None
    if call.return_weights:
        return "has no weights to return"
    if call.has_tangents:
        return "has no forward-mode derivatives"
    if (found := transforms()) and _lacks_rules(implementation, call, found):
        return "has no rules for derivatives within torch.func"
    if implementation in ("triton", "decode") and call.bias is not None and call.additive_mask is not None:
        return "takes a bias or an additive mask, but both are given"
    if implementation == "decode" or (implementation == "triton" and call.paging is not None):
        return decode_unsupported(call.query, call.value, **call.decode_wishes)
    if implementation == "triton":
        return fused_unsupported(call.query, call.value)
    if call.paging is not None:
        return "reads no block table"
    if implementation == "cpu" and call.query.device.type != "cpu":
        return f"runs on the CPU alone, but the tensors are on {call.query.device}"
    if implementation in ("composed", "portable") and call.softcap is not None:
        return "has no softcap: stock softmax kernels lack it"
    if implementation in ("composed", "portable") and call.dropout_p > 0:
        return "has no dropout: a softmax kernel would drop the two halves of a weight separately"
    return None


def _lacks_rules(implementation: str, call: Call, found: frozenset[str]) -> bool:
    """Whether transforms of `torch.func` would ask an implementation for derivatives that it does not give there."""
    if implementation == "composed" and call.shift is None:
        return torch.is_grad_enabled()
    return implementation in OPERATORS and bool(found & DERIVATIVES)


def reads_blocks(query: Tensor, value: Tensor) -> bool:
    """Whether `"auto"` reads such a paged cache through its block table, if no weights are wanted; else keys are gathered."""
    needs_gradient = torch.is_grad_enabled() and (query.requires_grad or value.requires_grad)
    if "triton" not in AUTOMATIC.get(query.device.type, ()) or not decodable(
        query, needs_gradient=needs_gradient, dropout_p=0.0, packed=False
    ):
        return False
    return fused_unsupported(query, value) is None


def _run(implementation: str, call: Call) -> Tensor | tuple[Tensor, Tensor]:
    share(call.mask.keep)
    if implementation == "decode" or (implementation == "triton" and decodable(call.query, **call.decode_wishes)):
        table = (None, None) if call.paging is None else (call.paging.block_table, call.paging.bounds)
        return called(decode_attention, call.operator_inputs(kernels=True), *table)
    if implementation in ("cpu", "triton"):
        seed = torch.randint(2**62, (), device=call.query.device) if call.dropout_p > 0 else None
        return called(fused_attention, call.operator_inputs(kernels=implementation == "triton", seed=seed))
    tensors, mask = (call.query, call.key, call.value), call.mask
    if call.paging is not None:
        tensors, mask = call.paging.gathered(*tensors, mask)
    if implementation == "composed" and call.key.numel() and call.query.numel():  # stock kernels stop the process at 0 keys
        compose = composed_attention if call.shift is None else balanced_attention
        return compose(
            *tensors,
            mask,
            bias=call.bias,
            additive_mask=call.additive_mask,
            scale=call.factor,
            polarity=call.polarities,
        )
    if implementation == "portable" and (_exporting() or (call.key.numel() and call.query.numel())):
        return portable_attention(
            *tensors,
            mask,
            bias=call.bias,
            additive_mask=call.additive_mask,
            scale=call.factor,
            polarity=call.polarities if isinstance(call.polarity, Tensor) else call.polarity,
            shift=call.shift,
        )
    output, weights = reference_attention(
        *tensors,
        mask,
        bias=call.bias,
        additive_mask=call.additive_mask,
        scale=call.factor,
        softcap=call.softcap,
        dropout_p=call.dropout_p,
        polarity=call.polarity,
        shift=call.shift,
        return_weights=call.return_weights,
    )
    return output if weights is None else (output, weights)
