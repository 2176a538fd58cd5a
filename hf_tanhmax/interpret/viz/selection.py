"""What a picture shows of an explanation: one view of every head, one number for each head, scores of tokens or of words."""

from torch import Tensor

from ..attribution.explanation import Explanation
from .labels import VIEWS, seen

UNITS = ("words", "tokens")


def matrices(explanation: Explanation, view: str) -> Tensor:
    """One view of every head, [L, H, Q, K]: "raw" weights, "oriented" weights or "contributions".

    Raises:
        ValueError: there is no such view.
    """
    if view not in VIEWS:
        raise ValueError(f'there is no view "{view}"; there are {", ".join(VIEWS)}')
    return {"raw": explanation.weights, "oriented": explanation.oriented, "contributions": explanation.contributions}[view]


def head_numbers(explanation: Explanation, view: str) -> Tensor:
    """One signed number for each head, [L, H]: the mean over queries of the sum of weights, or the sum of contributions in logits.

    The sum of weights is 1 for softmax, and from -1 to 1 for TanhMax.
    """
    found = matrices(explanation, view)
    return found.sum((-2, -1)) if view == "contributions" else found.sum(-1).mean(-1)


def one_head(explanation: Explanation, layer: int, head: int, view: str) -> Tensor:
    """One view of one head, [Q, K].

    Raises:
        ValueError: there is no such layer, head or view.
    """
    found = matrices(explanation, view)
    layers, heads = found.shape[:2]
    if not (0 <= layer < layers and 0 <= head < heads):
        raise ValueError(f"there is no layer {layer}, head {head}: layers are 0 to {layers - 1} and heads 0 to {heads - 1}")
    return found[layer, head]


def texts_and_scores(explanation: Explanation, scores: str, by: str) -> tuple[list[str], list[float]]:
    """Tokens or words, and the score of each.

    Args:
        explanation: where they are from.
        scores: the name of the scores.
        by: "words" or "tokens".

    Raises:
        ValueError: there are no scores of that name, or no such unit.
    """
    if by not in UNITS:
        raise ValueError(f'scores are by "words" or by "tokens", not by "{by}"')
    by_word = explanation.by_word(scores)
    texts, found = (explanation.word_texts, by_word) if by == "words" else (explanation.tokens, explanation.scores[scores])
    return [seen(text) for text in texts], found.tolist()
