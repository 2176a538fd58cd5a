"""How a model is called: forward for the logits of a target alone, or forward and backward with everything that each head computes."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...checkpoint import text_config
from ..inputs.encoding import DECODER_IDS, IDS, PIXELS
from .evaluation_mode import check_finite, input_embeddings, resolve_layers
from .hooks import LayerRecord, record_attention
from .orientation import contributions_of, one_signed, orientation_of
from .target import Target, choose_target, logits_of


def target_logits(model: PreTrainedModel, inputs: Mapping[str, Tensor], positions: Sequence[int | None]) -> Tensor:
    """The row of logits that each input's target is in.

    Where all are read at the last position, a model that has `logits_to_keep` computes no other: with a large vocabulary that is most of
    its memory.

    Args:
        model: a Transformers model that returns logits.
        inputs: a batch.
        positions: per input, None where it has one row of logits.

    Returns:
        `[batch, classes]`.
    """
    read = next((inputs[name] for name in (DECODER_IDS, IDS) if name in inputs), None)
    length = 0 if read is None else read.shape[1]
    last = all(position == length - 1 for position in positions)
    keep_last = {"logits_to_keep": 1} if last and "logits_to_keep" in inspect.signature(type(model).forward).parameters else {}
    logits = model(**inputs, **without_cache(model), **keep_last).logits
    if logits.dim() == 2:
        return logits
    return logits[:, -1] if keep_last else logits[torch.arange(len(positions)), torch.tensor(positions)]


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """Arguments that keep a model from filling a cache, where it, or its part that reads text, has one."""
    fills = any(getattr(config, "use_cache", None) is not None for config in (model.config, text_config(model)))
    return {"use_cache": False} if fills else {}


@dataclass(frozen=True)
class PassResult:
    """What one forward and one backward pass give; L layers, H heads, Q = K positions, float32 on the CPU.

    Attributes:
        target: what is explained.
        logit: of the target.
        probability: of the target.
        position: the position whose row of logits the target is in, or the only query of the last layer that the logit depends on; or None,
            as for an encoder and decoder, whose logits are at positions of the decoder.
        layers: indices of the layers that were called.
        signed: per layer, whether it computes TanhMax.
        weights: `[L, H, Q, K]`.
        orientation: `[L, H]`.
        one_signed: `[L, H]`, boolean.
        contributions: `[L, H, Q, K]`, in logits.
        has_gradient: `[L, Q]`, boolean: the queries whose output the logit depends on.
        gradient: norm of the gradient of the logit with respect to each token's embedding `[K]`, or each pixel `[height, width]`.
        input_x_gradient: sum of the gradient times its input, per token `[K]` or per pixel `[height, width]`, in logits.
    """

    target: Target
    logit: float
    probability: float
    position: int | None
    layers: tuple[int, ...]
    signed: tuple[bool, ...]
    weights: Tensor
    orientation: Tensor
    one_signed: Tensor
    contributions: Tensor
    has_gradient: Tensor
    gradient: Tensor
    input_x_gradient: Tensor


def forward_backward(
    model: PreTrainedModel,
    inputs: dict[str, Tensor],
    target: int | str | None,
    layers: list[int],
    *,
    position: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    skip_uncalled: bool = False,
) -> PassResult:
    """Run the model once forward and once backward.

    Args:
        model: in evaluation mode, gradients enabled.
        inputs: a batch of one.
        target: as for `explain`.
        layers: indices of attention layers, sorted.
        position: as for `choose_target`.
        tokenizer: as for `choose_target`.
        skip_uncalled: whether layers that the forward pass does not call are left out, such as the cross attention of a decoder alone.

    Raises:
        ValueError: no such target; layers that computed no attention, did so several times, or have unequal shapes; results that are not
            finite.
    """
    with _differentiable_input(model, inputs) as (differentiable, pixels), record_attention(model, resolve_layers(model)) as records:
        logits = logits_of(model(**{**inputs, **pixels}, **without_cache(model)), model)
    called = [record for record in records if record.calls]
    if not skip_uncalled:
        _check_called([record for record in records if record.layer in layers])
    layers = [record.layer for record in called if record.layer in layers]
    records = [record for record in called if record.layer in layers or record is called[-1]]
    _check_records(model, logits, records, batch=len(next(iter(inputs.values()))))
    _check_embedded(model, differentiable)
    chosen = choose_target(model, logits.detach(), inputs, target, position=position, tokenizer=tokenizer)
    logit = chosen.of(logits).sum()
    sources = [*(record.outputs for record in records), differentiable[0]]
    *output_gradients, input_gradient = torch.autograd.grad(logit, sources, materialize_grads=True)
    explained = [
        (record, gradient) for record, gradient in zip(records, output_gradients, strict=True) if record.layer in layers
    ]  # the last layer in any case, for the position
    heads = [_weights_and_contributions(record, gradient) for record, gradient in explained]
    weights, contributions = (torch.stack(side) for side in zip(*heads, strict=True))
    check_finite(model, {"contributions": contributions})
    channels = 0 if pixels else -1
    return PassResult(
        target=chosen,
        logit=float(logit.detach()),
        probability=float(chosen.probability(logits.detach(), model.config)),
        position=None if DECODER_IDS in inputs else _position(chosen, _queries_with_gradient(output_gradients[-1])),
        layers=tuple(layers),
        signed=tuple(record.signed for record, _ in explained),
        weights=weights,
        orientation=orientation_of(weights, contributions),
        one_signed=one_signed(weights),
        contributions=contributions,
        has_gradient=torch.stack([_queries_with_gradient(gradient) for _, gradient in explained]),
        gradient=input_gradient[0].float().norm(dim=channels).cpu(),
        input_x_gradient=(input_gradient * differentiable[0].detach())[0].float().sum(channels).cpu(),
    )


@contextmanager
def _differentiable_input(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Iterator[tuple[list[Tensor], dict[str, Tensor]]]:
    """A list that holds the pixels, or will hold the embeddings after a forward pass; and the pixels to call the model with."""
    if PIXELS in inputs:
        pixels = inputs[PIXELS].detach().clone().requires_grad_()
        yield [pixels], {PIXELS: pixels}
        return
    embeddings: list[Tensor] = []

    def _keep(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        embeddings.append(output if output.requires_grad else output.requires_grad_())

    handle = input_embeddings(model).register_forward_hook(_keep)
    try:
        yield embeddings, {}
    finally:
        handle.remove()


def _position(target: Target, has_gradient: Tensor) -> int | None:
    return int(has_gradient.nonzero()) if target.position is None and int(has_gradient.sum()) == 1 else target.position


def _queries_with_gradient(gradient: Tensor) -> Tensor:
    return gradient[0].ne(0).flatten(1).any(1).cpu()


def _weights_and_contributions(record: LayerRecord, gradient: Tensor) -> tuple[Tensor, Tensor]:
    weights, values = record.weights[0].detach().float(), record.values[0].detach().float()
    return weights.cpu(), contributions_of(weights, values, gradient[0].detach().transpose(0, 1).float()).cpu()


def _check_called(records: list[LayerRecord]) -> None:
    uncalled = [f"{record.layer} ({record.name})" for record in records if not record.calls]
    if uncalled:
        raise ValueError(f"no attentions to be had from layers {', '.join(uncalled)}: their modules were not called in the forward pass")


def _check_embedded(model: PreTrainedModel, embeddings: list[Tensor]) -> None:
    if len(embeddings) != 1:
        raise ValueError(
            f"{type(model).__name__} embeds its input {len(embeddings)} times in a forward pass, so it has no one gradient to explain"
        )


def _check_records(model: PreTrainedModel, logits: Tensor, records: list[LayerRecord], *, batch: int) -> None:
    kind = type(model).__name__
    if not records:
        raise ValueError(f"no attentions to be had from {kind}: no attention module was called in the forward pass")
    for record in records:
        if record.calls > 1:
            raise ValueError(
                f"{kind} calls layer {record.layer} ({record.name}) {record.calls} times in a forward pass, as its layers share weights, "
                "so there is no one matrix of weights to show"
            )
        if len(record.weights) != batch:
            raise ValueError(
                f"layer {record.layer} ({record.name}) of {kind} attends in {len(record.weights)} windows of the input, which have no "
                "common positions to show"
            )
    shapes = {tuple(record.weights.shape[1:]) for record in records}
    if len(shapes) > 1:
        raise ValueError(
            f"layers of unequal heads or lengths cannot be shown together, but they are {sorted(shapes)}; name layers= that agree"
        )
    weights = {f"the attention weights of layer {record.layer}": record.weights for record in records}
    check_finite(model, {**weights, "the logits": logits})
