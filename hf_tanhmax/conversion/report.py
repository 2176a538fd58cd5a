"""What a conversion came to, and the file `conversion.json` that says so beside the weights."""

import json
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .refitting import RefitReport

CONVERSION = "conversion.json"
ORIGINALS = "softmax_projections.safetensors"  # the file of what a conversion changed that softmax needs


@dataclass(frozen=True)
class AlignmentReport:
    """How a model was aligned for polarity 1, and what it computes there; the last five are of the last batch, or per layer of it.

    Attributes:
        balance: r, the mass of the negative part over that of the positive part that the key biases aim at.
        ridge: the penalty of the fit, over the mean square of what it fits with.
        rows: query rows (tokens or patches, without padding) that every layer was fitted to.
        batches: how many batches they came from.
        seconds: for all of it.
        residual: per layer, the standard deviation of what is left of half the log odds (Lp - Ln) / 2, in nats.
        negative_mass_before: per layer, the share of negative weights in all absolute weight at polarity 1, as it was.
        negative_mass_after: the same, aligned.
        cosine_before: mean cosine of the last hidden states at polarity 1 to those of softmax, as it was.
        cosine_after: the same, aligned.
    """

    balance: float
    ridge: float
    rows: int
    batches: int
    seconds: float
    residual: tuple[float, ...]
    negative_mass_before: tuple[float, ...]
    negative_mass_after: tuple[float, ...]
    cosine_before: float
    cosine_after: float

    def describe(self) -> str:
        """What was done and what came of it, as the rest of a sentence about the model."""
        mass = [100 * sum(masses) / len(masses) for masses in (self.negative_mass_before, self.negative_mass_after)]
        return (
            f"was aligned for polarity 1 at balance {self.balance:g} on {self.rows:,} tokens: hidden states there have cosine "
            f"{self.cosine_after:.3f} to those of softmax ({self.cosine_before:.3f} before), and {mass[1]:.0f} % of the attention weight "
            f"is negative ({mass[0]:.0f} % before)"
        )


@dataclass(frozen=True)
class TransferReport:
    """How queries and keys were trained for a polarity; errors, masses and cosines are of the first batch that was drawn.

    Attributes:
        steps: how often the weights were changed.
        learning_rate: the highest.
        floor: the negative mass below which heads were pressed for more.
        rows: query rows (tokens or patches, without padding) that were read, those of a batch as often as it was drawn.
        seconds: for all of it.
        error_before: per layer, the squared error of its attention's output against that of softmax, over the square of the latter.
        error_after: the same, trained.
        negative_mass_before: per layer, the share of negative weights in all absolute weight.
        negative_mass_after: the same, trained.
        cosine_before: mean cosine of the last hidden states to those of softmax.
        cosine_after: the same, trained.
        originals: by name, the weights and biases as they were, which are not written to the file.
    """

    steps: int
    learning_rate: float
    floor: float
    rows: int
    seconds: float
    error_before: tuple[float, ...]
    error_after: tuple[float, ...]
    negative_mass_before: tuple[float, ...]
    negative_mass_after: tuple[float, ...]
    cosine_before: float
    cosine_after: float
    originals: "dict[str, Tensor] | None" = field(default=None, repr=False, compare=False)

    def describe(self) -> str:
        """What was done and what came of it, as the rest of a sentence about the model."""
        errors = [sum(each) / len(each) for each in (self.error_before, self.error_after)]
        mass = [100 * sum(each) / len(each) for each in (self.negative_mass_before, self.negative_mass_after)]
        return (
            f"had its queries and keys trained by attention transfer for {self.steps} steps on {self.rows:,} tokens: the error of a layer "
            f"is {errors[1]:.3f} ({errors[0]:.3f} before), hidden states have cosine {self.cosine_after:.3f} to those of softmax "
            f"({self.cosine_before:.3f} before), and {mass[1]:.0f} % of the attention weight is negative ({mass[0]:.0f} % before)"
        )


@dataclass(frozen=True)
class Quality:
    """A converted model against the softmax model, on inputs that nothing was fitted to; `before` is at the same polarity and shift.

    Attributes:
        held_out: False if there were too few inputs to hold any back, so that these are the ones that it was fitted to.
        rows: query rows (tokens or patches, without padding), or inputs where the model has one output for each.
        kl_before: mean over rows of the Kullback-Leibler divergence of the outputs' probabilities from those of the softmax model, in nats;
            None for a model without such a head.
        kl_after: the same, converted.
        cosine_before: of a model without a head, the mean cosine of the last hidden states to those of the softmax model.
        cosine_after: the same, converted.
        perplexity_softmax: of a causal language model.
        perplexity_before: the same, of its weights as they were.
        perplexity_after: the same, converted.
        negative_mass: per layer, the share of negative weights in all absolute weight.
        negative_mass_by_length: fewest keys, most keys, and the negative mass of the queries of all layers that see so many keys.
    """

    held_out: bool
    rows: int
    kl_before: float | None
    kl_after: float | None
    cosine_before: float | None
    cosine_after: float | None
    perplexity_softmax: float | None
    perplexity_before: float | None
    perplexity_after: float | None
    negative_mass: tuple[float, ...]
    negative_mass_by_length: tuple[tuple[int, int, float], ...]

    def describe(self) -> str:
        """What was measured, as a sentence without its full stop."""
        where = (
            f"on {self.rows:,} outputs that nothing was fitted to" if self.held_out else f"on {self.rows:,} outputs that it was fitted to"
        )
        parts = []
        if self.kl_after is not None:
            parts.append(f"probabilities have a divergence from those of softmax of {self.kl_after:.3g} nats ({self.kl_before:.3g} before)")
        if self.cosine_after is not None:
            parts.append(f"hidden states have cosine {self.cosine_after:.3f} to those of softmax ({self.cosine_before:.3f} before)")
        if self.perplexity_after is not None:
            parts.append(
                "perplexity is {} (softmax {}; {} before)".format(
                    *map(_number, (self.perplexity_after, self.perplexity_softmax, self.perplexity_before))
                )
            )
        mass = 100 * sum(self.negative_mass) / len(self.negative_mass)
        parts.append(f"{mass:.0f} % of the attention weight is negative{self._by_length()}")
        return f"{where}, {', '.join(parts[:-1])}, and {parts[-1]}"

    def _by_length(self) -> str:
        ends = [self.negative_mass_by_length[0], self.negative_mass_by_length[-1]] if len(self.negative_mass_by_length) > 1 else []
        said = [f"{100 * mass:.0f} % where a query sees {_keys(fewest, most)}" for fewest, most, mass in ends]
        return f" ({', '.join(said)})" if said else ""


@dataclass(frozen=True)
class ConversionReport:
    """What was done to a model that was converted, and how close it then is to the softmax model.

    Attributes:
        polarity: that it was calibrated for.
        shift: as in `TanhMaxSettings`.
        balance: the mass of negative weights over that of positive ones that was aimed at.
        tokens: query rows (tokens or patches, without padding) of the inputs that it was fitted to.
        seconds: for all of it.
        alignment: of key and value biases.
        transfer: of queries and keys.
        refit: of output projections.
        quality: None in a file that an earlier version wrote.
        not_refitted: why output projections were not refitted, where they would have been by default.
    """

    polarity: float | str
    shift: str | None
    balance: float
    tokens: int
    seconds: float
    alignment: AlignmentReport | None = None
    transfer: TransferReport | None = None
    refit: "RefitReport | None" = None
    quality: Quality | None = None
    not_refitted: str | None = None

    @property
    def originals(self) -> "dict[str, Tensor]":
        """By name, the weights and biases that the softmax model had and that were changed, for `hf_tanhmax.to_softmax`."""
        parts = [part.originals for part in (self.transfer, self.refit) if part is not None]
        return {name: value for part in parts for name, value in (part or {}).items()}

    def describe(self) -> str:
        """What was done and what came of it, as the rest of a sentence about the model."""
        parts = [part.describe() for part in (self.alignment, self.transfer, self.refit) if part is not None]
        if self.not_refitted is not None:
            parts.append(f"has a balanced shift and its output projections as they were ({self.not_refitted})")
        said = "; it ".join(parts)
        return said if self.quality is None else f"{said}; {self.quality.describe()}"

    def save(self, folder: Path) -> None:
        """Write it into the folder of the model, and beside it the originals, if there are any."""
        values = {key: None if value is None else _plain(value) for key, value in vars(self).items()}
        if self.not_refitted is None:
            del values["not_refitted"]
        (folder / CONVERSION).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        if self.originals:
            from safetensors.torch import save_file

            save_file({name: value.contiguous().cpu() for name, value in self.originals.items()}, folder / ORIGINALS)


def read_report(folder: Path) -> ConversionReport | None:
    """The report in the folder of a model; None where there is none.

    Raises:
        ValueError: the file holds something else.
    """
    path = folder / CONVERSION
    if not path.is_file():
        return None
    try:
        found = _from_values(json.loads(path.read_text(encoding="utf-8")))
        if not found.describe():
            raise ValueError("it says that nothing was done")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is no report of a conversion; convert the model again, or delete the file") from error
    return found


def _from_values(values: dict[str, Any]) -> ConversionReport:
    if "residual" in values:  # aligning was all that there was
        alignment = AlignmentReport(**_tuples(values))
        return ConversionReport(1.0, None, alignment.balance, alignment.rows, alignment.seconds, alignment)
    kinds: dict[str, Any] = {"alignment": AlignmentReport, "transfer": TransferReport, "quality": Quality}
    if values.get("refit") is not None:
        from .refitting import RefitReport

        kinds["refit"] = RefitReport
    parts = {key: kind(**_tuples(values[key])) for key, kind in kinds.items() if values.get(key) is not None}
    return ConversionReport(**{**values, **parts})


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _tuple(value) for key, value in values.items()}


def _tuple(value: object) -> object:
    return tuple(_tuple(each) for each in value) if isinstance(value, list) else value


def _plain(value: object) -> object:
    """A part of a report as JSON takes it, without originals."""
    return {key: each for key, each in vars(value).items() if key != "originals"} if is_dataclass(value) else value


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.2f}" if value < 1e7 else f"{value:.2g}"


def _keys(fewest: int, most: int) -> str:
    if fewest == most:
        return f"{most} key{'s' if most > 1 else ''}"
    return f"{fewest} to {most} keys"
