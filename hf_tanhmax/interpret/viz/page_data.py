"""The data of the page: the facts of an explanation as JSON, and its matrices as text."""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from ..attribution.explanation import Explanation
from ..attribution.generation import GenerationExplanation
from .colours import DARK_NEGATIVE, DARK_POSITIVE, NEGATIVE, POSITIVE
from .labels import SCORES, model_label, printable, score_label
from .packing import Packed, pack
from .positions import PADDING, SINK, SPECIAL, parts_of_heads, position_kinds
from .views import FADED, FULL_COLOUR, IN_LOGITS, VIEWS

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_WHOLE = 25_000_000  # weights and contributions together that a page holds before it leaves most contributions out
LARGEST_SIDE = 768  # of an image, in pixels
CONTRIBUTIONS = ("auto", "all", "row")

Nested: TypeAlias = "float | list[Nested]"

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
    "value_zeroing": "How far each layer’s output turns without the position, followed through the layers. A share, without a sign.",
    "alti": "How much of each layer’s output comes from the position, followed through the layers. A share, without a sign.",
    "alti_logit": "What attention to the position writes straight into the logit, traced back through the layers below.",
    "attnlrp": "The logit handed back through all layers to the positions. What biases and attention maps keep is missing.",
    "occlusion": "How much the logit falls if this position alone is replaced by an empty one.",
    "kernel_shap": "The mean of that over all subsets of positions (Shapley values). They add up to the change of the logit.",
}


def shared_facts() -> dict[str, object]:
    """The facts of every explanation: colours, and the names of views and methods."""
    return {
        "colours": {"light": [POSITIVE, NEGATIVE], "dark": [DARK_POSITIVE, DARK_NEGATIVE]},
        "views": {view: {"name": name, "note": VIEW_NOTES[view]} for view, name in VIEWS.items()},
        "methods": {name: {"name": score_label(name), "note": METHOD_NOTES.get(name, "")} for name in SCORES},
        "hidden": {"special": SPECIAL, "sinks": SINK, "padding": PADDING},
        "in_logits": IN_LOGITS,
        "full_colour": FULL_COLOUR,
        "faded": FADED,
    }


def keep_all_contributions(explanations: Sequence[Explanation], contributions: str) -> bool:
    """Whether a page holds contributions of every query.

    Args:
        explanations: of one page.
        contributions: "all", "row", or "auto", which is "all" for up to 25 million weights and contributions.

    Raises:
        ValueError: there is no such choice.
    """
    if contributions not in CONTRIBUTIONS:
        raise ValueError(f'contributions must be one of {", ".join(CONTRIBUTIONS)}, but is "{contributions}"')
    size = sum(each.weights.numel() + each.contributions.numel() for each in explanations)
    return contributions == "all" or (contributions == "auto" and size <= LARGEST_WHOLE)


def facts(explanation: Explanation, *, whole: bool, kinds: list[int] | None = None) -> dict[str, Any]:
    """Everything about an explanation but its matrices.

    Args:
        explanation: of anything.
        whole: whether the page holds contributions of every query.
        kinds: of its positions, which a reader may hide; None finds them. A twin has those of its model, as both hide the same.

    Raises:
        ValueError: a number is not finite.
    """
    _check_finite(explanation)
    weights, contributions = explanation.weights, shown_contributions(explanation, whole=whole)
    total = weights.abs().sum((-2, -1))
    told = tuple(each.sentence("") for each in explanation.conservation.values())  # with the method it is about
    kinds = position_kinds(explanation) if kinds is None else kinds
    parts = parts_of_heads(explanation, contributions, kinds)
    return {
        "model": model_label(explanation),
        "family": explanation.family,
        "target": printable(explanation.target_name),
        "logit": explanation.logit,
        "probability": explanation.probability,
        "tokens": [printable(token) for token in explanation.tokens],
        "words": [printable(word) for word in explanation.word_texts],
        "word_of": list(explanation.words),
        "queries": weights.shape[2],
        "layers": list(explanation.layers),
        "signed": list(explanation.signed),
        "one_signed": explanation.one_signed.tolist(),
        "orientation": explanation.orientation.tolist(),
        "row": explanation.position,
        "whole": whole,
        "scores": {name: _short(scores) for name, scores in explanation.scores.items()},
        "kinds": kinds,
        "parts": {
            kind: {name: {key: _short(values) for key, values in one.items()} for name, one in part.items()} for kind, part in parts.items()
        },
        "negative": _short(weights.clamp(max=0).abs().sum((-2, -1)) / total.clamp(min=torch.finfo(total.dtype).tiny)),
        "sums": {name: {"text": f"{each.sentence('The scores')}.", "far": each.is_far} for name, each in explanation.conservation.items()},
        "unknown": list(explanation.unknown),
        "cut": explanation.cut,
        "warnings": bool(explanation.unknown) + bool(explanation.cut),  # so many of the notes are, the first ones
        "knows_no_word": explanation.knows_no_word,
        "notes": [printable(note) for note in explanation.notes if not note.endswith(told)],
        "grid": explanation.grid,
        "image": None if explanation.image is None else _data_url(explanation.image),
    }


def generation_facts(generation: GenerationExplanation) -> dict[str, Any]:
    """Everything about a whole generation; of each row the scores of the tokens before the written one.

    Args:
        generation: of a causal model.

    Raises:
        ValueError: a number is not finite.
    """
    if not generation.scores.isfinite().all():
        raise ValueError("the scores of the generation are not finite: there is NaN or infinity among them; examine the model's weights")
    return {
        "name": score_label(generation.method),
        "tokens": [printable(token) for token in generation.tokens],
        "prompt": generation.prompt,
        "probabilities": _short(generation.probabilities),
        "scores": [_short(row[: generation.prompt + place]) for place, row in enumerate(generation.scores)],
        "sums": [{"text": f"{each.sentence('The scores')}.", "far": each.is_far} for each in generation.conservation],
        "notes": [f"{note[:1].upper()}{note[1:]}." for note in generation.notes],
    }


def shown_matrices(explanation: Explanation, *, whole: bool) -> dict[str, Tensor]:
    """The matrices of every head that a page holds, by their kind: "weights" and "contributions"."""
    return {"weights": explanation.weights, "contributions": shown_contributions(explanation, whole=whole)}


def blocks(matrices: Tensor, *, budget: float) -> Iterator[tuple[int, int, Packed]]:
    """Each matrix as text, with its layer and head.

    Args:
        matrices: `[L, H, Q, K]`.
        budget: characters per number.
    """
    for layer in range(matrices.shape[0]):
        for head in range(matrices.shape[1]):
            yield layer, head, pack(matrices[layer, head], budget=budget * matrices[layer, head].numel())


def shown_contributions(explanation: Explanation, *, whole: bool) -> Tensor:
    """[L, H, Q, K], or [L, H, 1, K]: those of the position that is read, or where all are pooled their sum."""
    contributions = explanation.contributions
    if whole:
        return contributions
    if explanation.position is None:
        return contributions.sum(-2, keepdim=True)
    return contributions[:, :, explanation.position - contributions.shape[-1] + contributions.shape[-2]].unsqueeze(-2)


def _check_finite(explanation: Explanation) -> None:
    scores = {f'the scores "{name}"': values for name, values in explanation.scores.items()}
    for name, values in {"the weights": explanation.weights, "the contributions": explanation.contributions, **scores}.items():
        if not values.isfinite().all():
            raise ValueError(f"{name} are not finite: there is NaN or infinity among them; examine the model's weights")


def _short(values: Tensor) -> Nested:
    """Nested lists of numbers with the seven digits that float32 has."""
    return _rounded(values.tolist())


def _rounded(values: Nested) -> Nested:
    return [_rounded(value) for value in values] if isinstance(values, list) else float(f"{values:.7g}")


def _data_url(image: "Image") -> str:
    """An image as a data URL: PNG where it is small, else JPEG of at most 768 pixels per side."""
    resized = image.convert("RGB")
    kind = "PNG" if max(resized.size) <= 256 else "JPEG"
    resized.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    resized.save(file, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
