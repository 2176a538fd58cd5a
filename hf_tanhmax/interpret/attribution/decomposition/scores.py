"""The scores of the methods that take layers apart, and which of them a model serves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ....choices import METHODS
from ...inputs.encoding import short_input
from ..conservation import ACCEPTED_GAP, Conservation
from ..evaluation_mode import evaluation_mode, unwrap
from ..forward_passes import PassResult, without_cache
from .alti import alti, alti_logit, direct_logit
from .attnlrp import attnlrp, check_rules, run_by_rules
from .layers import layer_parts, rolled_out
from .value_zeroing import check_layers, check_zeroing, value_zeroing

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


class Decomposition(NamedTuple):
    """One method: what computes it, and what refuses a model, by how it is built and by what its parts do to an input."""

    scores: Callable[[PreTrainedModel, dict[str, Tensor], PassResult], Scores]
    check_built: Callable[[nn.Module], object]
    checks_run: tuple[Callable[[PreTrainedModel, dict[str, Tensor]], object], ...] = ()


DECOMPOSITIONS = {
    "value_zeroing": Decomposition(_value_zeroing, check_layers, (check_zeroing,)),
    "alti": Decomposition(_alti, layer_parts, (alti,)),
    "alti_logit": Decomposition(_alti_logit, check_rules, (alti, run_by_rules)),
    "attnlrp": Decomposition(_attnlrp, check_rules, (run_by_rules,)),
}


def methods_for(model: nn.Module) -> tuple[str, ...]:
    """Those of `METHODS` that a model serves, which is any model that can be explained; the others are those of `methods_refused`."""
    refused = methods_refused(model)
    return tuple(method for method in METHODS if method not in refused)


def methods_refused(model: nn.Module) -> dict[str, str]:
    """Those of `METHODS` that a model does not serve, each with the reason; `explain` refuses them by the same checks.

    Some models are built as one that serves a method and do something else with an input, so the model is run with a short one.
    """
    reasons = {method: reason_against(model, method) for method in METHODS}
    return {method: reason for method, reason in reasons.items() if reason is not None}


def check_served(model: nn.Module, methods: tuple[str, ...]) -> None:
    """Refuse methods that a model does not serve by how it is built; what its parts do is seen when it is run.

    Raises:
        ValueError: the first of them, why, and which the model serves.
    """
    for method in methods:
        if method in DECOMPOSITIONS and (reason := _reason(partial(DECOMPOSITIONS[method].check_built, model))):
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
        return DECOMPOSITIONS[method].scores(model, inputs, result)
    except ValueError as error:
        raise ValueError(_refusal(model, method, str(error))) from error


def _refusal(model: nn.Module, method: str, reason: str) -> str:
    others = ", ".join(other for other in methods_for(model) if other != method)
    return f"{type(model).__name__} cannot be explained by {method}: {reason}; it can be by {others}"


def reason_against(model: nn.Module, method: str) -> str | None:
    """Why a model does not serve a method; None if it does."""
    if method not in DECOMPOSITIONS:
        return None
    _, check_built, checks_run = DECOMPOSITIONS[method]
    if (reason := _reason(partial(check_built, model))) or not checks_run:
        return reason
    inner = unwrap(model)
    inputs = short_input(inner)
    with evaluation_mode(inner):
        if inputs is None or not _runs(inner, inputs):
            return None
        return next((reason for check in checks_run if (reason := _reason(partial(check, inner, inputs)))), None)


@torch.no_grad()
def _runs(model: PreTrainedModel, inputs: dict[str, Tensor]) -> bool:
    """Whether a model takes these inputs; one that needs others is none that can be explained, which is said where it is tried."""
    try:
        model(**inputs, **without_cache(model))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
    return True


def _reason(check: Callable[[], object]) -> str | None:
    try:
        check()
    except ValueError as error:
        return str(error)
    return None
