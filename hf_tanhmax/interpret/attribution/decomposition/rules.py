r"""Backward rules of layer-wise relevance propagation, as hooks: gradients are changed inside a `with` block, and no output is.

Relevance is written as input times gradient: with :math:`R = x\, \partial\, logit / \partial x`, a rule for an operation is another
gradient for it (Arras et al. 2025; LXT does the same). Of AttnLRP (Achtibat et al. 2024):

* norms: the statistics they divide by are constants, so a norm is linear;
* element-wise functions y = f(x): the gradient is y / x, so relevance passes through unchanged;
* products of two things that are both computed, as in a gated MLP: half of the relevance to each, so half the gradient;
* attention, o = W v with W a function of q k^T: half to v; of the other half, half to q and half to k, through the map's own Jacobian.

Biases keep the relevance that is theirs, so it is lost to the inputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.activations import ACT2CLS

from ....integration.hooks import AttentionCall

GATED = ("gate_proj", "gate_up_proj")
OF_TRANSFORMERS = tuple(cast(type[nn.Module], entry[0] if isinstance(entry, tuple) else entry) for entry in ACT2CLS.values())
ELEMENTWISE: tuple[type[nn.Module], ...] = (*OF_TRANSFORMERS, nn.ELU, nn.GELU, nn.Hardswish, nn.Mish, nn.Softplus)


class _Scaled(torch.autograd.Function):
    """The output as given; its gradient times a factor is that of the input."""

    @staticmethod
    def forward(context: Any, _: Tensor, output: Tensor, factor: Tensor | float) -> Tensor:
        context.factor = factor
        return output.view_as(output)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * context.factor, None, None


def scaled_gradient(tensor: Tensor, factor: float) -> Tensor:
    """The same tensor, whose gradient is multiplied by a factor."""
    return _Scaled.apply(tensor, tensor.detach(), factor)


def relevance_attention(call: AttentionCall) -> tuple[Tensor, Tensor]:
    r"""Attention with the rule of AttnLRP for its two products; the map between them has its own Jacobian.

    For scores a and signed weights w the first-order Taylor expansion :math:`w = J a + b` gives the rule
    :math:`R_i(a) = a_i \sum_j J_{ji} R_j(w) / w_j`; as a gradient it is the Jacobian itself, so nothing is divided by weights that may
    be 0, as signed ones are between their signs:

    * TanhMax of polarity p: :math:`J_{ji} = \delta_{ij} C_j - w_j w_i`, with :math:`C_j = (e^{a_j} + p e^{-a_j}) / \sum_k (e^{a_k} +
      p e^{-a_k})`; softmax, p = 0, has C = w, the rule of the paper;
    * balanced, :math:`w = (P - p N) / (1 + p)`: :math:`J = (diag(P) - P P^T + p\, diag(N) - p\, N N^T) / (1 + p)`, each of the two
      softmaxes by the paper's rule, the second for scores of the other sign.

    What the bias b takes is lost. TanhMax at p = 1 is odd and nearly linear where scores are small, so there b is of third order in a, and
    :math:`\sum_i R_i(a) = \sum_j R_j(w)` up to a relative error of order a^2; softmax has b = 1/n at a = 0 and loses all. Autograd has
    each of these Jacobians, learned polarity included.
    """
    halved = replace(
        call, query=scaled_gradient(call.query, 0.25), key=scaled_gradient(call.key, 0.25), value=scaled_gradient(call.value, 0.5)
    )
    return halved.compute_with_weights()


@contextmanager
def linear_norms_and_activations(model: nn.Module) -> Iterator[None]:
    """Let norms, element-wise functions and gated MLPs of a model follow their rules inside a `with` block.

    Args:
        model: whose norms are LayerNorm or RMSNorm, and whose element-wise functions are modules.

    Raises:
        ValueError: a forward pass meets a norm that computes something else.
    """
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            handles.append(module.register_forward_hook(_linear_layer_norm))
        elif is_rms_norm(module):
            handles.append(module.register_forward_hook(_linear_rms_norm(name)))
        elif isinstance(module, ELEMENTWISE):
            handles.append(module.register_forward_hook(_elementwise))
        elif any(hasattr(module, part) for part in GATED) and hasattr(module, "down_proj"):
            handles.append(module.down_proj.register_forward_pre_hook(_halved))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a module is an RMSNorm by its name; each architecture of Transformers has a class of its own."""
    return type(module).__name__.endswith("RMSNorm")


def _linear_layer_norm(module: nn.LayerNorm, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
    linear = normalised(module, arguments[0], arguments[0].detach())
    if not torch.allclose(linear if module.bias is None else linear + module.bias, output, rtol=tolerance(output), atol=1e-3):
        raise ValueError(f"a norm is a {type(module).__name__}, which computes something else than LayerNorm, so it has no rule")
    return _with_gradient_of(output, linear)


def normalised(norm: nn.LayerNorm, tensor: Tensor, like: Tensor) -> Tensor:
    """The linear part of a LayerNorm, without its bias: a tensor less its mean, divided by the deviation of another.

    Args:
        norm: over the last dimension.
        tensor: `[..., D]`.
        like: `[..., D]`, whose deviation is that of the forward pass.
    """
    tensor_exact, like = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (tensor, like))  # half's squares may be 0
    deviation = (like.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    centred = (tensor_exact - tensor_exact.mean(-1, keepdim=True)) / deviation
    return (centred if norm.weight is None else centred * norm.weight).to(tensor.dtype)


def _linear_rms_norm(name: str) -> Any:
    def _linear(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        hidden = arguments[0]
        epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if epsilon is None:
            raise ValueError(f"the norm {name} says no epsilon, so what it divides by is not known")
        exact = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        with torch.no_grad():  # of ones, whose mean square is 1, the norm makes its weights
            weight = type(module).forward(module, torch.ones_like(exact[..., :1, :])) * (1 + epsilon) ** 0.5
            scale = (exact.pow(2).mean(-1, keepdim=True) + epsilon).rsqrt() * weight
        linear = (exact * scale).to(output.dtype)
        if not torch.allclose(linear, output, rtol=tolerance(output), atol=1e-5):
            raise ValueError(f"the norm {name} is no root mean square norm, so it has no rule")
        return _with_gradient_of(output, linear)

    return _linear


def tolerance(tensor: Tensor) -> float:
    """Relative difference up to which two ways to one result, in its dtype, are the same."""
    return 1e-2 if tensor.dtype in (torch.float16, torch.bfloat16) else 1e-3


def _with_gradient_of(output: Tensor, other: Tensor) -> Tensor:
    return output.detach() + (other - other.detach())


def _elementwise(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
    before = arguments[0].detach()
    ratio = torch.where(before == 0, 0.0, output.detach() / torch.where(before == 0, 1.0, before))
    return _Scaled.apply(arguments[0], output.detach(), ratio)


def _halved(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (scaled_gradient(arguments[0], 0.5), *arguments[1:])
