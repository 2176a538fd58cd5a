"""What aligning a model came to, and the file `conversion.json` that says so beside its weights."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CONVERSION = "conversion.json"
BALANCE = 0.2  # what a model is aligned to unless something else is asked for


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
            f"was aligned for polarity 1 at balance {self.balance:g} on {self.rows:,} rows: hidden states there have cosine "
            f"{self.cosine_after:.3f} to those of softmax ({self.cosine_before:.3f} before), and {mass[1]:.0f} % of the attention weight "
            f"is negative ({mass[0]:.0f} % before)"
        )

    def save(self, folder: Path) -> None:
        """Write it into the folder of the model."""
        (folder / CONVERSION).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


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
            f"had its queries and keys trained by attention transfer for {self.steps} steps on {self.rows:,} rows: the error of a layer is "
            f"{errors[1]:.3f} ({errors[0]:.3f} before), hidden states have cosine {self.cosine_after:.3f} to those of softmax "
            f"({self.cosine_before:.3f} before), and {mass[1]:.0f} % of the attention weight is negative ({mass[0]:.0f} % before)"
        )


def read_report(folder: Path) -> AlignmentReport | None:
    """The report in the folder of a model; None where there is none.

    Raises:
        ValueError: the file holds something else.
    """
    path = folder / CONVERSION
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        found = AlignmentReport(**fields)
        found.describe()
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is no report of a conversion; convert the model again, or delete the file") from error
    return found
