r"""Attention over some of a row's keys, and how such parts are joined; and the gradients of a part from what is joined.

A part is an output o and a log-sum-exp :math:`\ell`. Of disjoint keys, as for softmax,

.. math:: L = \log \sum_b e^{\ell_b}, \qquad O = \sum_b \alpha_b o_b, \qquad \alpha_b = e^{\ell_b - L}

With a balanced shift, :math:`W = s_+ P - s_- N`, a part has two log-sum-exps, of P and of N, and besides o the output n of N alone:

.. math:: O = \sum_b \alpha_b o_b + s_- \sum_b (\alpha_b - \beta_b)\, n_b, \qquad N = \sum_b \beta_b n_b

so that where scores are small, and the two shares of a part are nearly the same, what was rounded in n does not meet the output.

The kernels in half precision compute such a part at once. Else it is two softmax attentions, of the scores and of their negatives: the same
operator at polarity 0, with the scale and with its negative.

Backward every part is given L and :math:`D = dO \cdot O` of the whole row, and with a balanced shift :math:`D_- = dO \cdot N` and
:math:`D_+ = (1 + p)\,D + p\,D_-`. The gradient of a balanced polarity needs nothing else: :math:`-\sum (D_+ + D_-) / (1 + p)^2`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .call import OperatorInputs
from .ops import fused_attention, fused_attention_backward


class Part(NamedTuple):
    """Output `[batch, heads, queries, value_dim]` and log-sum-exp `[batch, heads, queries]`, -inf where nothing is seen.

    And the same of the negative half, with a balanced shift.
    """

    output: Tensor
    lse: Tensor
    opposite: Tensor | None = None
    opposite_lse: Tensor | None = None


class Gradients(NamedTuple):
    """Of query, key and value, and of the logarithm of the polarity, `[heads]`, where it is wanted."""

    query: Tensor
    key: Tensor
    value: Tensor
    polarity: Tensor | None


def as_computed(inputs: OperatorInputs, tensor: Tensor) -> Tensor:
    """A tensor in the dtype in which a part is computed; on the CPU it is not that of the call, so that no part is rounded to it."""
    return tensor if inputs.kernels else tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _is_exact(inputs: OperatorInputs) -> bool:
    """Whether kernels compute in full float32."""
    if not inputs.kernels:
        return False
    from .kernels.launch import is_exact

    return is_exact(inputs.query)


def _halved(inputs: OperatorInputs) -> bool:
    """Whether a balanced part is computed as two softmax attentions."""
    return not inputs.kernels or _is_exact(inputs)


def _half(inputs: OperatorInputs, sign: int) -> OperatorInputs:
    return inputs._replace(polarity=None, scale=sign * inputs.scale, signed=False, balanced=False)


def _shares(inputs: OperatorInputs) -> tuple[float | Tensor, float | Tensor]:
    """1 / (1 + p) and p / (1 + p), numbers or `[heads, 1]`."""
    polarity = inputs.coefficient
    if isinstance(polarity, Tensor):
        polarity = polarity[:, None]
    return 1.0 / (1.0 + polarity), polarity / (1.0 + polarity)


def _wide(share: float | Tensor) -> float | Tensor:
    return share[..., None] if isinstance(share, Tensor) else share


def forward_part(inputs: OperatorInputs) -> Part:
    """Attention over the keys of a call, in float32, or float64 for float64."""
    if not inputs.balanced:
        output, lse, _ = fused_attention(*inputs)
        return Part(output.to(lse.dtype), _or_nothing(lse))
    if not _halved(inputs):
        output, lses, opposite = fused_attention(*inputs)
        return Part(output.to(lses.dtype), _or_nothing(lses[0]), opposite.to(lses.dtype), _or_nothing(lses[1]))
    plus, minus = (forward_part(_half(inputs, sign)) for sign in (1, -1))
    positive, negative = _shares(inputs)
    return Part(_wide(positive) * plus.output - _wide(negative) * minus.output, plus.lse, minus.output, minus.lse)


def _or_nothing(lse: Tensor) -> Tensor:
    """The operators say +inf of a row that sees no key."""
    return lse.masked_fill(lse == math.inf, -math.inf)


class Joined:
    """The parts of a call that are joined so far."""

    def __init__(self, inputs: OperatorInputs) -> None:
        exact = torch.promote_types(inputs.query.dtype, torch.float32)
        shape = (*inputs.query.shape[:3], inputs.value.shape[3])
        self.balanced, self.share = inputs.balanced, _wide(_shares(inputs)[1])
        count = 2 if inputs.balanced else 1
        self.outputs = [inputs.query.new_zeros(shape, dtype=exact) for _ in range(count)]
        self.lses = [inputs.query.new_full(shape[:3], -math.inf, dtype=exact) for _ in range(count)]

    def take(self, rows: slice, part: Part) -> None:
        """Join a part of some rows to what they have, which overwrites the part."""
        output, own = self.outputs[0][:, :, rows], self.lses[0][:, :, rows]
        before, after = _join(own, part.lse)
        output.mul_(before)
        if part.opposite is not None and part.opposite_lse is not None:
            opposite = self.outputs[1][:, :, rows]
            before_n, after_n = _join(self.lses[1][:, :, rows], part.opposite_lse)
            output += opposite * (self.share * (before - before_n))
            output += part.opposite * (self.share * (after - after_n))
            opposite.mul_(before_n).add_(part.opposite.mul_(after_n))
        output += part.output.mul_(after)


def _join(own: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """The shares `[.., rows, 1]` of what there is and of what comes; the first log-sum-exp becomes that of both."""
    joint = torch.logaddexp(own, new)
    level = joint.masked_fill(joint == -math.inf, 0.0)
    shares = torch.exp(own - level)[..., None], torch.exp(new - level)[..., None]
    own.copy_(joint)
    return shares


class JointGradient(NamedTuple):
    """What the gradient of a part needs of whole rows, `[batch, heads, queries]`; two of a kind with a balanced shift."""

    grad_output: Tensor
    lses: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]

    def rows(self, rows: slice) -> "JointGradient":
        """Of some of them."""
        lses, deltas = (tuple(each[:, :, rows] for each in tensors) for tensors in (self.lses, self.deltas))
        return JointGradient(self.grad_output[:, :, rows], lses, deltas)


def joint_gradient(inputs: OperatorInputs, grad_output: Tensor, outputs: list[Tensor], lses: list[Tensor]) -> JointGradient:
    """From what `Joined` holds at the end, and the gradient of the output."""
    exact = lses[0].dtype
    deltas = tuple((grad_output.to(exact) * output.to(exact)).sum(-1) for output in outputs)
    if inputs.balanced:
        positive, negative = _shares(inputs)
        deltas = ((deltas[0] + negative * deltas[1]) / positive, deltas[1])
    whole = tuple(lse.masked_fill(lse == -math.inf, math.inf) for lse in lses)
    return JointGradient(as_computed(inputs, grad_output), whole, deltas)


def polarity_gradient(inputs: OperatorInputs, joint: JointGradient) -> Tensor:
    """Of a balanced polarity, `[heads]`."""
    share = _shares(inputs)[0]
    per_row = -(joint.deltas[0] + joint.deltas[1]) * share * share
    return per_row.sum((0, 2))


def backward_part(inputs: OperatorInputs, joint: JointGradient, *, polarity: bool) -> Gradients:
    """Gradients over the keys of a call, from what is joined over all keys; that of a balanced polarity is not among them."""
    if not inputs.balanced:
        return _gradients(inputs, joint.grad_output, joint.lses[0], joint.deltas[0], polarity=polarity)
    if not _halved(inputs):
        lse, delta = (torch.stack(tensors) for tensors in (joint.lses, joint.deltas))
        return _gradients(inputs, joint.grad_output, lse, delta, polarity=False)
    found = []
    for sign, share, lse, delta in zip((1, -1), _shares(inputs), joint.lses, joint.deltas, strict=True):
        grad_output = sign * _wide(share) * joint.grad_output
        found.append(_gradients(_half(inputs, sign), grad_output, lse, sign * share * delta, polarity=False))
    plus, minus = found
    return Gradients(plus.query + minus.query, plus.key + minus.key, plus.value + minus.value, None)


def _gradients(inputs: OperatorInputs, grad_output: Tensor, lse: Tensor, delta: Tensor, *, polarity: bool) -> Gradients:
    lse, delta = lse.contiguous(), delta.contiguous()
    statistics = torch.stack([lse, torch.ones_like(lse)]) if _is_exact(inputs) else None
    grad_output = grad_output.to(inputs.query.dtype)
    found = fused_attention_backward(grad_output, None, lse, statistics, delta, polarity, False, False, *inputs)
    return Gradients(found[0], found[1], found[2], found[3] if polarity else None)
