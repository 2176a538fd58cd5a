"""Attention with other weights than a module's own, as functions that `recording.watching` lets it call."""

from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from ...registration import eager_forward
from .hooks import Attend, plainly, repeated


def deaf_to(erased: list[list[int]]) -> Attend:
    """Attention in which no query hears some positions, given for each input of the batch: their weights are 0, the others stay."""

    made: list[Tensor] = []  # once for all layers, as each copy from the host would be waited for

    def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        if not made:
            heard = torch.ones(len(erased), 1, value.shape[-2], 1)
            for row, places in enumerate(erased):
                heard[row, 0, places] = 0
            made.append(heard.to(value.device, value.dtype))
        return plainly(module, query, key, value * made[0], mask, **kwargs)

    return _attend


def _noise(seeds: list[tuple[int, ...]], shape: tuple[int, ...], make: Callable[..., Tensor], like: Tensor) -> Tensor:
    """Random tensors `[len(seeds), *shape]`, each row from its own seed, so that no batch changes them."""
    rows = []
    for seed in seeds:
        state = int(numpy.random.SeedSequence(seed).generate_state(1)[0])
        rows.append(make(shape, generator=torch.Generator().manual_seed(state)))
    return torch.stack(rows).to(like.device, like.dtype)


def shuffled(seeds: list[tuple[int, ...]]) -> Attend:
    """Attention whose weights are shuffled, every row of every head by itself, over the keys that it sees; a seed for each input."""

    def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        weights: Any = eager_forward(module, query, key, value, mask, **kwargs)[1]
        hidden = (weights == 0).all((0, 1))
        noise = _noise(seeds, tuple(weights.shape[1:]), torch.rand, weights.float()).masked_fill(hidden, torch.inf)
        shown = hidden.to(torch.uint8).argsort(stable=True).expand_as(weights)
        weights = torch.zeros_like(weights).scatter(-1, shown, weights.gather(-1, noise.argsort(-1)))
        return (weights @ repeated(value, query).to(weights.dtype)).transpose(1, 2).contiguous(), weights

    return _attend


def random(seeds: list[tuple[int, ...]]) -> Attend:
    """Attention of random queries to random keys, scores of standard deviation 1 under the module's own map; a seed for each input."""

    def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        first = _noise(seeds, tuple(query.shape[1:]), torch.randn, query)
        second = _noise([(*seed, 1) for seed in seeds], tuple(key.shape[1:]), torch.randn, key)
        return eager_forward(module, first, second, value, mask, **{**kwargs, "scaling": query.shape[-1] ** -0.5})

    return _attend
