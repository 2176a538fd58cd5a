"""The scores of the methods that take layers apart, and which of them a model serves."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn
from transformers import PreTrainedModel

from ....choices import METHODS
from ....integration.patching import attention_modules
from ..conservation import ACCEPTED_GAP, Conservation
from ..forward_passes import PassResult
from .alti import alti, alti_logit, direct_logit
from .attnlrp import attnlrp, check_rules
from .layers import enclosing_layers, layer_parts, rolled_out
from .value_zeroing import value_zeroing

SHARED = "the whole"


@dataclass(frozen=True)
class Scores:
    """Scores of one method.

    Attributes:
        values: `[K]`, float32 on the CPU.
        conservation: what they add up to; None for a method whose scores have no meaningful sum.
        notes: sentences for the reader.
    """

    values: Tensor
    conservation: Conservation | None = None
    notes: tuple[str, ...] = field(default=())


def _value_zeroing(model: PreTrainedModel, inputs: dict[str, Tensor], result: PassResult) -> Scores:
    values = _row(value_zeroing(model, inputs, result.layers), result.position)
    return Scores(values, Conservation.of(values, 1, SHARED))


def _alti(model: PreTrainedModel, inputs: dict[str, Tensor], result: PassResult) -> Scores:
    shares, away = alti(model, inputs)
    values, left_out = _row(shares[list(result.layers)], result.position), float(away[list(result.layers)].mean())
    note = f"ALTI counts {left_out:.0%} of what attention adds as 0, as it points away from what it is added to; ALTI-Logit keeps signs"
    return Scores(values, Conservation.of(values, 1, SHARED), (note,) if left_out > ACCEPTED_GAP else ())


def _alti_logit(model: PreTrainedModel, inputs: dict[str, Tensor], result: PassResult) -> Scores:
    direct = direct_logit(model, inputs, result.target)
    values = alti_logit(direct, alti(model, inputs)[0], result.layers)
    note = f"ALTI-Logit gives the {direct.mlps:+.3g} logits that the MLPs write to no token"
    return Scores(values, Conservation.of(values, result.logit), (note,))


def _row(matrices: Tensor, position: int | None) -> Tensor:
    """Of matrices `[L, K, K]`, multiplied up, the row of the position that the logit is read from, or the mean of all."""
    mixed = rolled_out(list(matrices))
    return mixed.mean(0) if position is None else mixed[position]


def _attnlrp(model: PreTrainedModel, inputs: dict[str, Tensor], result: PassResult) -> Scores:
    values = attnlrp(model, inputs, result.target)
    return Scores(values, Conservation.of(values, result.logit))


def _has_layers(model: nn.Module) -> None:
    for layer in range(len(attention_modules(model))):  # one by one, as some of those in one layer may not be called
        enclosing_layers(model, (layer,))


def _has_parts(model: nn.Module) -> None:
    layer_parts(model)


# For each method, what computes it and what refuses a model that does not serve it.
DECOMPOSITIONS: dict[str, tuple[Callable[[PreTrainedModel, dict[str, Tensor], PassResult], Scores], Callable[[nn.Module], None]]] = {
    "value_zeroing": (_value_zeroing, _has_layers),
    "alti": (_alti, _has_parts),
    "alti_logit": (_alti_logit, check_rules),
    "attnlrp": (_attnlrp, check_rules),
}


def methods_for(model: nn.Module) -> tuple[str, ...]:
    """Those of `METHODS` that a model serves, which is any model that can be explained."""
    return tuple(method for method in METHODS if reason_against(model, method) is None)


def check_served(model: nn.Module, methods: tuple[str, ...]) -> None:
    """Refuse methods that a model does not serve.

    Raises:
        ValueError: the first of them, why, and which the model serves.
    """
    for method in methods:
        if reason := reason_against(model, method):
            raise ValueError(_refusal(model, method, reason))


def decomposed(model: PreTrainedModel, method: str, inputs: dict[str, Tensor], result: PassResult) -> Scores:
    """The scores of one of `DECOMPOSITIONS`.

    Args:
        model: in evaluation mode, gradients enabled; it serves the method.
        method: its name.
        inputs: a batch of one.
        result: of a forward and backward pass of it.

    Raises:
        ValueError: the model turns out not to serve the method.
    """
    try:
        return DECOMPOSITIONS[method][0](model, inputs, result)
    except ValueError as error:
        raise ValueError(_refusal(model, method, str(error))) from error


def _refusal(model: nn.Module, method: str, reason: str) -> str:
    others = ", ".join(other for other in methods_for(model) if other != method)
    return f"{type(model).__name__} cannot be explained by {method}: {reason}; it can be by {others}"


def reason_against(model: nn.Module, method: str) -> str | None:
    """Why a model does not serve a method; None if it does."""
    if method not in DECOMPOSITIONS:
        return None
    try:
        DECOMPOSITIONS[method][1](model)
    except ValueError as error:
        return str(error)
    return None
