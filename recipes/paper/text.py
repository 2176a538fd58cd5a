"""The experiments on text. A cell is one data set, one protocol, one attention and several seeds: trained, analysed, written to disk.

Protocols:

* `published`: the paper's settings, padding not masked and unknown words taken for padding, float32, every analysis over all positions, as
  its code does it;
* `paper`: the paper's settings, everything else right;
* `common`: both arms with the settings that they do best with on the validation split, out of one grid; everything right.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean

import torch

from hf_tanhmax.errors import RecipeError

from . import signs
from .corpus import Corpus
from .learning import analyses
from .learning.analyses import Parts
from .learning.modeling import PaperClassifier, PaperConfig
from .learning.training import Documents, Schedule, accuracy, trained
from .ledger import CellRun, Ledger
from .settings import DataSet

PROTOCOLS = ("paper", "common", "published")
DRAW_SEED = 2024  # of shuffles and random weights
FIRST_GRID_SEED = 1000  # none of those that are reported
VIOLIN = 200  # sentences that a violin shows
Tick = Callable[[int], object]


@dataclass(frozen=True)
class TextCell:
    """What one text cell runs.

    Attributes:
        data_set: with its sizes.
        protocol: one of `PROTOCOLS`.
        attention: of the classifier.
        learning_rate, scale, epochs: of the arm.
    """

    data_set: DataSet
    protocol: str
    attention: str
    learning_rate: float
    scale: float
    epochs: int

    @property
    def name(self) -> str:
        """Of the cell's line in the results."""
        return f"text--{self.data_set.name}--{self.protocol}--{self.attention}"

    @property
    def schedule(self) -> Schedule:
        """How to train."""
        return Schedule(self.learning_rate, self.epochs, self.data_set.batch_size, self.data_set.loss_factor)

    def config(self, corpus: Corpus, **changes: float) -> PaperConfig:
        """Of the classifier."""
        sizes = {name: getattr(self.data_set, name) for name in ("embedding_size", "hidden_size", "score_function")}
        given = {"attention": self.attention, "scale": self.scale, "mask_padding": self.protocol != "published"}
        return PaperConfig(vocab_size=len(corpus.words), **{**sizes, **given, **changes})

    def identity(self, corpus: Corpus) -> dict[str, object]:
        """What decides the numbers of a seed."""
        own = {"kind": "text", "set": self.data_set.name, "protocol": self.protocol, "attention": self.attention}
        sizes = {name: getattr(self.data_set, name) for name in ("score_function", "embedding_size", "hidden_size", "max_length")}
        return {**own, "scale": self.scale, "schedule": asdict(self.schedule), **sizes, "data": corpus.fingerprint}


def run_text(cell: TextCell, corpus: Corpus, seeds: list[int], ledger: Ledger, tick: Tick) -> None:
    """Train and analyse the seeds that are missing.

    Args:
        cell: what to run.
        corpus: the data.
        seeds: that the cell shall have.
        ledger: of the cell.
        tick: called with a number of epochs as they are done.
    """
    if cell.protocol == "published":
        corpus = corpus.unknown_as_padding()
    missing = [int(name) for name in ledger.missing(map(str, seeds))]
    drawn = seeds[0] if cell.protocol == "paper" else None  # figures show the first seed with the paper's settings
    for group in torch.tensor(missing, dtype=torch.int64).split(cell.data_set.seeds_at_once) if missing else []:
        started, together = time.perf_counter(), len(group)
        watch = partial(_tick, tick, together)
        models = trained(cell.config(corpus), corpus.train, cell.schedule, seeds=group.tolist(), after_epoch=watch)
        seconds = (time.perf_counter() - started) / together
        for seed, model in zip(group.tolist(), models, strict=True):
            analysed = analysis(model, corpus, published=cell.protocol == "published", for_figures=seed == drawn)
            ledger.add(str(seed), {**analysed, "training_seconds": round(seconds, 1)})


def _tick(tick: Tick, together: int, *_: object) -> None:
    tick(together)


def analysis(model: PaperClassifier, corpus: Corpus, *, published: bool, for_figures: bool = False) -> dict[str, object]:
    """All numbers of a trained classifier.

    Args:
        model: trained on `corpus.train`.
        corpus: the data.
        published: analyse as the published code does: in float32, over all positions, words by their places in the training
            documents, random weights of any size. Its gradients (stale ones, of the last batch) are not rebuilt.
        for_figures: add what only figures show.
    """
    accurate = {
        "train_accuracy": accuracy(model, corpus.train),
        "test_accuracy": accuracy(model, corpus.test),
        "leaky_train_accuracy": analyses.leaky_accuracy(model, corpus.train),
        "leaky_test_accuracy": analyses.leaky_accuracy(model, corpus.test),
    }
    model = model if published else analyses.double(model)
    test = analyses.parts_of(model, corpus.test)
    found = signs.signs_of(test)
    where = corpus.train if published else corpus.test
    means = signs.word_means(analyses.parts_of(model, where), where.input_ids, len(corpus.words))
    chance = max(float((corpus.train.labels == label).double().mean()) for label in (0, 1))
    return {
        **accurate,
        "signs": {**asdict(found), "kind": found.kind(accurate["train_accuracy"], chance)},
        "words": signs.polarity_table(means, corpus.polarity),
        "separation_auc": signs.separation(means, corpus.polarity, found.orientation),
        "tau": _taus(model, corpus.test, test, rounded=published),
        **_changes(model, test, corpus.test, scaled=not published, for_figures=for_figures),
        **({"scatter": signs.scatter(means, corpus.polarity)} if for_figures else {}),
    }


def _taus(model: PaperClassifier, documents: Documents, parts: Parts, *, rounded: bool) -> dict[str, object]:
    attention, inputs = analyses.attention_erasure(parts, rounded=rounded), analyses.input_erasure(model, parts)
    size = parts.weights.abs()
    pairs = {
        "gradient": (size, analyses.gradient_sizes(model, documents)),
        "erasure": (parts.weights, attention),
        "absolute_erasure": (size, attention.abs()),
        "input_erasure": (parts.weights, inputs),
        "absolute_input_erasure": (size, inputs.abs()),
    }
    return {name: analyses.correlations(one, other, parts.keep).summary() for name, (one, other) in pairs.items()}


def _changes(model: PaperClassifier, parts: Parts, documents: Documents, *, scaled: bool, for_figures: bool) -> dict[str, object]:
    generator = torch.Generator().manual_seed(DRAW_SEED)
    permutation = analyses.permutation_changes(parts, generator)
    drawn = analyses.random_changes(parts, generator, signed=model.config.attention != "softmax", scaled=scaled)
    found: dict[str, object] = {name: _spread(values) for name, values in (("permutation", permutation), ("random", drawn))}
    if for_figures:
        shown = torch.linspace(0, len(documents) - 1, min(VIOLIN, len(documents))).long()
        found["violin"] = {
            "largest_weight": _rounded(parts.weights.abs().amax(1)[shown]),
            "permutation": _rounded(permutation[shown]),
            "label": documents.labels[shown].tolist(),
        }
    return found


def _spread(values: torch.Tensor) -> dict[str, float]:
    return {"mean": float(values.mean()), "std": float(values.std())}


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(float(value), 4) for value in values]


def paper_cell(data_set: DataSet, protocol: str, attention: str) -> TextCell:
    """The cell with the paper's settings."""
    arm = data_set.arm(attention)
    return TextCell(data_set, protocol, attention, arm.learning_rate, arm.scale, data_set.epochs)


def run_grid(data_set: DataSet, attention: str, corpus: Corpus, ledger: Ledger, tick: Tick) -> None:
    """Try each setting of the grid on the part of the training documents that is not for validation; over its seeds."""
    for learning_rate in data_set.learning_rates:
        for scale in data_set.scales:
            cell = TextCell(data_set, "grid", attention, learning_rate, scale, data_set.grid_epochs)
            for name in ledger.missing([_grid_name(learning_rate, scale)]):
                curve: list[list[float]] = []

                def watch(epoch: int, models: Callable[[], list[PaperClassifier]], curve: list[list[float]] = curve) -> None:
                    if epoch % data_set.grid_every == 0 or epoch == data_set.grid_epochs:
                        curve.append([epoch, fmean(accuracy(model, corpus.validation) for model in models())])
                    tick(1)

                trained(cell.config(corpus), corpus.fit, cell.schedule, seeds=_grid_seeds(data_set), after_epoch=watch)
                ledger.add(name, {"learning_rate": learning_rate, "scale": scale, "validation_accuracy": curve})


def grid_names(data_set: DataSet) -> list[str]:
    """The settings of the grid."""
    return [_grid_name(learning_rate, scale) for learning_rate in data_set.learning_rates for scale in data_set.scales]


def _grid_seeds(data_set: DataSet) -> list[int]:
    return [FIRST_GRID_SEED + number for number in range(data_set.grid_seeds)]


def _grid_name(learning_rate: float, scale: float) -> str:
    return f"learning rate {learning_rate:g}, scale {scale:g}"


def grid_identity(data_set: DataSet, attention: str, corpus: Corpus) -> dict[str, object]:
    """What decides the numbers of a grid, other than the setting."""
    return {
        "kind": "grid",
        "set": data_set.name,
        "attention": attention,
        "epochs": data_set.grid_epochs,
        "every": data_set.grid_every,
        "seeds": _grid_seeds(data_set),
        "fit": len(corpus.fit),
        "validation": len(corpus.validation),
        "data": corpus.fingerprint,
    }


def chosen_cell(data_set: DataSet, attention: str, grid: Mapping[str, CellRun]) -> TextCell:
    """The cell with the settings that were best on the validation split; of equals the one that trains shortest, then comes first.

    Raises:
        RecipeError: the grid is not complete.
    """
    runs = grid.values()
    if len(runs) < len(grid_names(data_set)):
        raise RecipeError(f"the grid of {data_set.name}, {attention}, is not complete; run it first")
    tried = [(value, -int(epoch), run) for run in runs for epoch, value in run["validation_accuracy"]]
    _, epochs, best = max(tried, key=lambda item: item[:2])
    return TextCell(data_set, "common", attention, best["learning_rate"], best["scale"], -epochs)
