"""What a conversion is asked for, before the checkpoint is read: what cannot go together is refused here, without importing torch."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

BALANCE = 0.2  # what a model is converted to unless something else is asked for
LEARNED = "learned"


@dataclass(frozen=True)
class Plan:
    """What `convert` is asked for.

    Attributes:
        polarity: None is 1, or the balance where a balanced shift is calibrated.
        layers: as in `TanhMaxSettings`.
        heads: as in `TanhMaxSettings`.
        score_bias: as in `TanhMaxSettings`.
        shift: as in `TanhMaxSettings`.
        calibrate: whether there are inputs to calibrate with.
        balance: the mass of negative weights over that of positive ones that calibration aims at, in (0, 1].
        refit: whether output projections are refitted; None with a balanced shift, where layers can be run one at a time.
        transfer_steps: of attention transfer; 0 for none.
        softmax_parts: as in `TanhMaxSettings`.
    """

    polarity: float | str | None = None
    layers: Iterable[int | str] | None = None
    heads: Iterable[int] | None = None
    score_bias: float = 3.0
    shift: Any = None
    calibrate: bool = False
    balance: float = BALANCE
    refit: bool | None = None
    transfer_steps: int = 0
    softmax_parts: Iterable[str] | None = None

    def __post_init__(self) -> None:
        check_balance(self.balance)
        if isinstance(self.transfer_steps, bool) or not isinstance(self.transfer_steps, int) or self.transfer_steps < 0:
            raise ValueError(f"transfer_steps must be 0 or a whole number above, such as 60, but is {self.transfer_steps!r}")
        if self.refit not in (None, True, False):
            raise ValueError(f"refit must be True, False or None, but is {self.refit!r}")
        if self.calibrate:
            self._check_calibrated()
        elif self.balance != BALANCE:
            raise ValueError(
                f"balance {self.balance:g} is what calibrate=inputs would aim at, but there are none; pass them, or leave it away"
            )
        elif self.refit or self.transfer_steps:
            wanted = "a refit of output projections" if self.refit else f"attention transfer for {self.transfer_steps} steps"
            raise ValueError(f"{wanted} needs inputs of the model, but there are none; pass calibrate=, such as 256 unlabelled texts")

    def for_model(self, *, alignable: bool) -> "Plan":
        """The plan for a model, with everything decided but a refit that was not asked for: None is where it can be, with a balanced shift.

        Args:
            alignable: whether key biases can balance the model's scores (`why_not_aligned`), as where keys have biases and are not rotated.

        Raises:
            ValueError: what is asked for does not go together for this model.
        """
        shift = self.shift if alignable or not self.calibrate else "balanced"
        if not self.calibrate or shift is None:
            return replace(self, shift=shift, polarity=1.0 if self.polarity is None else self.polarity, refit=bool(self.refit))
        if self.polarity == 0:
            raise ValueError("polarity 0 is softmax, so there is nothing to calibrate; pass a polarity such as 0.2, or no calibrate")
        if self.polarity not in (None, self.balance) and self.balance != BALANCE:
            raise ValueError(
                f"with a balanced shift polarity and balance are one number, but are {self.polarity} and {self.balance:g}; pass one of them"
            )
        if self.refit is False and not self.transfer_steps:
            raise ValueError(
                "a balanced shift balances every row by itself, so there is nothing to calibrate but output projections (refit) and "
                "attention (transfer_steps); pass one of them, or no calibrate"
            )
        return replace(self, shift=shift, polarity=self.balance if self.polarity is None else self.polarity)

    def _check_calibrated(self) -> None:
        if self.polarity == LEARNED:
            raise ValueError(
                "a learned polarity starts close to softmax, so there is nothing to calibrate; pass polarity 1 or no calibrate"
            )
        if self.polarity == 0 and (self.refit or self.transfer_steps):
            wanted = "refit" if self.refit else "transfer attention to"
            raise ValueError(f"polarity 0 is softmax, so there is nothing to {wanted}; pass a polarity above 0")


def check_balance(balance: float) -> None:
    """Refuse a balance outside (0, 1].

    Raises:
        ValueError: it is outside.
    """
    if isinstance(balance, bool) or not isinstance(balance, int | float) or not 0 < balance <= 1:
        raise ValueError(
            "balance must be in (0, 1] (small is close to softmax, which is polarity 0; at 1 both signs weigh the same), but is "
            f"{balance!r}"
        )
