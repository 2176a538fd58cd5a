"""What the scores of a method should add up to, and what they do: conservation of a logit, or completeness of its change.

A method that promises a sum is judged by it: integrated gradients, KernelSHAP (the change of the logit from a baseline), AttnLRP (the
logit), ALTI (1). One that promises none is still read as if it did, so what its scores add up to is told too: contributions, input times
gradient, ALTI-Logit, occlusion.
"""

from dataclasses import dataclass

from torch import Tensor

# The share of all scores, without their signs, up to which a gap is no reason to say that two numbers are far apart.
ACCEPTED_GAP = 0.1
LOGIT, CHANGE = "the logit", "the change of the logit from the baseline"


@dataclass(frozen=True)
class Conservation:
    """The sum of one method's scores beside what it should be.

    Attributes:
        total: the sum of the scores.
        expected: what they would add up to if nothing was lost.
        expected_is: what that is, such as "the logit".
        size: the sum of the scores without their signs, which a gap is compared with.
    """

    total: float
    expected: float
    expected_is: str
    size: float

    @classmethod
    def of(cls, scores: Tensor, expected: float, expected_is: str = LOGIT) -> "Conservation":
        """That of scores of any shape."""
        exact = scores.double()
        return cls(float(exact.sum()), float(expected), expected_is, float(exact.abs().sum()))

    @property
    def gap(self) -> float:
        """What is missing from the scores, below 0 if they are too much."""
        return self.expected - self.total

    @property
    def is_far(self) -> bool:
        """Whether the gap is more than a tenth of the scores."""
        return abs(self.gap) > ACCEPTED_GAP * self.size

    def as_dict(self) -> dict[str, float | str | bool]:
        """What JSON holds of it."""
        return {"total": self.total, "expected": self.expected, "expected_is": self.expected_is, "gap": self.gap, "far": self.is_far}

    def sentence(self, name: str) -> str:
        """Both numbers in a sentence that begins with the name of the scores, in the plural.

        Args:
            name: such as "contributions".
        """
        far = ", which is too far from it to read them as shares of it" if self.is_far else ""
        return f"{name} sum to {self.total:.3g} of {self.expected_is} {self.expected:.3g}{far}"
