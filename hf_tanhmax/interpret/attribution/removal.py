r"""Scores by removal, through captum: occlusion and KernelSHAP. The model is only run forward, so both serve any model.

The players are the tokens that are not special, or the patches of an image. One that is removed becomes the baseline's: a token that says
nothing, or the mean grey of the image's normalisation. With F(S) the logit where the players in S are there and the others removed,

* occlusion (Zeiler and Fergus 2014) is F(all) - F(all but i), one player at a time. It promises no sum: what two players do only together
  is counted twice, and what either could do alone not at all;
* KernelSHAP (Lundberg and Lee 2017) is the weighted least squares fit of :math:`\phi_0 + \sum_{i \in S} \phi_i` to F(S), which are the
  Shapley values where all subsets are run, and estimates of them where subsets are drawn. The two ends are fitted exactly, so the scores
  add up to F(all) - F(none) in either case; by how much draws differ from the Shapley values, their sum does not tell.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...errors import optional_package
from ..inputs.encoding import IDS, PIXELS, EncodedInput
from .conservation import CHANGE, Conservation
from .decomposition.scores import Scores
from .forward_passes import target_logits
from .integrated_gradients import TOKENS_PER_BATCH, TOKENS_PER_IMAGE
from .target import Target

SAMPLES = 512  # subsets of KernelSHAP; all there are of nine players
SEED = 0  # of the subsets that are drawn
INFINITE = 1e6  # weight of the two subsets that must be fitted exactly, as captum has it


@dataclass(frozen=True)
class Removal:
    """One input whose players can be removed.

    Attributes:
        model: in evaluation mode.
        encoded: the input, with names for its positions.
        target: which logit.
        grid: rows and columns of patches, for images.
        baseline: the token that stands for a removed one; not read for images.
    """

    model: PreTrainedModel
    encoded: EncodedInput
    target: Target
    grid: tuple[int, int] | None
    baseline: int

    @property
    def players(self) -> tuple[int, ...]:
        """Their positions."""
        return self.encoded.content_positions

    @property
    def at_once(self) -> int:
        """How many copies of the input go through the model at once."""
        inputs = self.encoded.inputs
        return max(1, TOKENS_PER_BATCH // (TOKENS_PER_IMAGE if self.grid else inputs[IDS].shape[1]))

    @torch.no_grad()
    def logits(self, present: Tensor) -> Tensor:
        """The target's logit of copies, `[copies]`. Copies that are the same are run once: small and large subsets are drawn often.

        Args:
            present: which players are there, `[copies, players]`, 1 or 0.
        """
        different, place = torch.unique(present > 0, dim=0, return_inverse=True)
        rows = []
        for part in different.split(self.at_once):
            rows.append(target_logits(self.model, self._copies(part), [self.target.position] * len(part))[:, self.target.index])
        logits = torch.cat(rows)
        return logits[place.to(logits.device)]

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The target's logit of no player and of all of them, `[1]` each."""
        none, all_there = self.logits(torch.tensor([[0.0], [1.0]]).expand(2, len(self.players))).split(1)
        return none, all_there

    def _copies(self, present: Tensor) -> dict[str, Tensor]:
        inputs = {name: value.expand(len(present), *value.shape[1:]) for name, value in self.encoded.inputs.items()}
        if self.grid is None:
            tokens = inputs[IDS].clone()
            places = torch.tensor(self.players, device=tokens.device)
            tokens[:, places] = torch.where(present.to(tokens.device), tokens[:, places], self.baseline)
            return {**inputs, IDS: tokens}
        pixels, (rows, columns) = inputs[PIXELS], self.grid
        height, width = pixels.shape[-2] // rows, pixels.shape[-1] // columns
        shown = present.reshape(-1, 1, rows, columns).repeat_interleave(height, -2).repeat_interleave(width, -1)
        kept = torch.ones_like(pixels[:, :1], dtype=torch.bool)  # beside the patches, what no patch reads
        kept[..., : rows * height, : columns * width] = shown.to(pixels.device)
        return {**inputs, PIXELS: pixels * kept}

    def scores(self, values: Tensor) -> Scores:
        """Scores of all positions from those of the players, `[players]`."""
        everywhere = torch.zeros(len(self.encoded.tokens))
        everywhere[list(self.players)] = values.detach().float().cpu()
        none, all_there = self.ends
        return Scores(everywhere, Conservation.of(values, float(all_there) - float(none), CHANGE))


def occlusion(removal: Removal) -> Scores:
    """What the logit loses where one player alone is removed, `[K]`; special tokens have 0.

    Args:
        removal: the input and how its players are removed.

    Raises:
        ImportError: captum is not installed.
    """
    captum = optional_package("captum.attr", "occlusion and KernelSHAP")
    full = torch.ones(1, len(removal.players))
    values = captum.FeatureAblation(removal.logits).attribute(full, baselines=0, perturbations_per_eval=removal.at_once)
    return removal.scores(values[0])


def kernel_shap(removal: Removal, samples: int = SAMPLES, seed: int = SEED) -> Scores:
    """Shapley values of the players, `[K]`; special tokens have 0. All subsets are run if they are no more than the samples.

    Args:
        removal: the input and how its players are removed.
        samples: the most subsets to run.
        seed: of those that are drawn.

    Raises:
        ImportError: captum or scikit-learn is not installed.
        ValueError: fewer samples than players.
    """
    captum = optional_package("captum.attr", "occlusion and KernelSHAP")
    optional_package("sklearn.linear_model", "KernelSHAP scores")
    count = len(removal.players)
    if samples < count + 2:
        raise ValueError(f"KernelSHAP of {count} tokens or patches needs at least {count + 2} samples, but samples is {samples}")
    if count == 1:
        none, all_there = removal.ends
        return removal.scores(all_there - none)
    exact = count <= math.log2(samples)
    options = {"baselines": 0, "n_samples": 2**count if exact else samples, "perturbations_per_eval": removal.at_once}
    explainer: Any = captum.KernelShap(_relative(removal))
    if exact:
        explainer.perturb_func, explainer.similarity_func = _every_subset, _shapley_kernel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scores = removal.scores(explainer.attribute(torch.ones(1, count), **options)[0])
    if exact:
        return scores
    note = f"KernelSHAP draws {samples} of the {2**count:.2g} subsets of {count} tokens or patches, so its scores are estimates"
    return Scores(scores.values, scores.conservation, (note,))


def _relative(removal: Removal) -> Callable[[Tensor], Tensor]:
    """Logits less that of no player: a fit in float32 keeps the digits of what is left."""
    return lambda present: removal.logits(present) - removal.ends[0]


def _every_subset(original: Tensor, **_: Any) -> Iterator[Tensor]:
    for subset in product((1, 0), repeat=original.shape[1]):
        yield torch.tensor([subset])


def _shapley_kernel(_: Tensor, __: Tensor, subset: Tensor, **___: Any) -> Tensor:
    """The weight of a subset of s among n: (n - 1) / (C(n, s) s (n - s))."""
    count, size = subset.shape[1], int(subset.sum())
    if size in (0, count):
        return torch.tensor([INFINITE])
    return torch.tensor([(count - 1) / (math.comb(count, size) * size * (count - size))])
