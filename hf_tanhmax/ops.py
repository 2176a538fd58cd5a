"""The torch operator behind `implementation="cpu"`: schema, shapes for tracing, gradients.

`hf_tanhmax::blocked_attention` returns output and log-sum-exp; its gradient is `hf_tanhmax::blocked_attention_backward`. To the compiler
both are one node, so `torch.compile(fullgraph=True)` and dynamic shapes work. A second derivative is computed through the reference.
"""

from typing import Any

import torch
from torch import Tensor

from .blocked import Problem, blocked_backward, blocked_forward
from .reference import reference_attention
from .visibility import Visibility


@torch.library.custom_op("hf_tanhmax::blocked_attention", mutates_args=(), device_types="cpu")
def blocked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_polarity: Tensor,
    bias: Tensor | None,
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
    problem = Problem(query, key, value, log_polarity, visibility, bias, scale, softcap, dropout_p, seed)
    output, lse = blocked_forward(problem)
    return output.to(query.dtype), lse


@torch.library.custom_op("hf_tanhmax::blocked_attention_backward", mutates_args=(), device_types="cpu")
def blocked_attention_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_polarity: Tensor,
    bias: Tensor | None,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, log_polarity and bias; the last two are empty where they are not wanted."""
    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep, segments)
    problem = Problem(query, key, value, log_polarity, visibility, bias, scale, softcap, dropout_p, seed)
    found = blocked_backward(problem, grad_output, bias=wants_bias, log_polarity=wants_polarity)
    polarity_grad = log_polarity.new_empty(0) if found.log_polarity is None else found.log_polarity.to(log_polarity.dtype)
    bias_grad = query.new_empty(0) if found.bias is None or bias is None else found.bias.to(bias.dtype)
    return found.query.to(query.dtype), found.key.to(key.dtype), found.value.to(value.dtype), polarity_grad, bias_grad


@blocked_attention.register_fake
def _(query: Tensor, _key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    lse = query.new_empty(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))
    return query.new_empty(*query.shape[:3], value.shape[-1]), lse


@blocked_attention_backward.register_fake
def _(
    _grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, log_polarity: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    wants_polarity, wants_bias = rest[-2:]
    polarity_grad = torch.empty_like(log_polarity) if wants_polarity else log_polarity.new_empty(0)
    bias_grad = query.new_empty(0) if bias is None or not wants_bias else bias.new_empty(bias.shape)
    contiguous = torch.contiguous_format
    gradients = [torch.empty_like(tensor, memory_format=contiguous) for tensor in (query, key, value)]
    return *gradients, polarity_grad, bias_grad


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:8])
    ctx.options = inputs[8:]
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_output: Tensor, _grad_lse: Tensor) -> tuple[Tensor | None, ...]:
    inputs = list(ctx.saved_tensors)
    wants = ctx.needs_input_grad
    if torch.is_grad_enabled():
        return (*_second_order(inputs, ctx.options, wants, grad_output), *(None for _ in ctx.options))
    found = blocked_attention_backward(grad_output, *inputs, *ctx.options, wants[3], wants[4])
    gradients = [gradient if wanted else None for gradient, wanted in zip(found, wants[:5], strict=True)]
    return (*gradients, *(None for _ in (*inputs[5:], *ctx.options)))


def _second_order(inputs: list[Any], options: tuple[Any, ...], wants: tuple[bool, ...], grad_output: Tensor) -> list[Tensor | None]:
    """First derivatives that can be differentiated again, by recomputing through the reference; memory grows with queries times keys."""
    query, key, value, log_p, bias, keep, segments, _seed = inputs
    causal, offset, window, scale, softcap, dropout_p = options
    if dropout_p > 0:
        raise NotImplementedError('second derivatives with dropout need implementation="reference"')
    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep, segments)
    arguments = {"bias": bias, "scale": scale, "softcap": softcap, "polarity": torch.exp(log_p)}
    output, _ = reference_attention(query, key, value, visibility, **arguments)
    differentiated = [tensor for tensor, wanted in zip(inputs, wants, strict=False) if wanted]
    found = iter(torch.autograd.grad(output, differentiated, grad_output, create_graph=True))
    return [next(found) if wanted else None for wanted in wants[: len(inputs)]]


blocked_attention.register_autograd(_backward, setup_context=_setup_context)
