"""The maps that are compared, by name: the weights that each computes in a call of attention, and how a model gets it.

Softmax is what the model computes anyway, and both kinds of TanhMax are put in by `use_tanhmax`, so that their fused implementations are
used. The other two are composed of plain operations and differentiated by autograd; they are put in through a config view, by the same
mechanism (`integration.hooks`). `weights` of any of them is what measurements read and change.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import hf_tanhmax
from hf_tanhmax.integration.hooks import AttentionCall, AttentionFunction, HookedConfig
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.integration.registration import heads_of

from . import functions
from .paired_queries import pair_queries, paired_queries

FIRST_POLARITY = 0.5  # of the heads of `balanced`, which learn theirs

Weights = Callable[[AttentionCall], Tensor]


@dataclass(frozen=True)
class Map:
    """One of them.

    Attributes:
        name: by which results and plan call it.
        title: for the report.
        weights: `[batch, heads, queries, keys]` of a call.
        install: makes a softmax model compute it, in place.
        signed: whether weights may be negative.
    """

    name: str
    title: str
    weights: Weights
    install: Callable[[PreTrainedModel], None]
    signed: bool = True


def output_of(call: AttentionCall, weights: Tensor) -> Tensor:
    """Output `[batch, queries, heads, value_dim]` for weights of which there is one per head, also where each head has two queries."""
    queries_per_weight = call.query.shape[1] // weights.shape[1]
    return replace(call, query=call.query[:, ::queries_per_weight]).weighted(weights)


def composed(weights: Weights) -> AttentionFunction:
    """Attention by a map that has no implementation of its own."""

    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
        found = weights(call)
        return output_of(call, found), found

    return _attend


def _scores(call: AttentionCall) -> Tensor:
    """`[batch, heads, queries, keys]`."""
    key = call.key.repeat_interleave(call.query.shape[1] // call.key.shape[1], dim=1)
    scale = call.options.get("scaling") or call.query.shape[-1] ** -0.5
    return (call.query @ key.mT) * scale


def _own_weights(call: AttentionCall) -> Tensor:
    return call.compute_with_weights()[1]


def _sign_softmax(call: AttentionCall) -> Tensor:
    return functions.sign_softmax(_scores(call), call.visible)


def _differential(call: AttentionCall) -> Tensor:
    gates, scores = paired_queries(call.module).gates, _scores(call)
    if gates is None:
        raise ValueError("the gates of differential attention come with its queries, which were not computed")
    return functions.differential(scores[:, 0::2], scores[:, 1::2], gates, call.visible[:, 0::2])


def _stay(model: PreTrainedModel) -> None:
    """Softmax is what it computes."""


def _tanhmax(**settings: Any) -> Callable[[PreTrainedModel], None]:
    def _install(model: PreTrainedModel) -> None:
        hf_tanhmax.use_tanhmax(model, hf_tanhmax.TanhMaxSettings(**settings))

    return _install


def _hook(weights: Weights) -> Callable[[PreTrainedModel], None]:
    def _install(model: PreTrainedModel) -> None:
        for module in attention_modules(model):
            config: Any = module.config
            module.config = HookedConfig(config, composed(weights))  # type: ignore[assignment]

    return _install


def _install_differential(model: PreTrainedModel) -> None:
    for module in attention_modules(model):
        pair_queries(module, heads_of(module), model.config.initializer_range)
    _hook(_differential)(model)


MAPS = {
    each.name: each
    for each in (
        Map("softmax", "softmax", _own_weights, _stay, signed=False),
        Map("tanhmax", "TanhMax", _own_weights, _tanhmax(polarity=1.0)),
        Map(
            "balanced",
            "TanhMax, balanced, p learned",
            _own_weights,
            _tanhmax(polarity="learned", score_bias=-0.5 * math.log(FIRST_POLARITY), shift="balanced"),
        ),
        Map("sign_softmax", "sign-softmax (Cog Attention)", _sign_softmax, _hook(_sign_softmax)),
        Map("differential", "differential (DIFF V2)", _differential, _install_differential),
    )
}


def parameters_of(model: nn.Module) -> int:
    """How many parameters a model has."""
    return sum(each.numel() for each in model.parameters())


def polarities_of(model: nn.Module) -> list[list[float]]:
    """The learned polarity of each head, by layer; empty where none is learned."""
    biases = [value for name, value in model.named_parameters() if name.endswith("tanhmax_score_bias")]
    return [torch.exp(-2.0 * bias.detach().double()).tolist() for bias in biases]
