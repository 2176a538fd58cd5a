"""The torch operators behind `implementation="cpu"`, `"triton"` and `"decode"`: schema, shapes for tracing, gradients, vmap.

`hf_tanhmax::fused_attention` returns output and log-sum-exp (which has no gradient; partial results over disjoint keys merge by it as
softmax's do), and `hf_tanhmax::fused_attention_backward` the gradients: by the code for CPUs, or by the Triton kernels, as the inputs say.
To the compiler each is one node, so `torch.compile(fullgraph=True)` and dynamic shapes work. A second derivative is computed through the
reference, and vmap runs one element after the other. `hf_tanhmax::decode_attention` is for a few queries against many keys, and has no
gradient.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from .call import AutogradContext, Flat, JointRows, OperatorInputs, forward_mode
from .cpu.balanced import balanced_backward, balanced_forward
from .cpu.blocked import blocked_backward, blocked_forward
from .cpu.operator import native_backward, native_forward
from .cpu.problem import BlockedProblem
from .kernels.support import device_of
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
TENSORS = 9  # tensors are the first of `OperatorInputs`
PLAIN = frozenset((Tensor, torch.nn.Parameter, type(None)))


class BackwardInputs(NamedTuple):
    """What the backward operator takes besides `OperatorInputs`. The kernels need the results of the forward operator, the CPU does not.

    With a `delta`, L is that over more keys than these, as in `ring`, and so is `delta`: the products of a row's output and its gradient,
    in the shape and dtype of L. For kernels in full float32 the statistics are then L and ones; the CPU takes no balanced shift.
    """

    grad_output: Tensor
    output: Tensor | None
    lse: Tensor | None
    statistics: Tensor | None
    delta: Tensor | None
    wants_polarity: bool
    wants_bias: bool
    wants_mask: bool


def _schema(inputs: type[OperatorInputs | BackwardInputs]) -> str:
    return ", ".join(f"{SCHEMA_TYPES[kind]} {name}" for name, kind in inputs.__annotations__.items())


SCHEMA = _schema(OperatorInputs)
Result = TypeVar("Result")


def _fused_attention(inputs: OperatorInputs) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output `[batch, heads, queries, value_dim]`, L `[batch, heads, queries]` in float32 (float64 for float64), and statistics.

    These the kernels need for their backward pass, if float32 is multiplied exactly; else they are None.
    """
    if inputs.kernels:
        return _launched(_launchers().forward, inputs)
    problem = BlockedProblem(inputs)
    found = native_forward(problem)
    output, lse = (balanced_forward if problem.balanced else blocked_forward)(problem) if found is None else found
    return output.to(inputs.query.dtype), lse, None


def _fused_operator(*flat: Flat) -> tuple[Tensor, Tensor, Tensor]:
    return _in_schema(*_fused_attention(OperatorInputs._make(flat)))


def _in_schema(output: Tensor, lse: Tensor, statistics: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Results of `_fused_attention` as torch's schema has them: no statistics are an empty tensor."""
    return output, lse, lse.new_empty(0) if statistics is None else statistics


@torch.library.custom_op(
    f"{NAMESPACE}::fused_attention_backward",
    mutates_args=(),
    schema=f"({_schema(BackwardInputs)}, {SCHEMA}) -> ({', '.join(['Tensor'] * 6)})",
)
def fused_attention_backward(*flat: Flat) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, polarity, bias and additive_mask; the last three are empty where they are not wanted."""
    given, inputs = _backward_inputs(flat)
    gradients = (_kernel_gradients if inputs.kernels else _blocked_gradients)(given, inputs)
    return tuple(
        inputs.query.new_empty(0) if gradient is None or tensor is None else gradient.to(tensor.dtype)
        for gradient, tensor in zip(gradients, inputs.differentiable, strict=True)
    )


def _decode_attention(inputs: OperatorInputs, block_table: Tensor | None, bounds: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]`, and L `[batch, heads, queries]` in float32, +inf where a query sees no key.

    With a `block_table` key and value are `[blocks, kv_heads, keys of a block, dim]`; see `paged_cache`.
    """
    return _launched(_launchers().decode, inputs, block_table, bounds)


def _decode_operator(*flat: Any) -> tuple[Tensor, Tensor]:
    return _decode_attention(OperatorInputs._make(flat[:-2]), *flat[-2:])


fused_attention = torch.library.custom_op(
    f"{NAMESPACE}::fused_attention", _fused_operator, mutates_args=(), schema=f"({SCHEMA}) -> (Tensor, Tensor, Tensor)"
)
decode_attention = torch.library.custom_op(
    f"{NAMESPACE}::decode_attention",
    _decode_operator,
    mutates_args=(),
    schema=f"({SCHEMA}, Tensor? block_table, Tensor? bounds) -> (Tensor, Tensor)",
)
DIRECTLY: dict[Callable[..., Any], Callable[..., Any]] = {fused_attention: _fused_attention, decode_attention: _decode_attention}


def called(operator: Callable[..., Any], inputs: OperatorInputs, *table: Tensor | None) -> Tensor:
    """The output of `fused_attention` or `decode_attention`, without the dispatcher's time (20 us) where nobody would notice.

    Without gradients, on plain tensors, and with no compiler, tracer, transform or mode that looks on, the dispatcher only passes on.
    """
    direct = DIRECTLY.get(operator) if not torch.is_grad_enabled() and _nobody_looks_on(inputs[:TENSORS] + table) else None
    output: Tensor = (operator(*inputs, *table) if direct is None else direct(inputs, *table))[0]
    return output


def _nobody_looks_on(tensors: tuple[Flat, ...]) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not PLAIN.issuperset(map(type, tensors)):
        return False
    # Modes, transforms of torch.func and forward derivatives: torch has no public word for "one is on".
    return not torch._C._len_torch_dispatch_stack() and not torch._C._functorch.get_interpreter_stack() and not forward_mode()


class _Launchers(NamedTuple):
    """What the first call imports, as it needs Triton."""

    problem: Callable[..., Any]
    is_exact: Callable[[Tensor], bool]
    forward: Callable[..., tuple[Tensor, Tensor, Tensor | None]]
    decode: Callable[..., tuple[Tensor, Tensor]]


@cache
def _launchers() -> _Launchers:
    """Once, as an import statement takes a microsecond in every call."""
    from .kernels.launch import FusedProblem, is_exact, launch_forward
    from .kernels.launch_decode import launch_decode

    return _Launchers(FusedProblem, is_exact, launch_forward, launch_decode)


def _launched(launch: Callable[..., Result], inputs: OperatorInputs, *arguments: Flat, exact: bool | None = None, **wanted: bool) -> Result:
    """What a launcher of the kernels returns for a call, whose precision is torch's setting if None is given."""
    query, key, value, polarity = inputs[:4]
    exact = _launchers().is_exact(query) if exact is None else exact
    numbers = (inputs.scale, inputs.softcap, inputs.dropout_p, inputs.seed, exact)
    additive = inputs.additive_mask is not None
    tensors = (inputs.mask, inputs.additive_mask if additive else inputs.bias)
    with device_of(query):
        given = (query, key, value, polarity, inputs.signed, *tensors, *numbers)
        problem = _launchers().problem(*given, additive=additive, balanced=inputs.balanced)
        return launch(problem, *arguments, **wanted)


def _backward_inputs(flat: tuple[Flat, ...]) -> tuple[BackwardInputs, OperatorInputs]:
    count = len(BackwardInputs._fields)
    return BackwardInputs._make(flat[:count]), OperatorInputs._make(flat[count:])


def _kernel_gradients(given: BackwardInputs, inputs: OperatorInputs) -> tuple[Tensor | None, ...]:
    from .kernels.launch import launch_backward, was_exact

    exact = was_exact(given.statistics, balanced=inputs.balanced)
    wanted = {"polarity": given.wants_polarity, "bias": given.wants_bias or given.wants_mask}
    found = _launched(launch_backward, inputs, *given[:5], exact=exact, **wanted)
    return found.query, found.key, found.value, found.polarity, found.bias, found.bias


def _blocked_gradients(given: BackwardInputs, inputs: OperatorInputs) -> tuple[Tensor | None, ...]:
    problem, joint = BlockedProblem(inputs), None
    if given.lse is not None and given.delta is not None:
        if problem.balanced:
            raise ValueError(
                "with a balanced shift a row has two L; give the operator the softmax of the scores and that of their negatives"
            )
        joint = JointRows(given.lse.to(problem.exact), given.delta.to(problem.exact))
    wanted = {"bias": given.wants_bias, "additive_mask": given.wants_mask, "polarity": given.wants_polarity}
    found = native_backward(problem, given.grad_output, joint, **wanted)
    if found is None and problem.balanced:
        found = balanced_backward(problem, given.grad_output, **wanted)
    elif found is None:
        found = blocked_backward(problem, given.grad_output, joint, **wanted)
    return found.query, found.key, found.value, found.polarity, found.bias, found.additive_mask


@fused_attention.register_fake
def _(*flat: Flat) -> tuple[Tensor, Tensor, Tensor]:
    inputs = OperatorInputs._make(flat)
    query, value = inputs.query, inputs.value
    if inputs.kernels:
        from .kernels.launch import outputs

        return _in_schema(*outputs(query, value, balanced=inputs.balanced))
    exact = torch.promote_types(query.dtype, torch.float32)
    lse = query.new_empty(0 if inputs.balanced else query.shape[:3], dtype=exact)
    return _in_schema(query.new_empty(*query.shape[:3], value.shape[-1]), lse, None)


@fused_attention_backward.register_fake
def _(*flat: Flat) -> tuple[Tensor, ...]:
    given, inputs = _backward_inputs(flat)
    if inputs.kernels:
        from .kernels.launch import dense

        gradients = [dense(tensor, tensor.shape[3]) for tensor in inputs[:3]]
    else:
        gradients = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs[:3]]
    for tensor, wanted in zip(inputs.differentiable[3:], given[-3:], strict=True):
        gradients.append(tensor.new_empty(tensor.shape) if wanted and tensor is not None else inputs.query.new_empty(0))
    return tuple(gradients)


@decode_attention.register_fake
def _(*flat: Flat) -> tuple[Tensor, Tensor]:
    from .kernels.launch_decode import decode_outputs

    inputs = OperatorInputs._make(flat[:-2])
    return decode_outputs(inputs.query, inputs.value, balanced=inputs.balanced)


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
        found = fused_attention_backward(grad_output, *results, None, *wants[3:], *inputs)
    wanted = [gradient if wanted else None for gradient, wanted in zip(found, wants, strict=True)]
    return (*wanted, *(None for _ in inputs[6:]))


def _second_order(inputs: OperatorInputs, wants: tuple[bool, ...], grad_output: Tensor) -> list[Tensor | None]:
    """First derivatives that can be differentiated again, by recomputing through the reference; memory grows with queries times keys."""
    if inputs.dropout_p > 0:
        raise NotImplementedError('second derivatives with dropout need implementation="reference"')
    # Views, as one tensor may be two of them, which has one gradient of each.
    views = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs.differentiable]
    inputs = OperatorInputs._make((*views, *inputs[6:]))
    output, _ = reference_attention(
        *inputs[:3],
        inputs.mask,
        bias=inputs.bias,
        additive_mask=inputs.additive_mask,
        scale=inputs.scale,
        softcap=inputs.softcap,
        polarity=inputs.coefficient,
        shift="balanced" if inputs.balanced else None,
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
