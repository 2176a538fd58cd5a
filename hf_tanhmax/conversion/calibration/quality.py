"""How close a converted model is to the softmax model, on inputs that nothing was fitted to, and how negative its weights are there."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from ...integration.hooks import AttentionCall, AttentionFunction, replace_attention
from ...models.family import HEADS
from ..regression import TINY
from ..report import Quality
from ..runner import Batch, Runner, chosen_heads, run_model, values_of
from ..statistics import keys_seen, real_rows

LARGEST = 2**26  # numbers of the softmax model that are kept: rows times classes or tokens of the vocabulary


class Outputs(NamedTuple):
    """What a model computes for one batch.

    Attributes:
        rows: `[rows, classes]` log probabilities of the real rows in float32 or, without such a head, their last hidden states.
        are_probabilities: which of the two.
        surprise: the sum of -log p of the next tokens, of a causal language model.
        predicted: how many these are.
    """

    rows: Tensor
    are_probabilities: bool
    surprise: float
    predicted: int


class Comparison:
    """A model, held-out batches, and what the softmax model computes for them, which is kept.

    Args:
        runner: the model, whose weights are still those of softmax.
        batches: as many of them are used as there is room for, the first at least.
        polarity: to compare at; None is the model's own.
        held_out: whether nothing is fitted to these batches.
    """

    def __init__(self, runner: Runner, batches: Sequence[Batch], *, polarity: float | None = None, held_out: bool = True) -> None:
        self.runner, self.polarity, self.held_out = runner, polarity, held_out
        self.batches: list[Batch] = []
        self.softmax: list[Outputs] = []
        room = LARGEST
        for batch in batches:
            found = self._outputs(batch, AttentionCall.compute, 0.0)
            if self.batches and found.rows.numel() > room:
                break
            room -= found.rows.numel()
            self.batches.append(batch)
            self.softmax.append(found)
        self.before = self._compared(AttentionCall.compute)

    def quality(self) -> Quality:
        """The model as it is now against the softmax model, and against itself when this was made.

        Raises:
            ValueError: it computes NaN.
        """
        masses = _Masses(self.runner)
        after = self._compared(masses.measure)
        if not math.isfinite(after[0]):
            raise ValueError(f"converted, {type(self.runner.model).__name__} computes NaN for the held-out inputs; try float32")
        first = self.softmax[0]
        count = sum(each.predicted for each in self.softmax)
        perplexities = [
            _perplexity(surprise, count) for surprise in (sum(each.surprise for each in self.softmax), self.before[1], after[1])
        ]
        probabilities = first.are_probabilities
        return Quality(
            held_out=self.held_out,
            rows=sum(len(each.rows) for each in self.softmax),
            kl_before=self.before[0] if probabilities else None,
            kl_after=after[0] if probabilities else None,
            cosine_before=None if probabilities else self.before[0],
            cosine_after=None if probabilities else after[0],
            perplexity_softmax=perplexities[0],
            perplexity_before=perplexities[1],
            perplexity_after=perplexities[2],
            negative_mass=masses.by_layer(),
            negative_mass_by_length=masses.by_length(),
        )

    def _compared(self, function: AttentionFunction) -> tuple[float, float]:
        """Mean divergence from the softmax model, or mean cosine to it, and the sum of -log p of next tokens."""
        total, surprise, rows = 0.0, 0.0, 0
        for batch, softmax in zip(self.batches, self.softmax, strict=True):
            found = self._outputs(batch, function, self.polarity)
            total += _divergence(softmax.rows, found.rows) if softmax.are_probabilities else _cosine(softmax.rows, found.rows)
            surprise, rows = surprise + found.surprise, rows + len(found.rows)
        return total / max(rows, 1), surprise

    @torch.no_grad()
    def _outputs(self, batch: Batch, function: AttentionFunction, polarity: float | None) -> Outputs:
        runner = self.runner
        with replace_attention(runner.modules, runner.noting(function), polarity=polarity):
            output = run_model(runner.model, batch)
        logits = getattr(output, "logits", None)
        probabilities = isinstance(logits, Tensor) and logits.dim() in (2, 3) and logits.shape[-1] > 1
        states = logits if probabilities else next(iter(values_of(output)), None)
        if isinstance(states, Tensor) and states.dim() > 3:  # of a picture, or of masks
            states = states.flatten(1)
        if not isinstance(states, Tensor) or states.dim() not in (2, 3):
            raise ValueError(f"{type(runner.model).__name__} returns no logits or hidden states to compare; convert the part that does")
        states = states.float()
        if probabilities:
            states = states.log_softmax(-1)
        surprise, predicted = _surprise(runner.model, states, batch, runner.real) if probabilities else (0.0, 0)
        if states.dim() == 3:
            states = states[runner.real] if runner.real.shape == states.shape[:2] else states.flatten(0, 1)
        return Outputs(states, probabilities, surprise, predicted)


class _Masses:
    """Sums of negative and of all absolute weight, by layer, and by how many keys a query sees: 1, 2 to 3, 4 to 7, ..."""

    def __init__(self, runner: Runner) -> None:
        self.index = {module: layer for layer, module in enumerate(runner.modules)}
        self.layers = torch.zeros(len(runner.modules), 2, dtype=torch.float64)
        self.lengths = torch.zeros(64, 2, dtype=torch.float64)
        self.longest = 1

    def measure(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """Compute attention, and add its weights up."""
        output, weights = call.compute_with_weights()
        weights = weights[:, chosen_heads(call.module)].float()
        found = torch.stack([-weights.clamp(max=0).sum((1, 3)), weights.abs().sum((1, 3))], dim=-1)  # [batch, queries, 2]
        real = real_rows(call)
        rows, seen = found[real].double().cpu(), keys_seen(call)[real].cpu()
        self.layers[self.index[call.module]] += rows.sum(0)
        self.longest = max(self.longest, int(seen.max()) if len(seen) else 1)
        self.lengths.index_add_(0, seen.clamp(min=1).log2().long(), rows)
        return output, weights

    def by_layer(self) -> tuple[float, ...]:
        """The negative mass of every layer."""
        return tuple((self.layers[:, 0] / self.layers[:, 1].clamp(min=TINY)).tolist())

    def by_length(self) -> tuple[tuple[int, int, float], ...]:
        """The fewest and most keys, and the negative mass of the queries of all layers that see so many."""
        return tuple(
            (2**power, min(2 ** (power + 1) - 1, self.longest), negative / total)
            for power, (negative, total) in enumerate(self.lengths.tolist())
            if total > 0
        )


def is_language_model(model: torch.nn.Module) -> bool:
    """Whether a model predicts the next token of a text."""
    config_class: Any = getattr(type(model), "config_class", None)
    causal = HEADS.get(config_class, {}).get("AutoModelForCausalLM")
    return type(model) is causal and bool(getattr(model.config, "is_decoder", True))


def _surprise(model: PreTrainedModel | torch.nn.Module, logs: Tensor, batch: Batch, real: Tensor) -> tuple[float, int]:
    ids = batch.get("input_ids")
    if not is_language_model(model) or not isinstance(ids, Tensor) or logs.shape[:2] != ids.shape or real.shape != ids.shape:
        return 0.0, 0
    chosen = logs[:, :-1].gather(-1, ids[:, 1:, None].to(logs.device))[..., 0]
    valid = (real[:, 1:] & real[:, :-1]).to(logs.device)
    return float(-chosen[valid].double().sum()), int(valid.sum())


def _divergence(softmax: Tensor, found: Tensor) -> float:
    """The sum over rows of KL(softmax model || model), in nats."""
    pairs = zip(softmax.split(256), found.split(256), strict=True)
    return sum(float(F.kl_div(mine, wanted, reduction="sum", log_target=True)) for wanted, mine in pairs)


def _cosine(softmax: Tensor, found: Tensor) -> float:
    return float(F.cosine_similarity(softmax, found, dim=-1).double().sum())


def _perplexity(surprise: float, predicted: int) -> float | None:
    return math.exp(min(surprise / predicted, 700.0)) if predicted else None
