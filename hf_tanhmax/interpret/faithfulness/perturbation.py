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
* `"soft"`: every number of the position's embedding, or of the pixels of its patch, becomes 0 but for a chance to be retained (Zhao and
  Aletras 2023). Chance 1 erases nothing; chance 0 erases all of it. The same seed draws the same numbers for every method and model.
* `"head"`, `"head_negatives"`: one head of one layer adds 0 to what its layer puts out, or adds its terms of positive weight alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ...integration.hooks import replace_attention
from ...integration.patching import attention_modules
from ..attribution.evaluation_mode import input_embeddings
from ..attribution.forward_passes import target_logits
from ..attribution.hooks import random_weights, seeded_noise, shuffled_weights, without_heads, zeroed_keys
from ..attribution.target import Target
from ..inputs.encoding import DECODER_IDS, IDS, PIXELS, EncodedInput, is_per_token

KINDS = ("attention", "mask", "deletion", "permutation", "random", "soft", "head", "head_negatives")
# A text is half done when it is explained, and done when its copies are; a bar counts whole texts.
BAR_FORMAT = "{l_bar}{bar}| {n:.0f}/{total_fmt} texts [{elapsed}<{remaining}]"
OF_INPUT = "input"  # stands for kinds whose attention is the model's own


@dataclass(frozen=True)
class Perturbation:
    """One perturbed copy of an input.

    Attributes:
        example: index of the input.
        kind: one of `KINDS`.
        erased: positions that are erased, or softly perturbed.
        draw: tells random copies apart, and seeds them.
        seed: of random copies; 0 of others, which are the same for every seed.
        retained: the chance of each of the erased positions, in ascending order, for `"soft"`.
        head: index of a layer among the explained ones, and of its head, for `"head"` and `"head_negatives"`.
    """

    example: int
    kind: str
    erased: frozenset[int] = frozenset()
    draw: int = 0
    seed: int = 0
    retained: tuple[float, ...] = ()
    head: tuple[int, int] | None = None


class TargetOutput(NamedTuple):
    """What the model says of the target: its logit, and log p - log(1 - p)."""

    logit: float
    log_odds: float


@dataclass(frozen=True)
class Example:
    """One input and its target; `grid` as in `Explanation`."""

    encoded: EncodedInput
    target: Target
    grid: tuple[int, int] | None = None


class _BatchKey(NamedTuple):
    """What the copies of one batch have in common: how attention is computed, the shape, the arguments, and whether a position is read."""

    attention: str
    layer: int
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
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self.model, self.examples, self.baseline = model, examples, baseline
        self.batch_size, self.progress = batch_size, progress
        modules = attention_modules(model)
        self.modules = [modules[layer] for layer in layers]

    def log_odds(self, perturbations: Iterable[Perturbation]) -> dict[Perturbation, float]:
        """The target's log-odds, log p - log(1 - p), of every different copy.

        Raises:
            ValueError: as `outputs`.
        """
        return {copy: output.log_odds for copy, output in self.outputs(perturbations).items()}

    @torch.no_grad()
    def outputs(self, perturbations: Iterable[Perturbation]) -> dict[Perturbation, TargetOutput]:
        """What the model says of the target, for every different copy.

        Raises:
            ValueError: a kind that does not exist, or deletion from an image.
        """
        groups: dict[_BatchKey, list[Perturbation]] = defaultdict(list)
        for perturbation in dict.fromkeys(perturbations):
            groups[self._batch_key(perturbation)].append(perturbation)
        outputs: dict[Perturbation, TargetOutput] = {}
        for key, members in groups.items():
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                outputs.update(zip(batch, self._run(key, batch), strict=True))
                if self.progress is not None:
                    self.progress(len(batch))
        return outputs

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
        of_input = kind in ("mask", "deletion") or (kind == "soft" and example.encoded.is_image)
        layer = -1 if perturbation.head is None else perturbation.head[0]
        return _BatchKey(OF_INPUT if of_input else kind, layer, shape, tuple(sorted(inputs)), example.target.position is None)

    def _run(self, key: _BatchKey, batch: list[Perturbation]) -> list[TargetOutput]:
        inputs = [self._inputs(perturbation) for perturbation in batch]
        joined = {name: torch.cat([row[name] for row in inputs]) for name in inputs[0]}
        targets = [self._index_and_position(perturbation) for perturbation in batch]
        with self._replaced(key, batch):
            rows = target_logits(self.model, joined, [position for _, position in targets])
        index = torch.tensor([index for index, _ in targets])
        logits = rows.double().gather(1, index.to(rows.device)[:, None])[:, 0]
        return [TargetOutput(*pair) for pair in zip(logits.tolist(), log_odds_of(rows, index, self.model.config).tolist(), strict=True)]

    def _inputs(self, perturbation: Perturbation) -> dict[str, Tensor]:
        example = self.examples[perturbation.example]
        inputs, erased = example.encoded.inputs, sorted(perturbation.erased)
        if perturbation.kind in ("mask", "soft") and erased and example.encoded.is_image:
            return _without_patches(example, perturbation)
        if not erased or perturbation.kind not in ("mask", "deletion"):
            return inputs
        if perturbation.kind == "mask":
            return self._masked(inputs, erased)
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

    def _replaced(self, key: _BatchKey, batch: list[Perturbation]) -> AbstractContextManager[None]:
        """What is other than the model's own while a batch is run."""
        kind = key.attention
        if kind == OF_INPUT:
            return nullcontext()
        if kind == "soft":
            return _softly_embedded(input_embeddings(self.model), batch)
        if kind == "attention":
            return replace_attention(self.modules, zeroed_keys([sorted(perturbation.erased) for perturbation in batch]))
        if key.layer >= 0:
            heads = [each.head[1] for each in batch if each.head is not None]
            return replace_attention([self.modules[key.layer]], without_heads(heads, negatives=kind == "head_negatives"))
        make = {"permutation": shuffled_weights, "random": random_weights}[kind]
        return replace_attention(
            self.modules, [make([(each.seed, each.example, each.draw, place) for each in batch]) for place in range(len(self.modules))]
        )


@contextmanager
def _softly_embedded(embeddings: nn.Module, batch: Sequence[Perturbation]) -> Iterator[None]:
    """Let a module that embeds a batch lose numbers by chance, inside a `with` block."""

    def _perturb(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        chances = torch.ones(output.shape[:2])
        for row, perturbation in enumerate(batch):
            chances[row, sorted(perturbation.erased)] = torch.tensor(perturbation.retained)
        return output * (_uniform(batch, tuple(output.shape[1:])) < chances[..., None]).to(output.device)

    handle = embeddings.register_forward_hook(_perturb)
    try:
        yield
    finally:
        handle.remove()


def _uniform(batch: Sequence[Perturbation], shape: tuple[int, ...]) -> Tensor:
    """Numbers of [0, 1), `[len(batch), *shape]`, float32 on the CPU."""
    return seeded_noise([(each.seed, each.example, each.draw) for each in batch], shape, torch.rand, torch.empty(0))


def advance(bar: tqdm, part: float) -> None:
    """Move a bar on, never past its end, where parts that were rounded would add up to more."""
    bar.update(min(part, bar.total - bar.n))


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


def _without_patches(example: Example, perturbation: Perturbation) -> dict[str, Tensor]:
    """Inputs of an image with some patches, or numbers of theirs, 0, which is the mean grey of its normalisation."""
    pixels = example.encoded.inputs[PIXELS].clone()
    rows, columns = example.grid or (1, 1)
    height, width = pixels.shape[-2] // rows, pixels.shape[-1] // columns
    positions = sorted(perturbation.erased)
    chances = dict(zip(positions, perturbation.retained, strict=True)) if perturbation.kind == "soft" else {}
    uniform = _uniform([perturbation], tuple(pixels.shape[1:])).to(pixels.device) if chances else torch.zeros_like(pixels)
    for position in positions:
        patch = example.encoded.words[position]
        if patch is not None:
            row, column = divmod(patch, columns)
            place = (..., slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
            pixels[place] *= uniform[place] < chances.get(position, 0.0)
    return {**example.encoded.inputs, PIXELS: pixels}
