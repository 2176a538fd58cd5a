"""What the page knows of an explanation: its facts as JSON, and its matrices as blocks of text."""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..attribution.explanation import Explanation
from .colours import DARK_NEGATIVE, DARK_POSITIVE, NEGATIVE, POSITIVE
from .labels import SCORES, VIEWS, model_in_words, score_name, seen
from .packed import BYTES, packed
from .selection import head_numbers

WHOLE = 48 * 2**20  # bytes of weights and contributions that a page holds before it leaves most contributions out
LARGEST_SIDE = 768  # of an image, in pixels
CONTRIBUTIONS = ("auto", "all", "row")

VIEW_NOTES = {
    "raw": "The weights as the head computes them. Their sign alone says nothing of the target: values may point either way.",
    "oriented": "Weights turned so that positive speaks for the target: each times the sign of what its head’s values do to the logit.",
    "contributions": "What each weight adds to the target’s logit, to first order. Nothing is left to interpret but the size.",
}
METHOD_NOTES = {
    "weights": "How much each position is looked at, over all layers and heads. The sign is the heads’ own: it is not for or against.",
    "oriented": "The same, with every head turned so that positive speaks for the target.",
    "contributions": "What looking at each position adds to the target’s logit, to first order, summed over layers and heads.",
    "rollout": "Attention followed through the layers with its sign, from the position that is read to the input.",
    "gradient": "How strongly the logit reacts to each input embedding or patch. A size, without a sign; no attention is looked at.",
    "input_x_gradient": "The gradient of the logit at each input, times the input, in logits. No attention is looked at.",
    "integrated_gradients": "Gradients collected on the way from an empty input to this one. They add up to the change of the logit.",
}


def shared_facts() -> dict[str, Any]:
    """What holds for every explanation: colours, and the names of views and methods."""
    return {
        "colours": {"light": [POSITIVE, NEGATIVE], "dark": [DARK_POSITIVE, DARK_NEGATIVE]},
        "views": {view: {"name": name, "note": VIEW_NOTES[view]} for view, name in VIEWS.items()},
        "methods": {name: {"name": score_name(name), "note": METHOD_NOTES[name]} for name in SCORES},
    }


def holds_all(explanations: Sequence[Explanation], contributions: str) -> bool:
    """Whether a page holds contributions of every query.

    Args:
        explanations: of one page.
        contributions: "all", "row", or "auto", which is "all" up to 48 MiB of matrices.

    Raises:
        ValueError: there is no such choice.
    """
    if contributions not in CONTRIBUTIONS:
        raise ValueError(f'contributions must be one of {", ".join(CONTRIBUTIONS)}, but is "{contributions}"')
    size = BYTES * sum(found.weights.numel() + found.contributions.numel() for found in explanations)
    return contributions == "all" or (contributions == "auto" and size <= WHOLE)


def facts(explanation: Explanation, *, whole: bool) -> dict[str, Any]:
    """Everything about an explanation but its matrices.

    Args:
        explanation: of anything.
        whole: whether the page holds contributions of every query.

    Raises:
        ValueError: a number is not finite.
    """
    _refuse_what_cannot_be_shown(explanation)
    weights, contributions = explanation.weights, _contributions(explanation, whole=whole)
    size = weights.abs().sum((-2, -1))
    return {
        "model": model_in_words(explanation),
        "family": explanation.family,
        "target": seen(explanation.target_name),
        "logit": explanation.logit,
        "probability": explanation.probability,
        "tokens": [seen(token) for token in explanation.tokens],
        "words": [seen(word) for word in explanation.word_texts],
        "word_of": list(explanation.words),
        "queries": weights.shape[2],
        "layers": list(explanation.layers),
        "signed": list(explanation.signed),
        "one_signed": explanation.one_signed.tolist(),
        "orientation": explanation.orientation.tolist(),
        "row": explanation.position,
        "whole": whole,
        "scores": {name: _short(found) for name, found in explanation.scores.items()},
        "numbers": {view: _short(head_numbers(explanation, view)) for view in VIEWS},
        "negative": _short(weights.clamp(max=0).abs().sum((-2, -1)) / size.clamp(min=torch.finfo(size.dtype).tiny)),
        "reach": {"weights": _short(weights.abs().amax((-2, -1))), "contributions": _short(contributions.abs().amax((-2, -1)))},
        "notes": [seen(note) for note in explanation.notes],
        "grid": explanation.grid,
        "image": None if explanation.image is None else _data_address(explanation.image),
    }


def blocks(explanation: Explanation, *, whole: bool) -> Iterator[tuple[str, int, int, float, str]]:
    """The matrices of every head, as (kind, layer, head, scale, text); the kind is "weights" or "contributions"."""
    for kind, found in (("weights", explanation.weights), ("contributions", _contributions(explanation, whole=whole))):
        for layer in range(found.shape[0]):
            for head in range(found.shape[1]):
                yield kind, layer, head, *packed(found[layer, head])


def _contributions(explanation: Explanation, *, whole: bool) -> Tensor:
    """[L, H, Q, K], or [L, H, 1, K]: those of the position that is read, or where all are pooled their sum."""
    found = explanation.contributions
    if whole:
        return found
    if explanation.position is None:
        return found.sum(-2, keepdim=True)
    return found[:, :, explanation.position - found.shape[-1] + found.shape[-2]].unsqueeze(-2)


def _refuse_what_cannot_be_shown(explanation: Explanation) -> None:
    scores = {f'the scores "{name}"': found for name, found in explanation.scores.items()}
    for name, found in {"the weights": explanation.weights, "the contributions": explanation.contributions, **scores}.items():
        if not found.isfinite().all():
            raise ValueError(f"{name} are not finite: there is NaN or infinity among them; examine the model's weights")


def _short(values: Tensor) -> Any:
    """Nested lists with the seven digits that float32 has."""
    return values.tolist() if values.dtype == torch.bool else _rounded(values.tolist())


def _rounded(values: Any) -> Any:
    return [_rounded(value) for value in values] if isinstance(values, list) else float(f"{values:.7g}")


def _data_address(image: Any) -> str:
    """An image inside an address: PNG where it is small, else JPEG of at most 768 pixels a side."""
    picture = image.convert("RGB")
    kind = "PNG" if max(picture.size) <= 256 else "JPEG"
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    found = io.BytesIO()
    picture.save(found, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(found.getvalue()).decode('ascii')}"
