"""Which explanations of a page belong together: targets of one text, and the twin beside each.

Explanations of the same input by the same model with other targets have the same weights: the page holds these once, and the reader
switches the target. A twin stands after the explanations that were given, and is reached from its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ..attribution.explanation import Explanation
from .labels import printable

LONGEST_NAME = 60  # letters of a text in a list of texts


@dataclass(frozen=True)
class Arrangement:
    """The explanations of a page.

    Attributes:
        shown: those that were given, and after them their twins.
        texts: for each input the explanations of its targets, as places in `shown`.
        names: of the inputs.
        weights_of: for each of `shown`, the place of the one that has the same weights: its own, or an earlier one.
        twins: for each of `shown`, the place of its twin, or None.
    """

    shown: tuple[Explanation, ...]
    texts: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    weights_of: tuple[int, ...]
    twins: tuple[int | None, ...]

    @property
    def follows(self) -> bool:
        """Whether the inputs are a text and the tokens that were written after it, one after the other."""
        steps = [self.shown[text[0]] for text in self.texts]
        return len(steps) > 1 and all(
            after.tokens[: len(before.tokens)] == before.tokens and len(after.tokens) == len(before.tokens) + 1
            for before, after in pairwise(steps)
        )


def arrange(given: Sequence[Explanation]) -> Arrangement:
    """Put explanations in their places.

    Args:
        given: of one or several inputs, in any order.
    """
    texts: list[list[int]] = []
    for place, explanation in enumerate(given):
        for text in texts:
            targets = {given[other].target for other in text}
            if explanation.target not in targets and _same_input(given[text[0]], explanation):
                text.append(place)
                break
        else:
            texts.append([place])
    shown = list(given)
    twins: list[int | None] = []
    for explanation in given:
        twins.append(None if explanation.twin is None else len(shown))
        if explanation.twin is not None:
            shown.append(explanation.twin)
    twins += [None] * (len(shown) - len(given))
    names = tuple(_name(given[text[0]], place) for place, text in enumerate(texts))
    return Arrangement(tuple(shown), tuple(map(tuple, texts)), names, _weights_of(shown), tuple(twins))


def _weights_of(shown: Sequence[Explanation]) -> tuple[int, ...]:
    places: list[int] = []
    for place, explanation in enumerate(shown):
        places.append(next((earlier for earlier in set(places) if _same_input(shown[earlier], explanation)), place))
    return tuple(places)


def _same_input(one: Explanation, other: Explanation) -> bool:
    return (
        (one.model_name, one.tokens, one.layers, one.grid) == (other.model_name, other.tokens, other.layers, other.grid)
        and one.weights.shape == other.weights.shape
        and torch.equal(one.weights, other.weights)
    )


def _name(explanation: Explanation, place: int) -> str:
    """An input in a list: its number and its first words, or what the model says of a picture."""
    words = explanation.target_name if explanation.grid else " ".join(explanation.word_texts)
    text = printable(words) if words else "∅"
    return f"{place + 1}: {text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + '…'}"
