"""Which settings land in the two-signed solution: the same classifier from many seeds, with one thing changed at a time.

Varied around the paper's settings: how large queries and keys begin (`score_gain`), a learned constant on every score and where it starts
(`score_bias`), the learning rate, the scale that scores are divided by, and the factor on the loss (which decides how large Adadelta's
epsilon is beside the gradients, and these are small at the saddle where TanhMax starts).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch

from . import signs
from .corpus import Corpus
from .learning import analyses
from .learning.training import accuracy, trained
from .ledger import Ledger
from .settings import DataSet
from .text import TextCell

SWEEP: tuple[dict[str, float], ...] = (
    {},
    {"learning_rate": 0.05},
    {"learning_rate": 0.5},
    {"score_gain": 3.0},
    {"score_bias": 1.0},
    {"score_bias": 3.0},
    {"scale": 1.0},
    {"score_gain": 0.3},
    {"score_gain": 10.0},
    {"score_bias": 0.0},
    {"scale": 10.0},
    {"learning_rate": 2.0},
    {"loss_factor": 1.0},
)


@dataclass(frozen=True)
class Basin:
    """One setting from many seeds.

    Attributes:
        cell: the paper's settings, with `learning_rate` and `scale` changed.
        change: what differs from the paper's settings.
    """

    cell: TextCell
    change: dict[str, float]

    @property
    def label(self) -> str:
        """The change in words."""
        return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in self.change.items()) or "the paper's settings"

    @property
    def name(self) -> str:
        """Of the cell's line in the results."""
        ending = "--".join(f"{name}-{value:g}" for name, value in self.change.items()) or "paper"
        return f"basin--{self.cell.data_set.name}--{ending}"

    def identity(self, corpus: Corpus) -> dict[str, object]:
        """What decides the numbers of a seed."""
        return {**self.cell.identity(corpus), "kind": "basin", "change": self.change, "label": self.label}


def basins(data_set: DataSet) -> list[Basin]:
    """The sweep on one data set, without changes that change nothing."""
    arm, found = data_set.arm("tanhmax"), []
    for change in SWEEP[: data_set.basin_settings]:
        if change and all(getattr(arm, name, None) == value for name, value in change.items()):
            continue
        values = {"learning_rate": arm.learning_rate, "scale": arm.scale, **{k: v for k, v in change.items() if hasattr(arm, k)}}
        changed = replace(data_set, loss_factor=change.get("loss_factor", data_set.loss_factor))
        found.append(Basin(TextCell(changed, "paper", "tanhmax", epochs=data_set.basin_epochs, **values), change))
    return found


def run_basin(basin: Basin, corpus: Corpus, seeds: list[int], ledger: Ledger, tick: Callable[[int], object]) -> None:
    """Train the seeds that are missing, and say which solution each found."""
    missing = [int(name) for name in ledger.missing(map(str, seeds))]
    if not missing:
        return
    own = {name: value for name, value in basin.change.items() if name.startswith("score_")}
    models = trained(
        basin.cell.config(corpus, **own), corpus.train, basin.cell.schedule, seeds=missing, after_epoch=lambda *_: tick(len(missing))
    )
    chance = max(float((corpus.train.labels == label).double().mean()) for label in (0, 1))
    for seed, model in zip(missing, models, strict=True):
        exact = analyses.double(model)
        parts = analyses.parts_of(exact, corpus.test)
        found, train_accuracy = signs.signs_of(parts), accuracy(model, corpus.train)
        means = signs.word_means(parts, corpus.test.input_ids, len(corpus.words))
        some = torch.arange(min(len(corpus.test), 300))
        few = analyses.parts_of(exact, corpus.test.select(some))
        tau = analyses.correlations(few.weights, analyses.attention_erasure(few), few.keep).mean
        ledger.add(
            str(seed),
            {
                "train_accuracy": train_accuracy,
                "test_accuracy": accuracy(model, corpus.test),
                "signs": {**asdict(found), "kind": found.kind(train_accuracy, chance)},
                "separation_auc": signs.separation(means, corpus.polarity, found.orientation),
                "oriented_erasure_tau": None if tau is None else found.orientation * tau,
            },
        )
