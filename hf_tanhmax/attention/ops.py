"""The torch operators behind `implementation="cpu"` and `"triton"`: schema, shapes for tracing, gradients, vmap.

`hf_tanhmax::blocked_attention` and `hf_tanhmax::fused_attention` return output and log-sum-exp (which has no gradient; partial results over
disjoint keys merge by it as softmax's do), and each has a `.._backward`. To the compiler each is one node, so
`torch.compile(fullgraph=True)` and dynamic shapes work. A second derivative is computed through the reference, and vmap runs one element
after the other. `hf_tanhmax::decode_attention` is for a few queries against many keys, and has no gradient.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .cpu.blocked import BlockedGradients, BlockedProblem, blocked_backward, blocked_forward
from .cpu.operator import native_backward, native_forward, why_not_native
from .mask import Visibility
from .namespace import NAMESPACE
from .reference import reference_attention


@torch.library.custom_op(f"{NAMESPACE}::blocked_attention", mutates_args=(), device_types="cpu")
def blocked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_polarity: Tensor,
    bias: Tensor | None,
    additive_mask: Tensor | None,
    keep: Tensor | None,
    segments: Tensor | None,
    seed: Tensor | None,
    causal: bool,
    offset: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]` in the dtype of the query, and L `[batch, heads, queries]` in float32 or float64."""
    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep, segments)
    problem = BlockedProblem(query, key, value, log_polarity, visibility, bias, additive_mask, scale, softcap, dropout_p, seed)
    output, lse = blocked_forward(problem) if why_not_native(problem) else native_forward(problem)
    return output.to(query.dtype), lse


@torch.library.custom_op(f"{NAMESPACE}::blocked_attention_backward", mutates_args=(), device_types="cpu")
def blocked_attention_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_polarity: Tensor,
    bias: Tensor | None,
    additive_mask: Tensor | None,
    keep: Tensor | None,
    segments: Tensor | None,
    seed: Tensor | None,
    causal: bool,
    offset: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    dropout_p: float,
    wants_polarity: bool,
    wants_bias: bool,
    wants_mask: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, log_polarity, bias and additive_mask; the last three are empty where they are not wanted."""
    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep, segments)
    # Passed on, not kept: its tensors in float32 make room for the gradients in the dtype of the inputs.
    found = _blocked_gradients(
        BlockedProblem(query, key, value, log_polarity, visibility, bias, additive_mask, scale, softcap, dropout_p, seed),
        grad_output,
        log_polarity=wants_polarity,
        bias=wants_bias,
        additive_mask=wants_mask,
    )
    pairs = (found.log_polarity, log_polarity), (found.bias, bias), (found.additive_mask, additive_mask)
    polarity_grad, bias_grad, mask_grad = (_like(gradient, tensor, query) for gradient, tensor in pairs)
    inputs = (found.query.to(query.dtype), found.key.to(key.dtype), found.value.to(value.dtype))
    return *inputs, polarity_grad, bias_grad, mask_grad


def _blocked_gradients(problem: BlockedProblem, grad_output: Tensor, **wanted: bool) -> BlockedGradients:
    if why_not_native(problem):
        return blocked_backward(problem, grad_output, **wanted)
    return native_backward(problem, grad_output, log_polarity=wanted["log_polarity"])


def _like(gradient: Tensor | None, tensor: Tensor | None, query: Tensor) -> Tensor:
    """A gradient in the dtype of its tensor; empty where there is none, as an operator returns tensors alone."""
    return query.new_empty(0) if gradient is None or tensor is None else gradient.to(tensor.dtype)


def _fake_gradients(query: Tensor, tensors: Iterable[Tensor | None], wanted: Iterable[bool]) -> list[Tensor]:
    """What `_like` gives, without the numbers."""
    pairs = zip(tensors, wanted, strict=True)
    return [query.new_empty(0) if tensor is None or not wants else tensor.new_empty(tensor.shape) for tensor, wants in pairs]


@blocked_attention.register_fake
def _(query: Tensor, _key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    lse = query.new_empty(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))
    return query.new_empty(*query.shape[:3], value.shape[-1]), lse


@blocked_attention_backward.register_fake
def _(_grad_output: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    query, contiguous = arguments[0], torch.contiguous_format
    gradients = [torch.empty_like(tensor, memory_format=contiguous) for tensor in arguments[:3]]
    return *gradients, *_fake_gradients(query, arguments[3:6], arguments[-3:])


@torch.library.custom_op(f"{NAMESPACE}::fused_attention", mutates_args=())
def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_polarity: Tensor | None,
    bias: Tensor | None,
    additive_mask: Tensor | None,
    keep: Tensor | None,
    segments: Tensor | None,
    seed: Tensor | None,
    causal: bool,
    offset: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    dropout_p: float,
    signed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]`, L `[batch, heads, queries]` in float32, and what the backward pass needs besides.

    Without `log_polarity` the polarity is 1 if `signed`, else 0 (softmax, which takes half the exponentials). Of bias and additive mask one
    is None.
    """
    from .kernels.launch import FusedProblem, device_of, is_exact, launch_forward

    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep, segments)
    with device_of(query):
        numbers = (scale, softcap, dropout_p, seed, is_exact(query))
        added = bias if additive_mask is None else additive_mask
        problem = FusedProblem(query, key, value, log_polarity, signed, visibility, added, *numbers, additive=additive_mask is not None)
        return launch_forward(problem)


@torch.library.custom_op(f"{NAMESPACE}::fused_attention_backward", mutates_args=())
def fused_attention_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_polarity: Tensor | None,
    bias: Tensor | None,
    additive_mask: Tensor | None,
    keep: Tensor | None,
    segments: Tensor | None,
    seed: Tensor | None,
    output: Tensor,
    lse: Tensor,
    stats: Tensor,
    causal: bool,
    offset: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    dropout_p: float,
    signed: bool,
    wants_polarity: bool,
    wants_bias: bool,
    wants_mask: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, log_polarity, bias and additive_mask; the last three are empty where they are not wanted."""
    from .kernels.launch import FusedProblem, device_of, launch_backward

    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep, segments)
    with device_of(query):
        numbers = (scale, softcap, dropout_p, seed, stats.numel() > 0)
        added = bias if additive_mask is None else additive_mask
        problem = FusedProblem(query, key, value, log_polarity, signed, visibility, added, *numbers, additive=additive_mask is not None)
        found = launch_backward(problem, grad_output, output, lse, stats, log_polarity=wants_polarity, bias=wants_bias or wants_mask)
    pairs = (found.log_polarity, log_polarity), (found.bias, bias), (found.bias, additive_mask)
    polarity_grad, bias_grad, mask_grad = (_like(gradient, tensor, query) for gradient, tensor in pairs)
    return found.query, found.key, found.value, polarity_grad, bias_grad, mask_grad


@fused_attention.register_fake
def _(query: Tensor, _key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    from .kernels.launch import outputs

    return outputs(query, value)


@fused_attention_backward.register_fake
def _(_grad_output: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    from .kernels.launch import dense

    gradients = [dense(tensor, tensor.shape[3]) for tensor in arguments[:3]]
    return *gradients, *_fake_gradients(arguments[0], arguments[3:6], arguments[-3:])


@torch.library.custom_op(f"{NAMESPACE}::decode_attention", mutates_args=())
def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_polarity: Tensor | None,
    bias: Tensor | None,
    additive_mask: Tensor | None,
    keep: Tensor | None,
    block_table: Tensor | None,
    bounds: Tensor | None,
    causal: bool,
    offset: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    signed: bool,
) -> tuple[Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]`, and L `[batch, heads, queries]` in float32, +inf where a query sees no key.

    With a `block_table` key and value are `[blocks, kv_heads, keys of a block, dim]`; see `paging`.
    """
    from .kernels.launch import FusedProblem, device_of, is_exact
    from .kernels.launch_decode import launch_decode

    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep)
    with device_of(query):
        numbers = (scale, softcap, 0.0, None, is_exact(query))
        added = bias if additive_mask is None else additive_mask
        problem = FusedProblem(query, key, value, log_polarity, signed, visibility, added, *numbers, additive=additive_mask is not None)
        return launch_decode(problem, block_table, bounds)


@decode_attention.register_fake
def _(query: Tensor, _key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    from .kernels.launch_decode import decode_outputs

    return decode_outputs(query, value)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:9], *(output if len(output) > 2 else ()))
    ctx.options = inputs[9:]
    ctx.mark_non_differentiable(*output[1:])


def _backward_through(backward: Any) -> Any:
    """The gradient formula of an operator, by its backward operator."""

    def _gradients(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        saved, wants = list(ctx.saved_tensors), ctx.needs_input_grad
        if torch.is_grad_enabled():
            return (*_second_order(saved[:9], ctx.options, wants, grad_output), *(None for _ in ctx.options))
        found = backward(grad_output, *saved, *ctx.options, *wants[3:6])
        wanted = [gradient if wanted else None for gradient, wanted in zip(found, wants[:6], strict=True)]
        return (*wanted, *(None for _ in (*saved[6:9], *ctx.options)))

    return _gradients


def _second_order(inputs: list[Any], options: tuple[Any, ...], wants: tuple[bool, ...], grad_output: Tensor) -> list[Tensor | None]:
    """First derivatives that can be differentiated again, by recomputing through the reference; memory grows with queries times keys."""
    query, key, value, log_p, bias, additive_mask, keep, segments, _seed = inputs
    causal, offset, window, scale, softcap, dropout_p, *signed = options
    if dropout_p > 0:
        raise NotImplementedError('second derivatives with dropout need implementation="reference"')
    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep, segments)
    polarity = float(signed[0]) if log_p is None else torch.exp(log_p)
    added, numbers = {"bias": bias, "additive_mask": additive_mask}, {"scale": scale, "softcap": softcap, "polarity": polarity}
    output, _ = reference_attention(query, key, value, visibility, **added, **numbers, return_weights=False)
    differentiated = [tensor for tensor, wanted in zip(inputs, wants, strict=False) if wanted]
    found = iter(torch.autograd.grad(output, differentiated, grad_output, create_graph=True))
    return [next(found) if wanted else None for wanted in wants[: len(inputs)]]


def _one_after_the_other(operator: Any) -> Any:
    """A rule for vmap: the operator once for each element."""

    def _rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        def _element(index: int) -> tuple[Tensor, ...]:
            pairs = zip(arguments, in_dims, strict=True)
            return operator(*(item if dim is None else item.select(dim, index) for item, dim in pairs))

        stacked = tuple(torch.stack(parts) for parts in zip(*map(_element, range(info.batch_size)), strict=True))
        return stacked, (0,) * len(stacked)

    return _rule


for _pair in ((blocked_attention, blocked_attention_backward), (fused_attention, fused_attention_backward)):
    _pair[0].register_autograd(_backward_through(_pair[1]), setup_context=_setup_context)
    for _operator in _pair:
        _operator.register_vmap(_one_after_the_other(_operator))
decode_attention.register_vmap(_one_after_the_other(decode_attention))
