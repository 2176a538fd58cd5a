"""How a model is called: forward for the logits of a target alone, or forward and backward with everything that each head computes."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...integration.patching import attention_modules
from ..inputs.encoding import IDS, PIXELS
from .evaluation_mode import check_finite
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
    length = inputs[IDS].shape[1] if IDS in inputs else 0
    last = all(position == length - 1 for position in positions)
    keep_last = {"logits_to_keep": 1} if last and "logits_to_keep" in inspect.signature(type(model).forward).parameters else {}
    logits = model(**inputs, **without_cache(model), **keep_last).logits
    if logits.dim() == 2:
        return logits
    return logits[:, -1] if keep_last else logits[torch.arange(len(positions)), torch.tensor(positions)]


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """Arguments that keep a model from filling a cache, where it has one."""
    return {} if getattr(model.config, "use_cache", None) is None else {"use_cache": False}


@dataclass(frozen=True)
class PassResult:
    """What one forward and one backward pass give; L layers, H heads, Q = K positions, float32 on the CPU.

    Attributes:
        target: what is explained.
        logit: of the target.
        probability: of the target.
        position: the position whose row of logits the target is in, or the only query of the last layer that the logit depends on; or None.
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
) -> PassResult:
    """Run the model once forward and once backward.

    Args:
        model: in evaluation mode, gradients enabled.
        inputs: a batch of one.
        target: as for `explain`.
        layers: indices of attention layers, sorted.
        position: as for `choose_target`.
        tokenizer: as for `choose_target`.

    Raises:
        ValueError: no such target; layers that computed no attention, or of unequal shapes; results that are not finite.
    """
    last = len(attention_modules(model)) - 1
    with _differentiable_input(model, inputs) as (differentiable, pixels), record_attention(model, sorted({*layers, last})) as records:
        logits = logits_of(model(**{**inputs, **pixels}, **without_cache(model)), model)
    _check_records(model, logits, records)
    chosen = choose_target(model, logits.detach(), inputs, target, position=position, tokenizer=tokenizer)
    logit = chosen.of(logits).sum()
    sources = [*(record.outputs for record in records), differentiable[0]]
    *output_gradients, input_gradient = torch.autograd.grad(logit, sources, materialize_grads=True)
    explained = [
        (record, gradient) for record, gradient in zip(records, output_gradients, strict=True) if record.layer in layers
    ]  # the last layer is recorded in any case, for the position
    heads = [_weights_and_contributions(record, gradient) for record, gradient in explained]
    weights, contributions = (torch.stack(side) for side in zip(*heads, strict=True))
    check_finite(model, {"contributions": contributions})
    channels = 0 if pixels else -1
    return PassResult(
        target=chosen,
        logit=float(logit.detach()),
        probability=float(chosen.probability(logits.detach(), model.config)),
        position=_position(chosen, _queries_with_gradient(output_gradients[-1])),
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

    handle = model.get_input_embeddings().register_forward_hook(_keep)
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


def _check_records(model: PreTrainedModel, logits: Tensor, records: list[LayerRecord]) -> None:
    uncalled = [f"{record.layer} ({record.name})" for record in records if not record.recorded]
    if uncalled:
        raise ValueError(f"no attentions to be had from layers {', '.join(uncalled)}: their modules were not called in the forward pass")
    shapes = {tuple(record.weights.shape[1:]) for record in records}
    if len(shapes) > 1:
        raise ValueError(
            f"layers of unequal heads or lengths cannot be shown together, but they are {sorted(shapes)}; name layers= that agree"
        )
    weights = {f"the attention weights of layer {record.layer}": record.weights for record in records}
    check_finite(model, {**weights, "the logits": logits})
