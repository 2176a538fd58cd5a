"""What the sign of a weight says: where it points, whether it tells positive from negative words, which solution training found.

w(-a) = -w(a) for tanh and TanhMax, so W_q and the read-out may both be flipped without changing the model: the sign alone means nothing.
What a weight does to the logit is w_i u_i, so it is oriented by the sign that the effects u have where attention is.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .corpus import NAMES, NEGATIVE, POSITIVE
from .learning.analyses import Parts

AGREEMENT, MINORITY, LEARNED = 0.9, 0.1, 0.05
KINDS = ("two-signed", "one-signed", "mixed", "not learned")


@dataclass(frozen=True)
class Signs:
    """How signs are shared between weights and effects over some sentences.

    Attributes:
        orientation: 1.0 or -1.0: the sign of sum |w_i| u_i.
        agreement: share of sum |w_i u_i| to which the oriented weight gives the sign: 1 where the sign of the weight alone tells what a
            token speaks for, 0.5 where it tells nothing.
        negative_mass: share of sum |w_i| with w_i < 0.
    """

    orientation: float
    agreement: float
    negative_mass: float

    def kind(self, accuracy: float, chance: float) -> str:
        """One of `KINDS`.

        "not learned" where the accuracy is not 0.05 above chance; "two-signed" where weights have both signs (at least 0.1 of their mass
        each) and give 0.9 of all contributions their sign; "one-signed" where they have one sign; else "mixed".

        Args:
            accuracy: on documents that were learned from.
            chance: that of the more frequent class.
        """
        if accuracy < chance + LEARNED:
            return "not learned"
        if min(self.negative_mass, 1 - self.negative_mass) < MINORITY:
            return "one-signed"
        return "two-signed" if self.agreement >= AGREEMENT else "mixed"


def signs_of(parts: Parts) -> Signs:
    """The signs over all kept positions of some sentences."""
    mass, contributions = parts.weights.abs(), parts.weights * parts.effects
    total = mass.sum().clamp_min(1e-300)
    orientation = 1.0 if float((mass * parts.effects).sum()) >= 0 else -1.0
    followed = contributions.abs()[orientation * parts.effects > 0].sum()
    return Signs(
        orientation=orientation,
        agreement=float(followed / contributions.abs().sum().clamp_min(1e-300)),
        negative_mass=float(mass[parts.weights < 0].sum() / total),
    )


def word_means(parts: Parts, input_ids: Tensor, vocabulary: int) -> dict[str, Tensor]:
    """Over all kept places of each word: how many, and the mean score and weight, each [V]; 0 where there are none."""
    words = input_ids[parts.keep]
    counts = torch.bincount(words, minlength=vocabulary).to(parts.weights.dtype)
    means = {
        name: torch.zeros_like(counts).index_add_(0, words, values[parts.keep]) / counts.clamp_min(1)
        for name, values in (("score", parts.scores), ("weight", parts.weights))
    }
    return {"count": counts, **means}


def polarity_table(means: dict[str, Tensor], polarity: Tensor) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation over the words of each polarity of their mean score and weight, and how many words."""
    table: dict[str, dict[str, float | None]] = {}
    for sign, name in NAMES.items():
        chosen = (polarity == sign) & (means["count"] > 0)
        found = {quantity: means[quantity][chosen] for quantity in ("score", "weight")}
        numbers = {
            f"{quantity}_{part}": _number(function(values)) for quantity, values in found.items() for part, function in PARTS.items()
        }
        table[name] = {"words": int(chosen.sum()), **numbers}
    return table


def separation(means: dict[str, Tensor], polarity: Tensor, orientation: float) -> float | None:
    """AUC (by scikit-learn) with which a word's oriented mean weight tells positive from negative words; None where one kind is missing."""
    from sklearn.metrics import roc_auc_score

    chosen = ((polarity == POSITIVE) | (polarity == NEGATIVE)) & (means["count"] > 0)
    labels = (polarity[chosen] == POSITIVE).numpy()
    if len(np.unique(labels)) < 2:
        return None
    return float(roc_auc_score(labels, orientation * means["weight"][chosen].numpy()))


def scatter(means: dict[str, Tensor], polarity: Tensor, largest: int = 250) -> dict[str, list[list[float]]]:
    """For a figure: mean score and weight of at most so many words of each polarity, those that occur most."""
    points = {}
    for sign, name in NAMES.items():
        chosen = torch.nonzero((polarity == sign) & (means["count"] > 0)).flatten()
        chosen = chosen[means["count"][chosen].argsort(descending=True, stable=True)][:largest]
        points[name] = [[round(float(value), 4) for value in means[quantity][chosen]] for quantity in ("score", "weight")]
    return points


PARTS = {"mean": lambda values: values.mean(), "std": lambda values: values.std(unbiased=False)}


def _number(value: Tensor) -> float | None:
    return None if bool(torch.isnan(value)) else float(value)
