"""The torch operators behind `implementation="cpu"` and `"triton"`: schema, shapes for tracing, gradients, vmap.

`hf_tanhmax::fused_attention` returns output and log-sum-exp (which has no gradient; partial results over disjoint keys merge by it as
softmax's do), and `hf_tanhmax::fused_attention_backward` the gradients: by the code for CPUs, or by the Triton kernels, as the inputs say.
To the compiler each is one node, so `torch.compile(fullgraph=True)` and dynamic shapes work. A second derivative is computed through the
reference, and vmap runs one element after the other. `hf_tanhmax::decode_attention` is for a few queries against many keys, and has no
gradient.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .call import AutogradContext, Flat, OperatorInputs
from .cpu.blocked import BlockedProblem, blocked_backward, blocked_forward
from .cpu.operator import native_backward, native_forward, why_not_native
from .reference import reference_attention

# What this code calls itself where names are global to a process: torch's operators, and Transformers' attention functions. The file that
# is published with a checkpoint has other names (`models.bundle`), so that such files of any versions and this package get along.
NAMESPACE = "hf_tanhmax"

SCHEMA_TYPES = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    bool: "bool",
    int: "SymInt",
    int | None: "SymInt?",
    float: "float",
    float | None: "float?",
}
SCHEMA = ", ".join(f"{SCHEMA_TYPES[kind]} {name}" for name, kind in OperatorInputs.__annotations__.items())
TENSORS = 9  # the first of the inputs

Result = TypeVar("Result")


@torch.library.custom_op(f"{NAMESPACE}::fused_attention", mutates_args=(), schema=f"({SCHEMA}) -> (Tensor, Tensor, Tensor)")
def fused_attention(*flat: Flat) -> tuple[Tensor, Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]`, L `[batch, heads, queries]` in float32 (float64 for float64), and statistics.

    These the kernels need for their backward pass, if float32 is multiplied exactly; else they are empty.
    """
    inputs = OperatorInputs._make(flat)
    if inputs.kernels:
        from .kernels.launch import is_exact, launch_forward

        return _launched(launch_forward, inputs, exact=is_exact(inputs.query))
    problem = BlockedProblem(inputs)
    output, lse = blocked_forward(problem) if why_not_native(problem) else native_forward(problem)
    return output.to(inputs.query.dtype), lse, lse.new_empty(0)


@torch.library.custom_op(
    f"{NAMESPACE}::fused_attention_backward",
    mutates_args=(),
    schema="(Tensor grad_output, Tensor? output, Tensor? lse, Tensor? statistics, bool wants_polarity, bool wants_bias, bool wants_mask, "
    f"{SCHEMA}) -> ({', '.join(['Tensor'] * 6)})",
)
def fused_attention_backward(
    grad_output: Tensor,
    output: Tensor | None,
    lse: Tensor | None,
    statistics: Tensor | None,
    wants_polarity: bool,
    wants_bias: bool,
    wants_mask: bool,
    *flat: Flat,
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, log_polarity, bias and additive_mask; the last three are empty where they are not wanted.

    The kernels need what `fused_attention` returned, the CPU's code does not.
    """
    inputs = OperatorInputs._make(flat)
    if statistics is not None:
        from .kernels.launch import launch_backward

        wanted = {"log_polarity": wants_polarity, "bias": wants_bias or wants_mask}
        found = _launched(launch_backward, inputs, grad_output, output, lse, statistics, exact=statistics.numel() > 0, **wanted)
        gradients: tuple[Tensor | None, ...] = (found.query, found.key, found.value, found.log_polarity, found.bias, found.bias)
    else:
        gradients = _blocked_gradients(inputs, grad_output, wants_polarity, wants_bias, wants_mask)
    return tuple(
        inputs.query.new_empty(0) if gradient is None or tensor is None else gradient.to(tensor.dtype)
        for gradient, tensor in zip(gradients, inputs.differentiable, strict=True)
    )


@torch.library.custom_op(
    f"{NAMESPACE}::decode_attention",
    mutates_args=(),
    schema=f"({SCHEMA}, Tensor? block_table, Tensor? bounds) -> (Tensor, Tensor)",
)
def decode_attention(*flat: Flat) -> tuple[Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]`, and L `[batch, heads, queries]` in float32, +inf where a query sees no key.

    With a `block_table` key and value are `[blocks, kv_heads, keys of a block, dim]`; see `paged_cache`.
    """
    from .kernels.launch import is_exact
    from .kernels.launch_decode import launch_decode

    inputs = OperatorInputs._make(flat[:-2])
    return _launched(launch_decode, inputs, *flat[-2:], exact=is_exact(inputs.query))


def _launched(launch: Callable[..., Result], inputs: OperatorInputs, *arguments: Flat, exact: bool, **wanted: bool) -> Result:
    """What a launcher of the kernels returns for a call."""
    from .kernels.launch import FusedProblem, device_of

    query, key, value, log_polarity = inputs[:4]
    numbers = (inputs.scale, inputs.softcap, inputs.dropout_p, inputs.seed, exact)
    added, additive = inputs.bias if inputs.additive_mask is None else inputs.additive_mask, inputs.additive_mask is not None
    with device_of(query):
        problem = FusedProblem(query, key, value, log_polarity, inputs.signed, inputs.mask, added, *numbers, additive=additive)
        return launch(problem, *arguments, **wanted)


def _blocked_gradients(
    inputs: OperatorInputs, grad_output: Tensor, wants_polarity: bool, wants_bias: bool, wants_mask: bool
) -> tuple[Tensor | None, ...]:
    problem = BlockedProblem(inputs)
    if why_not_native(problem):
        found = blocked_backward(problem, grad_output, bias=wants_bias, additive_mask=wants_mask, log_polarity=wants_polarity)
    else:
        found = native_backward(problem, grad_output, log_polarity=wants_polarity)
    return found.query, found.key, found.value, found.log_polarity, found.bias, found.additive_mask


@fused_attention.register_fake
def _(*flat: Flat) -> tuple[Tensor, Tensor, Tensor]:
    inputs = OperatorInputs._make(flat)
    query, value = inputs.query, inputs.value
    if inputs.kernels:
        from .kernels.launch import outputs

        return outputs(query, value)
    lse = query.new_empty(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))
    return query.new_empty(*query.shape[:3], value.shape[-1]), lse, lse.new_empty(0)


@fused_attention_backward.register_fake
def _(
    _grad_output: Tensor,
    _output: Tensor | None,
    _lse: Tensor | None,
    statistics: Tensor | None,
    wants_polarity: bool,
    wants_bias: bool,
    wants_mask: bool,
    *flat: Flat,
) -> tuple[Tensor, ...]:
    inputs = OperatorInputs._make(flat)
    if statistics is not None:
        from .kernels.launch import dense

        gradients = [dense(tensor, tensor.shape[3]) for tensor in inputs[:3]]
    else:
        gradients = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs[:3]]
    for tensor, wanted in zip(inputs.differentiable[3:], (wants_polarity, wants_bias, wants_mask), strict=True):
        gradients.append(tensor.new_empty(tensor.shape) if wanted and tensor is not None else inputs.query.new_empty(0))
    return tuple(gradients)


@decode_attention.register_fake
def _(query: Tensor, _key: Tensor, value: Tensor, *_: Flat) -> tuple[Tensor, Tensor]:
    from .kernels.launch_decode import decode_outputs

    return decode_outputs(query, value)


def _setup_context(ctx: AutogradContext, inputs: tuple[Flat, ...], output: tuple[Tensor, ...]) -> None:
    results = output if OperatorInputs._make(inputs).kernels else ()
    ctx.save_for_backward(*inputs[:TENSORS], *results)
    ctx.constants = inputs[TENSORS:]
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: AutogradContext, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient formula of `fused_attention`, by its backward operator."""
    saved, wants = ctx.saved_tensors, ctx.needs_input_grad[:6]  # torch lets them be unpacked once
    inputs, results = OperatorInputs._make((*saved[:TENSORS], *ctx.constants)), saved[TENSORS:] or (None, None, None)
    if torch.is_grad_enabled():
        found = _second_order(inputs, wants, grad_output)
    else:
        found = fused_attention_backward(grad_output, *results, *wants[3:], *inputs)
    wanted = [gradient if wanted else None for gradient, wanted in zip(found, wants, strict=True)]
    return (*wanted, *(None for _ in inputs[6:]))


def _second_order(inputs: OperatorInputs, wants: tuple[bool, ...], grad_output: Tensor) -> list[Tensor | None]:
    """First derivatives that can be differentiated again, by recomputing through the reference; memory grows with queries times keys."""
    if inputs.dropout_p > 0:
        raise NotImplementedError('second derivatives with dropout need implementation="reference"')
    output, _ = reference_attention(
        *inputs[:3],
        inputs.mask,
        bias=inputs.bias,
        additive_mask=inputs.additive_mask,
        scale=inputs.scale,
        softcap=inputs.softcap,
        polarity=float(inputs.signed) if inputs.log_polarity is None else torch.exp(inputs.log_polarity),
        return_weights=False,
    )
    differentiated = [tensor for tensor, wanted in zip(inputs.differentiable, wants, strict=True) if wanted and tensor is not None]
    found = iter(torch.autograd.grad(output, differentiated, grad_output, create_graph=True))
    return [next(found) if wanted else None for wanted in wants]


class _Batch(Protocol):
    """What torch tells a rule for vmap."""

    batch_size: int


def _one_after_the_other(operator: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[tuple[Tensor, ...], tuple[int, ...]]]:
    """A rule for vmap: the operator once for each element."""

    def _rule(info: _Batch, in_dims: tuple[int | None, ...], *flat: Flat) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        def _element(index: int) -> tuple[Tensor, ...]:
            pairs = zip(flat, in_dims, strict=True)
            return operator(*(item.select(dim, index) if isinstance(item, Tensor) and dim is not None else item for item, dim in pairs))

        stacked = tuple(torch.stack(parts) for parts in zip(*map(_element, range(info.batch_size)), strict=True))
        return stacked, (0,) * len(stacked)

    return _rule


fused_attention.register_autograd(_backward, setup_context=_setup_context)
for _operator in (fused_attention, fused_attention_backward, decode_attention):
    _operator.register_vmap(_one_after_the_other(_operator))
