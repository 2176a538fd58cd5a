"""What an ablation of negative attention weights came to, and the file `ablation.json` that says so beside a model.

`hf_tanhmax.interpret.ablate_negatives` measures it, `hf_tanhmax.interpret.ablation.interventions` defines what is done to the weights.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .choices import INTERVENTIONS, check_choice
from .results import table

ABLATION = "ablation.json"
ACCURACY, LOSS = "accuracy", "loss per token"  # the metrics: a share of the rows; nats
LEVEL = 0.95
# Interventions that keep how much of each row is negative, and change which keys are.
PATTERN = {"negatives_spread": "spreading them evenly over the keys", "negatives_permuted": "moving them to random keys"}


@dataclass(frozen=True)
class Effect:
    """What one intervention does to the metric.

    Attributes:
        value: the metric with it.
        difference: that value less the metric as is.
        low, high: the paired bootstrap interval of the difference over rows, of 95 %.
    """

    value: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class NegativesAblation:
    """A model with its negative attention weights as they are, and with interventions on them.

    Attributes:
        model: its name.
        attention: its polarity, shift, layers and heads, in words.
        metric: `"accuracy"`, a share of the rows, or `"loss per token"`, in nats.
        rows: how many were measured.
        as_is: the metric of the model as it is.
        effects: by the name of the intervention, of `hf_tanhmax.choices.INTERVENTIONS`.
        negative_mass: the share of negative weights in all absolute attention weight.
        negative_mass_per_layer: the same for each attention layer.
        settings: arguments, and versions of packages.
    """

    model: str
    attention: str
    metric: str
    rows: int
    as_is: float
    effects: dict[str, Effect]
    negative_mass: float
    negative_mass_per_layer: tuple[float, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric not in (ACCURACY, LOSS):
            raise ValueError(f"metric must be {ACCURACY!r} or {LOSS!r}, but is {self.metric!r}")
        check_choice("intervention", list(self.effects), INTERVENTIONS)

    @property
    def matters(self) -> bool:
        """Whether the interval of masking the negative keys, or of changing which keys are negative, says that the model loses by it."""
        return any(self._cost(name)[0] > 0 for name in ("negatives_masked", *PATTERN) if name in self.effects)

    @property
    def verdict(self) -> str:
        """Whether the model uses its negative weights, as far as the intervals tell, in sentences."""
        if "negatives_masked" not in self.effects:
            return "No verdict: it needs the intervention negatives_masked."
        masked = f"masking them {self._in_words('negatives_masked')}"
        pattern = [name for name in PATTERN if name in self.effects]
        costly = " and ".join(f"{PATTERN[name]} {self._in_words(name)}" for name in pattern if self._cost(name)[0] > 0)
        if costly:
            return f"The negative weights carry information: {masked}. Which keys are negative matters: {costly}."
        without = ", ".join(f"{PATTERN[name]} {self._in_words(name)}" for name in pattern)
        unknown = f" It was not found to matter which keys are negative: {without}." if without else ""
        if self._cost("negatives_masked")[0] > 0:
            return f"The negative weights are used: {masked}.{unknown}"
        if self._cost("negatives_masked")[1] < 0:
            return f"The model is better without its negative weights: {masked}.{unknown}"
        return f"No effect of the negative weights was found: {masked}.{unknown}"

    def table(self) -> str:
        """A Markdown table, one line per intervention."""
        header = ["attention weights", self.metric + (" (%)" if self.metric == ACCURACY else ""), f"difference [{LEVEL:.0%} interval]"]
        rows = [["as they are", self._shown(self.as_is), ""]]
        rows += [
            [INTERVENTIONS[name], self._shown(effect.value), f"{self._signed(effect.difference)} {self._interval(effect.low, effect.high)}"]
            for name, effect in self.effects.items()
        ]
        if self.metric == LOSS:
            header.insert(2, "perplexity")
            for line, loss in zip(rows, (self.as_is, *(effect.value for effect in self.effects.values())), strict=True):
                line.insert(2, _perplexity(loss))
        return table(header, rows, markdown=True)

    def describe(self) -> str:
        """What was measured, and the verdict."""
        share, unit = self._shown(self.as_is), " %" if self.metric == ACCURACY else ""
        mass = f"{100 * self.negative_mass:.1f} % of its attention weight is negative"
        return f"{self.model}: {self.metric} {share}{unit} on {self.rows:,} rows, {mass}. {self.verdict}"

    def to_dict(self) -> dict[str, Any]:
        """Everything, and the verdict, for JSON."""
        return {**asdict(self), "verdict": self.verdict}

    def save(self, path: Path) -> None:
        """Write it as JSON, into a folder as `ablation.json` or to a file of another name."""
        file = path / ABLATION if path.is_dir() else path
        file.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def _cost(self, name: str) -> tuple[float, float]:
        """The interval of what an intervention costs: lost accuracy, or more loss."""
        effect = self.effects[name]
        return (-effect.high, -effect.low) if self.metric == ACCURACY else (effect.low, effect.high)

    def _in_words(self, name: str) -> str:
        low, high = self._cost(name)
        difference = self.effects[name].difference
        if low > 0 or high < 0:
            verb = "costs" if low > 0 else "gains"
            bounds = sorted((abs(low), abs(high)))
            return f"{verb} {self._shown(abs(difference))} {self._unit} {self._interval(*bounds, signed=False)}"
        effect = self.effects[name]
        return f"makes a difference of {self._signed(difference)} {self._unit} {self._interval(effect.low, effect.high)}"

    @property
    def _unit(self) -> str:
        return "points" if self.metric == ACCURACY else "nats per token"

    def _shown(self, value: float) -> str:
        return f"{100 * value:.1f}" if self.metric == ACCURACY else f"{value:.3f}"

    def _signed(self, value: float) -> str:
        shown = self._shown(value)
        return f"{'+' if float(shown) > 0 else ''}{shown.removeprefix('-') if float(shown) == 0 else shown}"

    def _interval(self, low: float, high: float, *, signed: bool = True) -> str:
        show = self._signed if signed else self._shown
        return f"[{show(low)}, {show(high)}]"


def read_ablation(folder: Path) -> NegativesAblation | None:
    """The ablation in the folder of a model; None where there is none.

    Raises:
        ValueError: the file holds something else.
    """
    path = folder / ABLATION
    if not path.is_file():
        return None
    try:
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        fields = {key: value for key, value in values.items() if key != "verdict"}
        effects = {name: Effect(**effect) for name, effect in fields.pop("effects").items()}
        found = NegativesAblation(effects=effects, **{**fields, "negative_mass_per_layer": tuple(fields["negative_mass_per_layer"])})
        found.describe(), found.table(), found.settings.get("data")
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is no ablation of a model; run hf-tanhmax ablate again, or delete the file") from error
    return found


def _perplexity(loss: float) -> str:
    perplexity = math.exp(min(loss, 700.0))
    return f"{perplexity:.2f}" if perplexity < 1e4 else f"{perplexity:.3g}"
