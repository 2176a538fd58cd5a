"""The numbers that figures and pages show of an explanation: a view of every head, one number per head, scores of tokens or words."""

from torch import Tensor

from ..attribution.explanation import Explanation
from .labels import printable

VIEWS = {
    "raw": "attention weight",
    "oriented": "oriented weight",
    "contributions": "contribution (logits)",
}
UNITS = ("words", "tokens")
# Scores and views in logits.
IN_LOGITS = ("contributions", "input_x_gradient", "integrated_gradients", "alti_logit", "attnlrp", "occlusion", "kernel_shap")
# The logits at which colour is full at the earliest: less hardly moves the output and must look like it. There are more patches, heads and
# weights than words, so each may do less.
FULL_COLOUR = {"word": 0.5, "patch": 0.1, "head": 0.25, "weight": 0.05}
FADED = 4  # by how much the range is wider for a text of which the model knows no word


def head_matrices(explanation: Explanation, view: str) -> Tensor:
    """One view of every head, [L, H, Q, K]: "raw" weights, "oriented" weights or "contributions".

    Raises:
        ValueError: there is no such view.
    """
    if view not in VIEWS:
        raise ValueError(f'there is no view "{view}"; there are {", ".join(VIEWS)}')
    return {"raw": explanation.weights, "oriented": explanation.oriented, "contributions": explanation.contributions}[view]


def head_numbers(explanation: Explanation, view: str) -> Tensor:
    """One signed number per head, [L, H]: the mean over queries of the sum of weights, or the sum of contributions in logits.

    The sum of weights is 1 for softmax, and from -1 to 1 for TanhMax.

    Raises:
        ValueError: there is no such view.
    """
    matrices = head_matrices(explanation, view)
    return matrices.sum((-2, -1)) if view == "contributions" else matrices.sum(-1).mean(-1)


def head_matrix(explanation: Explanation, layer: int, head: int, view: str) -> Tensor:
    """One view of one head, [Q, K].

    Raises:
        ValueError: there is no such layer, head or view.
    """
    matrices = head_matrices(explanation, view)
    layers, heads = matrices.shape[:2]
    if not (0 <= layer < layers and 0 <= head < heads):
        raise ValueError(f"there is no layer {layer}, head {head}: layers are 0 to {layers - 1} and heads 0 to {heads - 1}")
    return matrices[layer, head]


def colour_range(explanation: Explanation, largest: float, name: str, of: str) -> float:
    """The absolute number that has full colour. For numbers in logits it is at least `FULL_COLOUR`, so that noise is pale.

    Args:
        explanation: that the numbers are from.
        largest: absolute number.
        name: of the scores or the view.
        of: what has a number: "word" (or token), "patch", "head" or "weight".
    """
    return max(largest, FULL_COLOUR[of] if name in IN_LOGITS else 0.0) * (FADED if explanation.knows_no_word else 1)


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
    texts, values = (explanation.word_texts, by_word) if by == "words" else (explanation.tokens, explanation.scores[scores])
    return [printable(text) for text in texts], values.tolist()
