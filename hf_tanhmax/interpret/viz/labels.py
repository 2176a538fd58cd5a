"""Labels of figures and pages: names of scores, of the model, the target and a head, and tokens with visible white space."""

from pathlib import Path

from ..attribution.explanation import Explanation

SCORES = {
    "weights": "attention weights",
    "oriented": "oriented weights",
    "contributions": "contributions",
    "rollout": "signed rollout",
    "gradient": "size of the gradient",
    "input_x_gradient": "input times gradient",
    "integrated_gradients": "integrated gradients",
    "value_zeroing": "value zeroing",
    "alti": "ALTI",
    "alti_logit": "ALTI-Logit",
    "attnlrp": "AttnLRP",
    "occlusion": "occlusion",
    "kernel_shap": "KernelSHAP",
}

_VISIBLE = str.maketrans({"\n": "↵", "\r": "↵", "\t": "⇥", "\u00a0": " ", "\u200b": "", "\ufeff": ""})


def model_label(explanation: Explanation) -> str:
    """The model's name; of a folder its last part, as the rest of the path is private."""
    name = explanation.model_name
    return printable(Path(name).name if Path(name).is_absolute() else name) if name else ""


def score_label(name: str) -> str:
    """The name of a score for readers."""
    return SCORES.get(name, name.replace("_", " "))


def printable(token: str) -> str:
    """A token on one line with visible white space; an empty one is ∅."""
    text = "".join(letter if letter.isprintable() else "�" for letter in token.translate(_VISIBLE))
    if not text:
        return "∅"
    return "␣" * len(text) if text.isspace() else text


def target_label(explanation: Explanation) -> str:
    """The target with its probability and logit, such as “positive” (probability 0.97, logit 3.2)."""
    name = printable(explanation.target_name)
    return f"“{name}” (probability {explanation.probability:.3g}, logit {explanation.logit:.3g})"


def head_label(explanation: Explanation, layer: int, head: int) -> str:
    """A head as "layer 3, head 5", with "(softmax)" or "(one-signed)" where it is no TanhMax head of both signs.

    Args:
        explanation: that the head is from.
        layer: row of the explanation's tensors.
        head: column of them.
    """
    label = f"layer {explanation.layers[layer]}, head {head}"
    if not explanation.signed[layer]:
        return f"{label} (softmax)"
    return f"{label} (one-signed)" if explanation.one_signed[layer, head] else label
