"""Perturbed copies of inputs: parts removed or replaced, run through the model in full batches, and the target's log-odds of each.

Copies of equal length are run together, whichever text they are of, so nothing is ever padded and a copy gets what it would get alone.
The kinds of perturbation:

* `"attention"`: no query of the explained layers attends to the position: column j of their weights becomes 0, and nothing is divided
  again. As :math:`o_i = \\sum_j w_{ij} v_j`, that is the value :math:`v_j = 0`, so it runs on the fast path, which has no weights. The
  position's own residual stream stays.
* `"mask"`: the token becomes the baseline token, the patch becomes 0.
* `"deletion"`: the token is taken out, and later ones move up; where none would be left, the first one is masked.
* `"permutation"`, `"random"`: nothing is erased; the weights of every row (layer, head, query) are shuffled over the keys that are not
  masked, or come from scores of random queries and keys by the layer's own map, so that they are normalised as its own are.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...integration.hooks import AttentionFunction, replace_attention
from ...integration.patching import attention_modules
from ..attribution.forward_passes import target_logits
from ..attribution.hooks import random_weights, shuffled_weights, zeroed_keys
from ..attribution.target import Target
from ..inputs.encoding import DECODER_IDS, IDS, PIXELS, EncodedInput, is_per_token

KINDS = ("attention", "mask", "deletion", "permutation", "random")
OF_INPUT = "input"  # stands for "mask" and "deletion", whose attention is the model's own


@dataclass(frozen=True)
class Perturbation:
    """One perturbed copy of an input.

    Attributes:
        example: index of the input.
        kind: one of `KINDS`.
        erased: positions that are erased.
        draw: tells random copies apart, and seeds them.
    """

    example: int
    kind: str
    erased: frozenset[int] = frozenset()
    draw: int = 0


@dataclass(frozen=True)
class Example:
    """One input and its target; `grid` as in `Explanation`."""

    encoded: EncodedInput
    target: Target
    grid: tuple[int, int] | None = None


class _BatchKey(NamedTuple):
    """What the copies of one batch have in common: how attention is computed, the shape, the arguments, and whether a position is read."""

    attention: str
    shape: tuple[int, ...]
    arguments: tuple[str, ...]
    pooled: bool


class PerturbationRunner:
    """Runs perturbed copies of examples.

    Args:
        model: in evaluation mode.
        examples: the inputs, by their index.
        layers: indices of the attention layers whose weights are erased or replaced.
        baseline: the token that masks.
        batch_size: copies per forward pass.
        seed: of random copies; the same for every batch size and order.
        progress: called with the number of copies done.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        examples: dict[int, Example],
        *,
        layers: list[int],
        baseline: int,
        batch_size: int,
        seed: int = 0,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self.model, self.examples, self.baseline = model, examples, baseline
        self.batch_size, self.seed, self.progress = batch_size, seed, progress
        modules = attention_modules(model)
        self.modules = [modules[layer] for layer in layers]

    @torch.no_grad()
    def log_odds(self, perturbations: Iterable[Perturbation]) -> dict[Perturbation, float]:
        """The target's log-odds, log p - log(1 - p), of every different copy.

        Raises:
            ValueError: a kind that does not exist, or deletion from an image.
        """
        groups: dict[_BatchKey, list[Perturbation]] = defaultdict(list)
        for perturbation in dict.fromkeys(perturbations):
            groups[self._batch_key(perturbation)].append(perturbation)
        log_odds: dict[Perturbation, float] = {}
        for key, members in groups.items():
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                log_odds.update(zip(batch, self._run(key.attention, batch), strict=True))
                if self.progress is not None:
                    self.progress(len(batch))
        return log_odds

    def _batch_key(self, perturbation: Perturbation) -> _BatchKey:
        kind = perturbation.kind
        if kind not in KINDS:
            raise ValueError(f"there is no way to erase called {kind!r}; choose one of {', '.join(KINDS)}")
        example = self.examples[perturbation.example]
        inputs = example.encoded.inputs
        shape: tuple[int, ...]
        if example.encoded.is_image:
            if kind == "deletion":
                raise ValueError('a patch cannot be deleted from a picture; erase by "mask" or "attention"')
            shape = tuple(inputs[PIXELS].shape[1:])
        else:
            length = max(1, inputs[IDS].shape[1] - (len(perturbation.erased) if kind == "deletion" else 0))
            shape = (length, inputs[DECODER_IDS].shape[1] if DECODER_IDS in inputs else 0)
        attention = OF_INPUT if kind in ("mask", "deletion") else kind
        return _BatchKey(attention, shape, tuple(sorted(inputs)), example.target.position is None)

    def _run(self, attention: str, batch: list[Perturbation]) -> list[float]:
        inputs = [self._inputs(perturbation) for perturbation in batch]
        joined = {name: torch.cat([row[name] for row in inputs]) for name in inputs[0]}
        targets = [self._index_and_position(perturbation) for perturbation in batch]
        replaced = nullcontext() if attention == OF_INPUT else replace_attention(self.modules, self._attention(attention, batch))
        with replaced:
            rows = target_logits(self.model, joined, [position for _, position in targets])
        return log_odds_of(rows, torch.tensor([index for index, _ in targets]), self.model.config).tolist()

    def _inputs(self, perturbation: Perturbation) -> dict[str, Tensor]:
        example = self.examples[perturbation.example]
        inputs, erased = example.encoded.inputs, sorted(perturbation.erased)
        if not erased or perturbation.kind not in ("mask", "deletion"):
            return inputs
        if perturbation.kind == "mask":
            return _without_patches(example, erased) if example.encoded.is_image else self._masked(inputs, erased)
        length = inputs[IDS].shape[1]
        if len(erased) == length:
            inputs, erased = self._masked(inputs, [0]), erased[1:]
        kept = torch.tensor([position for position in range(length) if position not in erased], device=inputs[IDS].device)
        return {name: value[:, kept] if is_per_token(name, value, length) else value for name, value in inputs.items()}

    def _masked(self, inputs: dict[str, Tensor], positions: list[int]) -> dict[str, Tensor]:
        tokens = inputs[IDS].clone()
        tokens[0, positions] = self.baseline
        return {**inputs, IDS: tokens}

    def _index_and_position(self, perturbation: Perturbation) -> tuple[int, int | None]:
        target = self.examples[perturbation.example].target
        of_input = DECODER_IDS not in self.examples[perturbation.example].encoded.inputs
        if target.position is None or perturbation.kind != "deletion" or not of_input:
            return target.index, target.position
        # The position itself may be deleted, as the last one of a causal model: then the one before it is read.
        kept_before = sum(position not in perturbation.erased for position in range(target.position + 1))
        return target.index, max(kept_before - 1, 0)

    def _attention(self, kind: str, batch: list[Perturbation]) -> list[AttentionFunction]:
        """A function per layer."""
        if kind == "attention":
            return [zeroed_keys([sorted(perturbation.erased) for perturbation in batch])] * len(self.modules)
        make = {"permutation": shuffled_weights, "random": random_weights}[kind]
        return [make([(self.seed, each.example, each.draw, place) for each in batch]) for place in range(len(self.modules))]


def log_odds_of(rows: Tensor, index: Tensor, config: object) -> Tensor:
    """Log-odds of one target per row of logits, float64: its logit less the log-sum-exp of the others.

    Where labels do not exclude each other, or there is one output, it is the logit itself.

    Args:
        rows: logits, `[batch, classes]`.
        index: `[batch]`.
        config: of the model.
    """
    rows, index = rows.double(), index.to(rows.device)[:, None]
    log_odds = rows.gather(1, index)
    if rows.shape[1] > 1 and getattr(config, "problem_type", None) != "multi_label_classification":
        log_odds = log_odds - rows.scatter(1, index, -torch.inf).logsumexp(1, keepdim=True)
    return log_odds[:, 0].cpu()


def _without_patches(example: Example, positions: list[int]) -> dict[str, Tensor]:
    """Inputs of an image with some patches 0, which is the mean grey of its normalisation."""
    pixels = example.encoded.inputs[PIXELS].clone()
    rows, columns = example.grid or (1, 1)
    height, width = pixels.shape[-2] // rows, pixels.shape[-1] // columns
    for position in positions:
        patch = example.encoded.words[position]
        if patch is not None:
            row, column = divmod(patch, columns)
            pixels[..., row * height : (row + 1) * height, column * width : (column + 1) * width] = 0
    return {**example.encoded.inputs, PIXELS: pixels}
