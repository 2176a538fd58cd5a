"""One forward and one backward pass, and what they say of every head."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...patching import attention_modules
from ..inputs.encoding import PIXELS
from .calling import without_cache
from .evaluation import check_finite
from .hooks import LayerRecord, recording
from .orientation import contributions_of, one_signed, orientation_of
from .target import Target, choose_target, logits_of


@dataclass(frozen=True)
class Seen:
    """What one pass showed; L layers, H heads, Q = K positions, float32 on the CPU.

    Attributes:
        target: what was explained.
        logit: of the target.
        probability: of the target.
        position: the only query position of the last layer that the logit depends on, or that its row of logits belongs to; or None.
        signed: for each layer whether it computes TanhMax.
        weights: `[L, H, Q, K]`.
        orientation: `[L, H]`.
        one_signed: `[L, H]`.
        contributions: `[L, H, Q, K]`.
        live: `[L, Q]`, the query positions whose output the logit depends on.
        gradient: size of the gradient of the logit with respect to each token's embedding `[K]`, or to the pixels `[height, width]`.
        input_x_gradient: the same gradient times its input, added up, `[K]` or `[height, width]`.
    """

    target: Target
    logit: float
    probability: float
    position: int | None
    signed: tuple[bool, ...]
    weights: Tensor
    orientation: Tensor
    one_signed: Tensor
    contributions: Tensor
    live: Tensor
    gradient: Tensor
    input_x_gradient: Tensor


def look(model: Any, inputs: dict[str, Tensor], target: int | str | None, layers: list[int], **options: Any) -> Seen:
    """Run the model once forward and once backward.

    Args:
        model: in evaluation mode, gradients enabled.
        inputs: a batch of one.
        target: as for `explain`.
        layers: indices of attention layers.
        **options: `position` and `tokenizer`, as for `choose_target`.

    Raises:
        ValueError: no such target; layers that computed no attention, or of unequal shapes; results that are not finite.
    """
    last = len(attention_modules(model)) - 1
    with _entry(model, inputs) as (entry, replaced), recording(model, sorted({*layers, last})) as records:
        logits = logits_of(model(**{**inputs, **replaced}, **without_cache(model)), model)
    _check(model, logits, records)
    chosen = choose_target(model, logits.detach(), inputs, target, **options)
    logit = chosen.of(logits).sum()
    *by_output, by_entry = torch.autograd.grad(logit, [*(record.outputs for record in records), entry[0]], materialize_grads=True)
    wanted = [place for place, record in enumerate(records) if record.layer in layers]
    weights, contributions = (torch.stack(side) for side in zip(*(_heads(records[at], by_output[at]) for at in wanted), strict=True))
    check_finite(model, {"contributions": contributions})
    channels = 0 if replaced else -1
    return Seen(
        target=chosen,
        logit=float(logit.detach()),
        probability=float(chosen.probability(logits.detach(), model.config)),
        position=_position(chosen, _live(by_output[-1])),
        signed=tuple(records[place].signed for place in wanted),
        weights=weights,
        orientation=orientation_of(weights, contributions),
        one_signed=one_signed(weights),
        contributions=contributions,
        live=torch.stack([_live(by_output[place]) for place in wanted]),
        gradient=by_entry[0].float().norm(dim=channels).cpu(),
        input_x_gradient=(by_entry * entry[0].detach())[0].float().sum(channels).cpu(),
    )


@contextmanager
def _entry(model: Any, inputs: dict[str, Tensor]) -> Iterator[tuple[list[Tensor], dict[str, Tensor]]]:
    """Where the input enters as numbers: a place that will hold the embeddings, or holds the pixels; and the pixels to call with."""
    if PIXELS in inputs:
        pixels = inputs[PIXELS].detach().clone().requires_grad_()
        yield [pixels], {PIXELS: pixels}
        return
    found: list[Tensor] = []

    def _keep(*call: Any) -> None:
        found.append(call[-1] if call[-1].requires_grad else call[-1].requires_grad_())

    handle = model.get_input_embeddings().register_forward_hook(_keep)
    try:
        yield found, {}
    finally:
        handle.remove()


def _position(chosen: Target, live: Tensor) -> int | None:
    return int(live.nonzero()) if chosen.position is None and int(live.sum()) == 1 else chosen.position


def _live(gradient: Tensor) -> Tensor:
    return gradient[0].ne(0).flatten(1).any(1).cpu()


def _heads(record: LayerRecord, gradient: Tensor) -> tuple[Tensor, Tensor]:
    weights, values = record.weights[0].detach().float(), record.values[0].detach().float()
    return weights.cpu(), contributions_of(weights, values, gradient[0].detach().transpose(0, 1).float()).cpu()


def _check(model: Any, logits: Tensor, records: list[LayerRecord]) -> None:
    silent = [f"{record.layer} ({record.name})" for record in records if record.weights is None]
    if silent:
        raise ValueError(f"no attentions to be had from layers {', '.join(silent)}: their modules were not called in the forward pass")
    shapes = {tuple(record.weights.shape[1:]) for record in records if record.weights is not None}
    if len(shapes) > 1:
        raise ValueError(
            f"layers of unequal heads or lengths cannot be shown together, but they are {sorted(shapes)}; name layers= that agree"
        )
    named = {f"the attention weights of layer {record.layer}": record.weights for record in records}
    check_finite(model, {**named, "the logits": logits})
