"""The report of faithfulness: every example's values, their means with intervals, a table and JSON."""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ...results import table
from .heads import HeadAblation
from .intervals import LEVEL, Cell
from .metrics import MEASURES

ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


@dataclass(frozen=True)
class FaithfulnessReport:
    """Faithfulness of several methods by several measures.

    Attributes:
        model: the model's name.
        signed: per explained layer, whether it computes TanhMax.
        methods: names of scores.
        measures: names of measures, of `MEASURES`.
        values: by measure and method, one value per text, NaN where it is not defined; measures of the model have the one method "".
        cells: by measure and method, the mean of `values` and its interval.
        settings: arguments of the run, `copies`, the number of perturbed copies that were run, and versions.
        heads: what the logit does without each head, if that was asked for.
    """

    model: str
    signed: tuple[bool, ...]
    methods: tuple[str, ...]
    measures: tuple[str, ...]
    values: dict[str, dict[str, tuple[float, ...]]]
    cells: dict[str, dict[str, Cell]]
    settings: dict[str, Any] = field(default_factory=dict)
    heads: HeadAblation | None = None

    def table(self) -> str:
        """A Markdown table, methods by measures, mean and interval in each cell, and under it the measures of the model."""
        columns = [measure for measure in self.measures if not MEASURES[measure].of_model]
        header = ["method", *(MEASURES[measure].title + ARROWS[MEASURES[measure].better] for measure in columns)]
        rows = [[method, *(str(self.cells[measure][method]) for measure in columns)] for method in self.methods]
        return "\n".join([*([table(header, rows, markdown=True, align="left")] if columns else []), "", *self._notes()])

    def _notes(self) -> list[str]:
        cells = [(measure, method, cell) for measure, by_method in self.cells.items() for method, cell in by_method.items()]
        texts = max((len(values) for by_method in self.values.values() for values in by_method.values()), default=0)
        undefined = [f"{MEASURES[measure].title} of {method} in {cell.n}" for measure, method, cell in cells if method and cell.n < texts]
        kind = "TanhMax" if all(self.signed) else "TanhMax in part" if any(self.signed) else "softmax"
        lines = [f"{self.model} ({kind}), {texts} texts; mean over texts and a bootstrap interval of {LEVEL:.0%}."]
        lines += [f"{MEASURES[measure].title}: {cell}." for measure, method, cell in cells if not method]
        lines += [f"Not defined in every text: {'; '.join(undefined)}."] if undefined else []
        return lines + (["", "Change of the logit without a head:", "", self.heads.table()] if self.heads is not None else [])

    def to_json(self) -> str:
        """Everything, as JSON; what is not defined is null, and values of single texts have six decimals."""
        values = {
            measure: {
                method: [None if math.isnan(value) else round(value, 6) for value in per_text] for method, per_text in by_method.items()
            }
            for measure, by_method in self.values.items()
        }
        heads = None if self.heads is None else self.heads.to_dict()
        return json.dumps({**asdict(replace(self, heads=None)), "values": values, "heads": heads})
