"""Many copies of inputs, each with something erased, through the model in full batches, and the target's log-odds of each.

Copies of equal length go through together, whichever text they are of, so nothing is ever padded and a copy gets what it would get alone.
The ways to erase:

* `"attention"`: no query of the chosen layers hears the position: column j of their weights becomes 0, and nothing is divided again. As
  :math:`o_i = \\sum_j w_{ij} v_j`, that is the value :math:`v_j = 0`, so it runs on the fast path, which has no weights. The position's own
  residual stream stays.
* `"mask"`: the token becomes the baseline token, the patch becomes 0.
* `"deletion"`: the token is taken out, and later ones move up; where none would be left, the first one is masked.
* `"permutation"`, `"random"`: nothing is erased; the weights of every row (layer, head, query) are shuffled over the keys that it sees, or
  come from scores of random queries and keys by the layer's own map, so that they are normalised as its own are.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...patching import attention_modules
from ..attribution.altered import deaf_to, random, shuffled
from ..attribution.calling import rows_of_logits
from ..attribution.hooks import Attend, watching
from ..attribution.target import Target
from ..inputs.encoding import IDS, PIXELS, Encoded

WAYS = ("attention", "mask", "deletion", "permutation", "random")


@dataclass(frozen=True)
class Copy:
    """One changed copy of an input.

    Attributes:
        case: index of the input.
        way: one of `WAYS`.
        erased: positions that are erased.
        draw: tells random copies apart, and seeds them.
    """

    case: int
    way: str
    erased: frozenset[int] = frozenset()
    draw: int = 0


@dataclass(frozen=True)
class Case:
    """One input and its target; `grid` as in `Explanation`."""

    encoded: Encoded
    target: Target
    grid: tuple[int, int] | None = None


class Eraser:
    """Runs copies.

    Args:
        model: in evaluation mode.
        cases: the inputs, by their index.
        layers: indices of the attention layers where weights are erased or replaced.
        baseline: the token that masks.
        batch_size: copies that go through the model together.
        seed: of random copies; the same for every batch size and order.
        progress: called with the number of copies done.
    """

    def __init__(
        self,
        model: Any,
        cases: dict[int, Case],
        *,
        layers: list[int],
        baseline: int,
        batch_size: int,
        seed: int = 0,
        progress: Callable[[int], Any] | None = None,
    ) -> None:
        self.model, self.cases, self.baseline = model, cases, baseline
        self.batch_size, self.seed, self.progress = batch_size, seed, progress
        modules = attention_modules(model)
        self.modules = [modules[layer] for layer in layers]

    @torch.no_grad()
    def log_odds(self, copies: Iterable[Copy]) -> dict[Copy, float]:
        """The target's log-odds, log p - log(1 - p), of every different copy.

        Raises:
            ValueError: a way that does not exist, or deletion from a picture.
        """
        groups: dict[tuple[Any, ...], list[Copy]] = defaultdict(list)
        for copy in dict.fromkeys(copies):
            groups[self._kind(copy)].append(copy)
        found: dict[Copy, float] = {}
        for (way, *_), members in groups.items():
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                found.update(zip(batch, self._run(way, batch), strict=True))
                if self.progress is not None:
                    self.progress(len(batch))
        return found

    def _kind(self, copy: Copy) -> tuple[Any, ...]:
        """What copies of one batch must have in common: how attention is computed, the shape, and what tells whether a position is read."""
        if copy.way not in WAYS:
            raise ValueError(f"there is no way to erase called {copy.way!r}; choose one of {', '.join(WAYS)}")
        case = self.cases[copy.case]
        names = tuple(sorted(case.encoded.inputs))
        if case.encoded.is_image:
            if copy.way == "deletion":
                raise ValueError('a patch cannot be deleted from a picture; erase by "mask" or "attention"')
            shape: tuple[int, ...] = tuple(case.encoded.inputs[PIXELS].shape[1:])
        else:
            shape = (max(1, case.encoded.inputs[IDS].shape[1] - (len(copy.erased) if copy.way == "deletion" else 0)),)
        return (copy.way if copy.way in ("permutation", "random", "attention") else "input", shape, names, case.target.position is None)

    def _run(self, way: str, batch: list[Copy]) -> list[float]:
        inputs = [self._inputs(copy) for copy in batch]
        joined = {name: torch.cat([row[name] for row in inputs]) for name in inputs[0]}
        targets = [self._target(copy) for copy in batch]
        with watching(self.modules, self._attends(way, batch)) if way != "input" else nullcontext():
            rows = rows_of_logits(self.model, joined, [position for _, position in targets])
        return log_odds_of(rows, torch.tensor([index for index, _ in targets]), self.model.config).tolist()

    def _inputs(self, copy: Copy) -> dict[str, Tensor]:
        case = self.cases[copy.case]
        inputs, places = case.encoded.inputs, sorted(copy.erased)
        if not places or copy.way not in ("mask", "deletion"):
            return inputs
        if copy.way == "mask":
            return without_patches(case, places) if case.encoded.is_image else self._masked(inputs, places)
        length = inputs[IDS].shape[1]
        if len(places) == length:
            inputs, places = self._masked(inputs, [0]), places[1:]
        kept = torch.tensor([place for place in range(length) if place not in places], device=inputs[IDS].device)
        return {name: value[:, kept] if value.shape[:2] == (1, length) else value for name, value in inputs.items()}

    def _masked(self, inputs: dict[str, Tensor], places: list[int]) -> dict[str, Tensor]:
        tokens = inputs[IDS].clone()
        tokens[0, places] = self.baseline
        return {**inputs, IDS: tokens}

    def _target(self, copy: Copy) -> tuple[int, int | None]:
        target = self.cases[copy.case].target
        if target.position is None or copy.way != "deletion":
            return target.index, target.position
        # The position itself may go, as the last one of a causal model: then the one before it is read.
        return target.index, max(sum(place not in copy.erased for place in range(target.position + 1)) - 1, 0)

    def _attends(self, way: str, batch: list[Copy]) -> list[Attend]:
        if way == "attention":
            return [deaf_to([sorted(copy.erased) for copy in batch])] * len(self.modules)
        draw = {"permutation": shuffled, "random": random}[way]
        return [draw([(self.seed, copy.case, copy.draw, place) for copy in batch]) for place in range(len(self.modules))]


def log_odds_of(rows: Tensor, index: Tensor, config: Any) -> Tensor:
    """Log-odds of one target for each row of logits, float64: its logit less the log-sum-exp of the others.

    Where labels do not exclude each other, or there is one output, it is the logit itself.

    Args:
        rows: logits, `[batch, classes]`.
        index: `[batch]`.
        config: of the model.
    """
    rows, index = rows.double(), index.to(rows.device)[:, None]
    chosen = rows.gather(1, index)
    if rows.shape[1] > 1 and getattr(config, "problem_type", None) != "multi_label_classification":
        chosen = chosen - rows.scatter(1, index, -torch.inf).logsumexp(1, keepdim=True)
    return chosen[:, 0].cpu()


def without_patches(case: Case, places: list[int]) -> dict[str, Tensor]:
    """Inputs of a picture with some patches 0, which is the mean grey of its normalisation."""
    pixels = case.encoded.inputs[PIXELS].clone()
    rows, columns = case.grid or (1, 1)
    height, width = pixels.shape[-2] // rows, pixels.shape[-1] // columns
    for place in places:
        patch = case.encoded.words[place]
        if patch is not None:
            row, column = divmod(patch, columns)
            pixels[..., row * height : (row + 1) * height, column * width : (column + 1) * width] = 0
    return {**case.encoded.inputs, PIXELS: pixels}
