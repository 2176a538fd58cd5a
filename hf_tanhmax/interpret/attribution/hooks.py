"""What hooks on attention do for explanations: record what every head computes, or compute attention with other weights."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import numpy
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...integration.hooks import AttentionCall, AttentionFunction, is_signed, replace_attention
from ...integration.patching import attention_modules
from ..inputs.encoding import PIXELS
from .evaluation_mode import encoder_of


@dataclass
class LayerRecord:
    """One layer's attention in one forward pass; B inputs, H heads, Q queries, K keys, D the size of a value.

    Attributes:
        layer: index of the layer in the model, counted from 0.
        name: the module's path in the model.
        signed: whether the layer computes TanhMax at a polarity above 0.
        weights: `[B, H, Q, K]`, as multiplied with the values. The three tensors are set when the layer is called.
        values: `[B, H, K, D]`, repeated where query heads share them.
        outputs: `[B, Q, H, D]`, part of the graph: gradients with respect to it can be asked for.
        calls: how often the layer was called.
    """

    layer: int
    name: str
    signed: bool
    weights: Tensor = field(init=False)
    values: Tensor = field(init=False)
    outputs: Tensor = field(init=False)
    calls: int = 0


@contextmanager
def record_attention(model: nn.Module, layers: list[int]) -> Iterator[list[LayerRecord]]:
    """Record the attention of some layers inside a `with` block; the last forward pass is kept.

    Args:
        model: a model whose attention asks Transformers' interface.
        layers: indices into its attention modules, counted from 0.

    Yields:
        One record per layer, filled by a forward pass.
    """
    names = {module: name for name, module in model.named_modules()}
    all_modules = attention_modules(model)
    modules = [all_modules[layer] for layer in layers]
    records = [LayerRecord(layer, names[module], is_signed(module.config)) for layer, module in zip(layers, modules, strict=True)]
    with replace_attention(modules, [_recorder(record) for record in records]):
        yield records


def _recorder(record: LayerRecord) -> AttentionFunction:
    def _record(call: AttentionCall) -> tuple[Tensor, Tensor]:
        record.calls += 1
        outputs, weights = call.compute_with_weights()
        if torch.is_grad_enabled() and not outputs.requires_grad:
            outputs.requires_grad_()
        record.weights, record.values, record.outputs = weights, call.value_per_head, outputs
        return outputs, weights

    return _record


class _Recorded(Exception):  # noqa: N818, nothing went wrong
    """Ends a forward pass of which all that is wanted has been recorded."""


def patch_positions(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> list[int]:
    """The positions of a model of images that hold its pixels; the others are class, distillation, register or detection tokens.

    Where those stand, no config says. So the pixels are changed, and the positions found whose values in the first layer change, before
    anything is mixed.

    Args:
        model: in evaluation mode.
        inputs: a batch of one, of which `pixel_values` are changed.
    """
    first = attention_modules(encoder_of(model) or model)[0]
    noise = torch.randn(inputs[PIXELS].shape, generator=torch.Generator().manual_seed(0)).to(inputs[PIXELS])
    values = [_first_values(model, first, {**inputs, PIXELS: pixels}) for pixels in (inputs[PIXELS], inputs[PIXELS] + noise)]
    change = (values[0] - values[1]).abs().amax((0, 1, 3))
    return (change > 1e-5 * values[0].abs().max()).nonzero().flatten().tolist()


def _first_values(model: PreTrainedModel, module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    found: list[Tensor] = []

    def _record(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        found.append(call.value.float())
        raise _Recorded

    with replace_attention([module], _record), suppress(_Recorded), torch.no_grad():
        model(**inputs)
    return found[0]


def zeroed_keys(positions: list[list[int]]) -> AttentionFunction:
    """Attention in which some keys have weight 0 for every query; the other weights stay, and nothing is divided again.

    Args:
        positions: the keys, per input of the batch.
    """
    factors: list[Tensor] = []  # once for all layers, as each copy from the host would be waited for

    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        if not factors:
            factor = torch.ones(len(positions), 1, call.value.shape[-2], 1)
            for row, keys in enumerate(positions):
                factor[row, 0, keys] = 0
            factors.append(factor.to(call.value.device, call.value.dtype))
        return replace(call, value=call.value * factors[0]).compute()

    return _attend


def without_heads(heads: list[int], *, negatives: bool = False) -> AttentionFunction:
    """Attention in which one head of each input adds nothing; the others stay as they are.

    Args:
        heads: the head, per input of the batch.
        negatives: whether only its terms of negative weight are left out.
    """

    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        rows = torch.arange(len(heads))
        if negatives:
            output, weights = call.compute_with_weights()
            negative = torch.zeros_like(weights)
            negative[rows, heads] = weights[rows, heads].clamp(max=0)
            return output - call.weighted(negative), None
        output, weights_or_none = call.compute()
        factor = torch.ones(len(heads), 1, output.shape[2], 1, dtype=output.dtype)
        factor[rows, 0, heads] = 0
        return output * factor.to(output.device), weights_or_none

    return _attend


def shuffled_weights(seeds: list[tuple[int, ...]]) -> AttentionFunction:
    """Attention whose weights are shuffled over the keys that are not masked, separately for every head and query.

    Args:
        seeds: one per input of the batch.
    """

    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
        weights = call.compute_with_weights()[1]
        masked = (weights == 0).all((0, 1))
        noise = seeded_noise(seeds, tuple(weights.shape[1:]), torch.rand, weights.float()).masked_fill(masked, torch.inf)
        unmasked_first = masked.to(torch.uint8).argsort(stable=True).expand_as(weights)
        weights = torch.zeros_like(weights).scatter(-1, unmasked_first, weights.gather(-1, noise.argsort(-1)))
        return call.weighted(weights), weights

    return _attend


def random_weights(seeds: list[tuple[int, ...]]) -> AttentionFunction:
    """Attention of random queries to random keys: scores of standard deviation 1 under the module's own map.

    Args:
        seeds: one per input of the batch.
    """

    def _attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
        query = seeded_noise(seeds, tuple(call.query.shape[1:]), torch.randn, call.query)
        key = seeded_noise([(*seed, 1) for seed in seeds], tuple(call.key.shape[1:]), torch.randn, call.key)
        options = {**call.options, "scaling": query.shape[-1] ** -0.5}
        return replace(call, query=query, key=key, options=options).compute_with_weights()

    return _attend


def seeded_noise(seeds: list[tuple[int, ...]], shape: tuple[int, ...], make: Callable[..., Tensor], like: Tensor) -> Tensor:
    """Random tensors `[len(seeds), *shape]`, each row from its own seed, so that the batch does not change them."""
    rows = []
    for seed in seeds:
        state = int(numpy.random.SeedSequence(seed).generate_state(1)[0])
        rows.append(make(shape, generator=torch.Generator().manual_seed(state)))
    return torch.stack(rows).to(like.device, like.dtype)
