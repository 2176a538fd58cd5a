"""What pictures say in words: the names of views and scores, the target, and tokens of which every letter can be seen."""

from pathlib import Path

from ..attribution.explanation import Explanation

VIEWS = {
    "raw": "attention weight",
    "oriented": "oriented weight",
    "contributions": "contribution (logits)",
}

SCORES = {
    "weights": "attention weights",
    "oriented": "oriented weights",
    "contributions": "contributions",
    "rollout": "signed rollout",
    "gradient": "size of the gradient",
    "input_x_gradient": "input times gradient",
    "integrated_gradients": "integrated gradients",
}

_SEEN = str.maketrans({"\n": "↵", "\r": "↵", "\t": "⇥", "\u00a0": " ", "\u200b": "", "\ufeff": ""})


def model_in_words(explanation: Explanation) -> str:
    """What the model calls itself; of a folder its last name, as the rest is nobody's business."""
    name = explanation.model_name
    return seen(Path(name).name if Path(name).is_absolute() else name) if name else ""


def score_name(name: str) -> str:
    """A score's name for readers."""
    return SCORES.get(name, name.replace("_", " "))


def seen(token: str) -> str:
    """A token as one line in which white space can be seen; an empty one is ∅."""
    shown = "".join(letter if letter.isprintable() else "�" for letter in token.translate(_SEEN))
    if not shown:
        return "∅"
    return "␣" * len(shown) if shown.isspace() else shown


def target_in_words(explanation: Explanation) -> str:
    """The target with its probability and logit, such as "positive" (probability 0.97, logit 3.2)."""
    name = seen(explanation.target_name)
    return f"“{name}” (probability {explanation.probability:.3g}, logit {explanation.logit:.3g})"


def head_in_words(explanation: Explanation, layer: int, head: int) -> str:
    """A head as "layer 3, head 5", with a word if it is no ordinary TanhMax head.

    Args:
        explanation: that the head is from.
        layer: row of the explanation's tensors.
        head: column of them.
    """
    words = f"layer {explanation.layers[layer]}, head {head}"
    if not explanation.signed[layer]:
        return f"{words} (softmax)"
    return f"{words} (one-signed)" if explanation.one_signed[layer, head] else words
