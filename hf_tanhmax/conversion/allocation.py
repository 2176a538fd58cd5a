r"""Spread a negative mass over the heads of a model with a balanced shift, where it does the least damage, before the model is refitted.

With an output projection :math:`W` that is scaled by :math:`1 + p`, a head of polarity p adds :math:`W (P V - p N V)` to the residual
stream, where softmax adds :math:`W P V`. The mean of :math:`N V` can go into a bias; what is left is damage, :math:`k p^2` with

.. math:: k = E\,\frac{|W (N V - \overline{N V})|^2}{|s|^2}

and s the stream after attention. The negative mass of a head is close to :math:`p / (1 + p)`, so within a layer the sum of the damage is
smallest, for a given sum of the masses, where :math:`p (1 + p)^2 k` is the same in every head that is below polarity 1. Over the layers
the mass falls linearly, as the refit of later layers makes good for earlier ones.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..integration.hooks import AttentionCall, AttentionFunction, computes_tanhmax, replace_attention, without_dropout
from ..integration.registration import SCORE_BIAS
from ..settings import LEARNED
from .layers import HIDDEN, Layer, find_layers
from .regression import TINY
from .runner import Batch, check_batch, run_model
from .statistics import real_rows

FALL = 0.3  # of the mass from the first layer to the last, over its mean
ROUNDS = 12  # of measuring the mass and correcting for it, at most
CLOSE = 0.01  # how close the measured mass has to come, relative
BISECTIONS = 60


@dataclass(frozen=True)
class AllocationReport:
    """How a negative mass was spread over heads.

    Attributes:
        mass: the share of negative weights in all absolute weight that was asked for.
        measured: the same as measured on the first batch.
        rows: query rows (tokens, without padding) that the damage was measured on.
        seconds: for all of it.
        damage: per layer and head, k.
        polarity: per layer and head.
    """

    mass: float
    measured: float
    rows: int
    seconds: float
    damage: tuple[tuple[float, ...], ...]
    polarity: tuple[tuple[float, ...], ...]

    def describe(self) -> str:
        """What was done, as the rest of a sentence about the model."""
        flat = [each for layer in self.polarity for each in layer]
        return (
            f"has polarities from {min(flat):.2f} to {max(flat):.2f} for its {len(flat)} heads, so that {100 * self.measured:.1f} % of the "
            f"attention weight is negative where {self.rows:,} rows said that it harms least"
        )


@torch.no_grad()
def allocate(model: nn.Module, batches: Iterable[Batch], *, mass: float = 0.15, fall: float = FALL) -> AllocationReport:
    """Set the polarity of every head, in place, such that the model has a wanted negative mass and is as close to softmax as it can.

    The model is still to be refitted. Every batch is read once, and the first a few times more.

    Args:
        model: a TanhMax model with a balanced shift and a learned polarity in all of its layers and heads, as
            `convert(..., polarity="learned", shift="balanced")` makes it, with the weights of softmax.
        batches: mappings of the model's inputs, such as those that it will be refitted with.
        mass: share of negative weights in all absolute weight, over all layers and heads, in (0, 0.5).
        fall: how much less mass the last layer has than the first, over the mean, in [0, 2).

    Returns:
        What was found and set.

    Raises:
        ValueError: settings out of range, another polarity or shift, no batches, inputs that the model refuses, activations that are not
            finite, or a mass that cannot be reached. The model is then as it was.
        TypeError: a batch that is no mapping.
        NotImplementedError: layers that cannot be told apart, or projections that are no plain linear layers.
    """
    started = time.perf_counter()
    if not 0 < mass < 0.5:
        raise ValueError(f"mass must be between 0 and 0.5, but is {mass!r}; at polarity 1 of all heads it is 0.5")
    if not 0 <= fall < 2:
        raise ValueError(f"fall must be at least 0 and below 2, but is {fall!r}")
    layers = find_layers(model, "spread over heads")
    _check(model, layers)
    before = [getattr(layer.attention, SCORE_BIAS).clone() for layer in layers]
    done = False
    try:
        with without_dropout(model):
            damage, first, rows = _damage(model, layers, batches)
            polarity, measured = _allocated(model, layers, first, damage, mass, fall)
        done = True
    finally:
        if not done:
            _set(layers, before)
    values = [tuple(tuple(row) for row in each.tolist()) for each in (damage, polarity)]
    return AllocationReport(mass, measured, rows, time.perf_counter() - started, *values)


def least_damage(damage: Tensor, mass: float) -> Tensor:
    """Polarities `[heads]` whose masses p / (1 + p) have a given mean, with the smallest sum of k p^2.

    Args:
        damage: k of each head, `[heads]`.
        mass: in (0, 0.5).
    """
    largest = float(damage.max())
    k = torch.ones_like(damage, dtype=torch.float64) if largest < TINY else (damage.double() / largest).clamp(min=1e-6)

    def polarity(log_level: float) -> Tensor:
        low, high = torch.zeros_like(k), torch.ones_like(k)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = middle * (1 + middle).square() * k < math.exp(log_level)
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high

    low, high = math.log(float(k.min())) - 40, math.log(4 * float(k.max()))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = polarity(middle)
        low, high = (middle, high) if float((found / (1 + found)).mean()) < mass else (low, middle)
    return polarity(high)


def _check(model: nn.Module, layers: list[Layer]) -> None:
    for layer in layers:
        config: Any = layer.attention.config
        settings = [getattr(config, f"tanhmax_{name}", None) for name in ("polarity", "shift", "heads")]
        if not computes_tanhmax(config) or settings != [LEARNED, "balanced", None]:
            raise ValueError(
                f"{layer.name} of this {type(model).__name__} has no polarity per head with a balanced shift; convert it with "
                'polarity="learned" and shift="balanced", in all layers and heads'
            )
        if getattr(config, "tanhmax_refitted_polarity", None) is not None:
            raise ValueError(f"the projections of this {type(model).__name__} were refitted already; choose polarities before that")


def _damage(model: nn.Module, layers: list[Layer], batches: Iterable[Batch]) -> tuple[Tensor, Batch, int]:
    """k `[layers, heads]`, the first batch, and how many rows there were."""
    sums: list[_Spread | None] = [None] * len(layers)
    first: Batch | None = None
    for batch in batches:
        check_batch(batch)
        first = batch if first is None else first
        streams: dict[int, Tensor] = {}
        handles = [_keep_hidden(layer, index, streams) for index, layer in enumerate(layers)]
        try:
            functions = [_measuring(layer, index, streams, sums) for index, layer in enumerate(layers)]
            with replace_attention([layer.attention for layer in layers], functions, polarity=0.0):
                run_model(model, batch)
        finally:
            for handle in handles:
                handle.remove()
    found = [each for each in sums if each is not None]
    if first is None or len(found) < len(layers):
        raise ValueError("there are no batches to measure with; give a list of a few, such as 8,192 tokens in all")
    damage = torch.stack([each.damage(layer.output.weight) for each, layer in zip(found, layers, strict=True)])
    if not bool(damage.isfinite().all()):
        raise ValueError(f"{type(model).__name__} has hidden states that are NaN or infinite for these batches; try float32")
    return damage, first, found[0].rows


@dataclass
class _Spread:
    """Sums in float64 of the outputs n of softmin attention, each row weighted by the inverse of its stream's mean square.

    Attributes:
        rows: how many.
        weight: of the weights.
        outputs: of w n, `[heads, value_dim]`.
        squares: of w n n', `[heads, value_dim, value_dim]`.
    """

    rows: int
    weight: Tensor
    outputs: Tensor
    squares: Tensor

    def damage(self, projection: Tensor) -> Tensor:
        """k of each head, `[heads]`, for an output projection `[hidden, heads * value_dim]`."""
        heads, width = self.outputs.shape
        spread = self.squares - self.outputs[:, :, None] * self.outputs[:, None, :] / self.weight.clamp(min=TINY)
        weight = projection.to(spread).view(-1, heads, width).transpose(0, 1)
        return torch.einsum("hod,hde,hoe->h", weight, spread, weight).clamp(min=0) / (self.rows * projection.shape[0])


def _keep_hidden(layer: Layer, index: int, streams: dict[int, Tensor]) -> Any:
    def _keep(_: nn.Module, positional: tuple[Any, ...], keyword: dict[str, Any]) -> None:
        streams[index] = positional[0] if positional else keyword[HIDDEN]

    return layer.module.register_forward_pre_hook(_keep, with_kwargs=True)


def _measuring(layer: Layer, index: int, streams: dict[int, Tensor], sums: list[_Spread | None]) -> AttentionFunction:
    def _measure(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        output, weights = call.compute()
        negated = AttentionCall(call.module, -call.query, call.key, call.value, call.mask, call.options)
        device = torch.device("cpu") if output.device.type == "mps" else output.device  # which has no float64
        real = real_rows(call)
        stream = (streams[index] + layer.output(output.flatten(2)))[real].to(device, torch.float64)
        rows = negated.compute()[0][real].to(device, torch.float64)  # [rows, heads, value_dim]
        weight = 1 / stream.square().mean(-1).clamp(min=TINY)
        weighted = weight[:, None, None] * rows
        found = _Spread(len(rows), weight.sum(), weighted.sum(0), torch.einsum("rhd,rhe->hde", weighted, rows))
        known = sums[index]
        sums[index] = (
            found
            if known is None
            else _Spread(*(mine + theirs for mine, theirs in zip(vars(known).values(), vars(found).values(), strict=True)))
        )
        return output, weights

    return _measure


def _allocated(model: nn.Module, layers: list[Layer], first: Batch, damage: Tensor, mass: float, fall: float) -> tuple[Tensor, float]:
    """Polarities `[layers, heads]`, and the negative mass that the model has with them, which comes close to what is asked for."""
    shares = torch.linspace(1 + fall / 2, 1 - fall / 2, len(layers)).tolist() if len(layers) > 1 else [1.0]
    aim, measured, polarity = mass, 0.0, torch.zeros_like(damage)
    for _ in range(ROUNDS):
        wanted = [aim * share for share in shares]
        if max(wanted) >= 0.5:
            break
        polarity = torch.stack([least_damage(k, each) for k, each in zip(damage, wanted, strict=True)])
        _set(layers, list(polarity.clamp(min=1e-12).log() / -2))
        measured = _mass(model, layers, first)
        if abs(measured / mass - 1) <= CLOSE:
            return polarity, measured
        aim *= mass / max(measured, TINY)
    raise ValueError(
        f"a negative mass of {mass} cannot be reached where the first layer has {shares[0]:.2f} times that; {measured:.3f} was; ask for "
        "less, or a smaller fall"
    )


def _set(layers: list[Layer], biases: list[Tensor]) -> None:
    for layer, bias in zip(layers, biases, strict=True):
        getattr(layer.attention, SCORE_BIAS).copy_(bias)


def _mass(model: nn.Module, layers: list[Layer], batch: Batch) -> float:
    sums = torch.zeros(2, dtype=torch.float64)

    def _measure(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        output, weights = call.compute_with_weights()
        kept = weights.transpose(1, 2)[real_rows(call)]
        sums.add_(torch.stack([-kept.clamp(max=0).sum(), kept.abs().sum()]).to(sums))
        return output, weights

    with replace_attention([layer.attention for layer in layers], _measure):
        run_model(model, batch)
    return float(sums[0] / sums[1].clamp(min=TINY))
