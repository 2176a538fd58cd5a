"""What a comparison of models by the faithfulness of their explanations came to: means, intervals, spread over seeds, differences."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...results import table
from .heads import HeadAblation
from .intervals import LEVEL, Cell, mean_with_interval
from .metrics import MEASURES
from .report import ARROWS

WIDTH = 100  # columns of a terminal
# What the table in a terminal shows, as far as it fits: erasure, deletion, comprehensiveness, sufficiency; then the others.
MAIN = ("attention_tau", "deletion_tau", "comprehensiveness", "sufficiency", "mask_tau", "pi_soft_comprehensiveness", "pi_soft_sufficiency")
Rows = tuple[float, ...]
Seeds = dict[int, Rows]


@dataclass(frozen=True)
class ComparedModel:
    """One model of a comparison.

    Attributes:
        name: different from that of the others.
        kind: "TanhMax", "TanhMax in part" or "softmax".
        layers: how many were explained.
        unavailable: by the name of a method, why the model cannot serve it.
        targets: the class or token that was explained, per text.
        heads: what the logit does without each head, or None.
    """

    name: str
    kind: str
    layers: int
    unavailable: dict[str, str]
    targets: tuple[int, ...]
    heads: HeadAblation | None = None


@dataclass(frozen=True)
class ComparedCell:
    """A mean over texts of the mean over seeds, its interval over texts, and the standard deviation over seeds of the means over texts.

    `spread` is None where no seed enters, or there is one seed alone.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    seeds: int
    spread: float | None


@dataclass(frozen=True)
class FaithfulnessComparison:
    """Several models, measured with the same methods on the same texts.

    Attributes:
        models: the first is what the others are compared with.
        methods: names of scores, of which a model may lack some.
        measures: names, of `MEASURES`.
        values: by model, measure, method and seed one value per text, NaN where it is not defined. Where no seed enters there is one, the
            first; measures of the model have the method "".
        settings: arguments of the run, the time it took, and versions.
    """

    models: tuple[ComparedModel, ...]
    methods: tuple[str, ...]
    measures: tuple[str, ...]
    values: dict[str, dict[str, dict[str, Seeds]]]
    settings: dict[str, Any] = field(default_factory=dict)

    def cell(self, model: str, measure: str, method: str) -> ComparedCell | None:
        """Mean, interval and spread; None where the model cannot serve the method."""
        seeds = self.values[model].get(measure, {}).get(method)
        if seeds is None:
            return None
        cell = mean_with_interval(_over_seeds(seeds), 0)
        means = [statistics.fmean(defined) for rows in seeds.values() if (defined := [value for value in rows if not math.isnan(value)])]
        return ComparedCell(cell.mean, cell.low, cell.high, cell.n, len(seeds), statistics.stdev(means) if len(means) > 1 else None)

    def difference(self, model: str, measure: str, method: str) -> Cell | None:
        """Paired difference to the first model: mean over texts in which both are defined, and a bootstrap interval over these texts."""
        both = [self.values[name].get(measure, {}).get(method) for name in (model, self.models[0].name)]
        if both[0] is None or both[1] is None:
            return None
        return mean_with_interval([one - other for one, other in zip(*(_over_seeds(seeds) for seeds in both if seeds), strict=True)], 0)

    def table(self, *, markdown: bool = False) -> str:
        """Methods by measures: each model, then the difference of the others to the first; a star where its interval excludes 0.

        In a terminal, measures that do not fit into 100 columns are left out and counted.
        """
        measures = [name for name in (*MAIN, *self.measures) if name in self.measures and not MEASURES[name].of_model]
        measures = list(dict.fromkeys(measures))
        shown = measures
        text = self._table(shown, markdown)
        while not markdown and len(shown) > 1 and max(map(len, text.splitlines())) > WIDTH:
            shown = shown[:-1]
            text = self._table(shown, markdown)
        left_out = [MEASURES[name].title for name in measures if name not in shown]
        return "\n".join([text, "", *self._notes(left_out)])

    def _table(self, measures: Sequence[str], markdown: bool) -> str:
        header = ["method", "of", *(MEASURES[name].title + ARROWS[MEASURES[name].better] for name in measures)]
        rows = []
        for method in self.methods:
            for letter, model in zip(self.letters, self.models, strict=True):
                cells = [_interval(self.cell(model.name, name, method)) for name in measures]
                rows.append([method.replace("_", " ") if letter == "A" else "", letter, *cells])
            for letter, model in list(zip(self.letters, self.models, strict=True))[1:]:
                differences = [_interval(self.difference(model.name, name, method), signed=True) for name in measures]
                rows.append(["", f"{letter} - A", *differences])
        return table(header, rows, markdown=markdown, align="left")

    @property
    def letters(self) -> tuple[str, ...]:
        """What a table calls the models."""
        return tuple(chr(ord("A") + place) for place in range(len(self.models)))

    def _notes(self, left_out: Sequence[str]) -> list[str]:
        lines = []
        for letter, model in zip(self.letters, self.models, strict=True):
            same = sum(one == other for one, other in zip(model.targets, self.models[0].targets, strict=True))
            agreement = f", explains the same class as A in {same} of {len(model.targets)} texts" if letter != "A" else ""
            lines.append(f"{letter}: {model.name} ({model.kind}{agreement})")
        texts, seeds = len(self.models[0].targets), self.settings.get("seeds", 1)
        lines.append(
            f"Means over {texts} texts ± half of the bootstrap interval of {LEVEL:.0%} over texts; {seeds} seeds where one enters."
        )
        lines.append("*: the interval of the paired difference excludes 0.")
        reasons: dict[str, list[str]] = {}
        for letter, model in zip(self.letters, self.models, strict=True):
            for method, reason in model.unavailable.items():
                reasons.setdefault(f"{method}: {reason}", []).append(letter)
        lines += [f"Not measured of {' and '.join(letters)}: {reason}" for reason, letters in reasons.items()]
        lines += [f"Not shown, as {WIDTH} columns hold no more: {', '.join(left_out)}; JSON and Markdown have them."] if left_out else []
        return lines

    def to_dict(self, *, texts: bool = True) -> dict[str, Any]:
        """Everything, as JSON takes it; what is not defined is null.

        Args:
            texts: whether values of single texts are in it, with six decimals.
        """
        cells, differences = self._all(self.cell, self.models), self._all(self.difference, self.models[1:])
        return {
            "models": [_model(model, texts=texts) for model in self.models],
            "methods": list(self.methods),
            "measures": list(self.measures),
            "cells": cells,
            "differences": differences,
            "values": _rounded(self.values) if texts else {},
            "settings": self.settings,
        }

    def _all(self, compute: Callable[[str, str, str], ComparedCell | Cell | None], models: Sequence[ComparedModel]) -> dict[str, Any]:
        """By model, measure and method."""
        found: dict[str, Any] = {model.name: {} for model in models}
        for name, by_measure in found.items():
            for measure, by_method in self.values[name].items():
                cells = {method: compute(name, measure, method) for method in by_method}
                by_measure[measure] = {method: asdict(cell) for method, cell in cells.items() if cell is not None}
        return found

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict())


def read_comparison(text: str) -> FaithfulnessComparison:
    """A comparison that `to_json` wrote, without its heads.

    Raises:
        ValueError: it is none, or one without the values of single texts.
    """
    try:
        found = json.loads(text)
        models = tuple(
            ComparedModel(each["name"], each["kind"], each["layers"], each["unavailable"], tuple(each["targets"]))
            for each in found["models"]
        )
        values = {
            model: {
                measure: {
                    method: {int(seed): tuple(math.nan if value is None else value for value in rows) for seed, rows in seeds.items()}
                    for method, seeds in by_method.items()
                }
                for measure, by_method in by_measure.items()
            }
            for model, by_measure in found["values"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"this is no comparison of faithfulness: {error}") from error
    if not values:
        raise ValueError("this comparison has no values of single texts, so nothing can be computed of it")
    return FaithfulnessComparison(models, tuple(found["methods"]), tuple(found["measures"]), values, found["settings"])


def _over_seeds(seeds: Seeds) -> list[float]:
    """Per text the mean over seeds in which it is defined."""
    return [
        statistics.fmean(defined) if (defined := [value for value in values if not math.isnan(value)]) else math.nan
        for values in zip(*seeds.values(), strict=True)
    ]


def _interval(cell: ComparedCell | Cell | None, *, signed: bool = False) -> str:
    if cell is None or cell.mean is None:
        return "-"
    mean = f"{cell.mean:+.3f}" if signed else f"{cell.mean:.3f}"
    if cell.low is None or cell.high is None:
        return mean
    return f"{mean} ±{(cell.high - cell.low) / 2:.3f}{'*' * (signed and not cell.low <= 0 <= cell.high)}"


def _rounded(values: dict[str, dict[str, dict[str, Seeds]]]) -> dict[str, Any]:
    return {
        model: {
            measure: {
                method: {seed: [None if math.isnan(value) else round(value, 6) for value in rows] for seed, rows in seeds.items()}
                for method, seeds in by_method.items()
            }
            for measure, by_method in by_measure.items()
        }
        for model, by_measure in values.items()
    }


def _model(model: ComparedModel, *, texts: bool) -> dict[str, Any]:
    plain = {name: getattr(model, name) for name in ("name", "kind", "layers", "unavailable")}
    heads = None if model.heads is None else model.heads.to_dict() if texts else model.heads.summary()
    return {**plain, "targets": list(model.targets) if texts else [], "heads": heads}
