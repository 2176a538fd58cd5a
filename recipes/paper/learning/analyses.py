"""The paper's analyses of a trained classifier, each in closed form where there is one.

Without dropout the logit of a sentence is z = b + sum_i w_i u_i, and p = sigmoid(z). So setting w_i to 0, others unchanged, gives
sigmoid(z - w_i u_i), for any activation; shuffled and random weights only change the sum. Everything is computed in the model's dtype, over
kept positions; `double` makes a model whose differences do not vanish by rounding.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from .modeling import PaperClassifier
from .training import Documents

BINS = 40  # of a histogram of tau, over [-1, 1]
DRAWS = 100


@dataclass(frozen=True)
class Parts:
    """What a classifier computes on N sentences of L positions.

    Attributes:
        keep: which positions take part, [N, L] bool.
        scores, weights, effects: a, w and u, [N, L]; weights are 0 where not kept.
        logits: z, [N].
    """

    keep: Tensor
    scores: Tensor
    weights: Tensor
    effects: Tensor
    logits: Tensor

    @property
    def probability(self) -> Tensor:
        """p, [N]."""
        return self.logits.sigmoid()


class Summary(TypedDict):
    """Numbers of `Correlations`; None where tau is defined for no sentence."""

    mean: float | None
    significant: float | None
    sentences: int
    undefined: int
    histogram: list[int]


@dataclass(frozen=True)
class Correlations:
    """Kendall's tau (b, which corrects for ties) of each sentence.

    Attributes:
        tau, p: one for each sentence where tau is defined.
        undefined: how many have fewer than two tokens, or no two different values on one side.
    """

    tau: np.ndarray
    p: np.ndarray
    undefined: int

    @property
    def mean(self) -> float | None:
        """Of the sentences; None where tau is defined in none."""
        return float(self.tau.mean()) if len(self.tau) > 0 else None

    def summary(self) -> Summary:
        """Mean, share of sentences with p < 0.05, numbers of sentences, and a histogram over [-1, 1]."""
        counts = np.histogram(self.tau, bins=BINS, range=(-1, 1))[0]
        return {
            "mean": self.mean,
            "significant": None if self.mean is None else float((self.p < 0.05).mean()),
            "sentences": len(self.tau),
            "undefined": self.undefined,
            "histogram": counts.tolist(),
        }


def double(model: PaperClassifier) -> PaperClassifier:
    """A copy in float64."""
    return copy.deepcopy(model).double().eval()


@torch.no_grad()
def parts_of(model: PaperClassifier, documents: Documents) -> Parts:
    """What the model computes on documents, without dropout."""
    outputs = [model.eval()(ids) for ids in documents.input_ids.split(500)]
    found = {name: torch.cat([output[name] for output in outputs]) for name in ("scores", "weights", "effects", "logits")}
    return Parts(keep=model.keep(documents.input_ids), **found)


@torch.no_grad()
def leaky_accuracy(model: PaperClassifier, documents: Documents) -> float:
    """The accuracy as the paper's code measures it: the scores of each sentence are multiplied by its label before the activation.

    So a sentence of class 0 gets the same weights whatever its words are (TanhMax: none at all, and the logit is the bias b). This is
    not an accuracy; it is here because it is what was published.
    """
    parts = parts_of(model, documents)
    weights = model.activate(parts.scores * documents.labels[:, None], parts.keep)
    logits = (weights * parts.effects).sum(-1) + model.readout.bias
    return float(((logits > 0) == (documents.labels == 1)).double().mean())


def correlations(one: Tensor, other: Tensor, keep: Tensor) -> Correlations:
    """Kendall's tau by SciPy between two quantities over the kept positions of each sentence.

    Args:
        one, other: [N, L].
        keep: [N, L] bool.
    """
    from scipy.stats import kendalltau

    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sentences for which tau is not defined, which are counted
        for left, right, kept in zip(one.numpy(), other.numpy(), keep.numpy(), strict=True):
            found.append(tuple(kendalltau(left[kept], right[kept])) if kept.sum() > 1 else (np.nan, np.nan))
    tau, p = np.array(found).T
    defined = ~np.isnan(tau)
    return Correlations(tau[defined], p[defined], int((~defined).sum()))


def gradient_sizes(model: PaperClassifier, documents: Documents) -> Tensor:
    """Euclidean norm of the logit's gradient by the embedding at each position, attention included, [N, L]."""
    sizes = []
    for ids in documents.input_ids.split(500):
        embeddings = model.embeddings(ids).detach().requires_grad_()
        logits = model.eval()(inputs_embeds=embeddings, attention_mask=model.keep(ids)).logits
        (gradient,) = torch.autograd.grad(logits.sum(), embeddings)
        sizes.append(gradient.norm(dim=-1))
    return torch.cat(sizes)


def attention_erasure(parts: Parts, *, rounded: bool = False) -> Tensor:
    """p - p(w_i = 0) at each position, [N, L]: what the weight does, without giving its share to the others.

    Args:
        parts: of the sentences.
        rounded: subtract two rounded probabilities, as the published code does: where both round to 1 nothing is left.
    """
    return _difference(parts.logits[:, None], parts.logits[:, None] - parts.weights * parts.effects, rounded=rounded)


@torch.no_grad()
def input_erasure(model: PaperClassifier, parts: Parts) -> Tensor:
    """p - p(without the token) at each position, [N, L]: the activation is over the tokens that are left."""
    changes = torch.zeros_like(parts.weights)
    for place in range(parts.keep.shape[1]):
        left = parts.keep.clone()
        left[:, place] = False
        logits = (model.activate(parts.scores, left) * parts.effects).sum(-1) + model.readout.bias
        changes[:, place] = _difference(parts.logits, logits)
    return changes


def _difference(one: Tensor, other: Tensor, *, rounded: bool = False) -> Tensor:
    """sigmoid(one) - sigmoid(other), with all its digits unless they shall be lost."""
    if rounded:
        return one.sigmoid() - other.sigmoid()
    high, low = torch.maximum(one, other), torch.minimum(one, other)
    return torch.sign(one - other) * high.sigmoid() * (-low).sigmoid() * -torch.expm1(low - high)


def permutation_changes(parts: Parts, generator: torch.Generator, draws: int = DRAWS) -> Tensor:
    """Median over random shuffles of the kept weights of |change of p|, [N]."""

    def shuffled() -> Tensor:
        keys = torch.rand(parts.keep.shape, generator=generator).masked_fill(~parts.keep, 2.0)
        kept_first = (~parts.keep).byte().argsort(dim=1, stable=True)
        return torch.zeros_like(parts.weights).scatter_(1, kept_first, parts.weights.gather(1, keys.argsort(dim=1)))

    return _median_change(parts, shuffled, draws)


def random_changes(parts: Parts, generator: torch.Generator, *, signed: bool, scaled: bool = True, draws: int = DRAWS) -> Tensor:
    """Median over random weights of |change of p|, [N].

    Args:
        parts: of the sentences.
        generator: of the weights, uniform in [-1, 1] if signed, else in [0, 1].
        signed: whether the model's activation gives signed weights.
        scaled: whether each sentence's random weights are brought to the sum of |w| that its own weights have; the published code does not.
        draws: how many.
    """
    size = parts.weights.abs().sum(-1, keepdim=True)

    def drawn() -> Tensor:
        uniform = torch.rand(parts.keep.shape, generator=generator).to(parts.weights.dtype)
        weights = (2 * uniform - 1 if signed else uniform).masked_fill(~parts.keep, 0.0)
        return weights * size / weights.abs().sum(-1, keepdim=True).clamp_min(1e-30) if scaled else weights

    return _median_change(parts, drawn, draws)


def _median_change(parts: Parts, draw: Callable[[], Tensor], draws: int) -> Tensor:
    bias = parts.logits - (parts.weights * parts.effects).sum(-1)
    probabilities = [((draw() * parts.effects).sum(-1) + bias).sigmoid() for _ in range(draws)]
    return (torch.stack(probabilities) - parts.probability).abs().quantile(0.5, dim=0)
