"""What `explain` computes of one input, before it is put together; faithfulness asks for the same of many."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ...errors import some
from ..inputs.encoding import PIXELS, Encoded, encode
from ..inputs.image_patches import grid_of, patch_names, per_patch
from .evaluation import hidden_attentions
from .gradients import STEPS, Integrated, integrated_gradients
from .passes import Seen, look
from .rollout import rollout

# The share of all scores that the gap of integrated gradients may be without a word of warning.
TOLERATED = 0.1
METHODS = ("weights", "oriented", "contributions", "rollout", "gradient", "input_x_gradient", "integrated_gradients")


@dataclass(frozen=True)
class Request:
    """What to compute; the fields are arguments of `explain`, `layers` as indices, and `baseline` as `gradients.baseline_token` finds it.

    Raises:
        ValueError: a method that does not exist, or none.
    """

    methods: tuple[str, ...]
    layers: list[int]
    baseline: int
    tokenizer: Any = None
    processor: Any = None
    position: int | None = None
    max_length: int | None = None
    steps: int = STEPS

    def __post_init__(self) -> None:
        if isinstance(self.methods, str):
            raise ValueError(f"methods must be a tuple of names, but is the text {self.methods!r}")
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            what = f"there is no method {unknown[0]!r}" if unknown else "methods is empty"
            raise ValueError(f"{what}; choose from {', '.join(METHODS)}")


@dataclass(frozen=True)
class Examined:
    """One input, with names for its positions, what one pass showed, and scores of each position; `notes` as in `Explanation`."""

    encoded: Encoded
    seen: Seen
    scores: dict[str, Tensor]
    grid: tuple[int, int] | None
    notes: list[str] = field(default_factory=list)


def examine(model: Any, inputs: Any, target: int | str | None, request: Request) -> Examined:
    """Encode one input, look at every head, and score its positions.

    Args:
        model: in evaluation mode, gradients enabled.
        inputs: as for `explain`.
        target: as for `explain`.
        request: what to compute.

    Raises:
        ValueError, TypeError, ImportError: as `explain`.
    """
    encoded = encode(model, inputs, tokenizer=request.tokenizer, processor=request.processor, max_length=request.max_length)
    seen = look(model, encoded.inputs, target, request.layers, position=request.position, tokenizer=request.tokenizer)
    encoded, grid = _placed(model, encoded, seen)
    scores, notes = _attention_scores(seen, request.methods), []
    fields = {"gradient": seen.gradient, "input_x_gradient": seen.input_x_gradient}
    if "integrated_gradients" in request.methods:
        special, kept = _kept(encoded, seen)
        found = integrated_gradients(model, encoded.inputs, seen.target, special=special, baseline=request.baseline, steps=request.steps)
        fields["integrated_gradients"] = found.scores
        notes += [*kept, _missed(found, request.steps)]
    for name, values in fields.items():
        scores[name] = values if grid is None else per_patch(values, grid, len(encoded.tokens))
    return Examined(encoded, seen, {method: scores[method] for method in request.methods}, grid, notes)


def _kept(encoded: Encoded, seen: Seen) -> tuple[list[bool], list[str]]:
    """Which tokens the baseline of integrated gradients keeps, and a sentence on what is unexpected in that.

    The special ones, and the first token of a decoder: many heads rest on it (Xiao et al. 2024, attention sinks), and on the way to another
    token they let go at once: the scores of SmolLM2 then miss 50 logits with any number of steps, and 0.02 where the token is kept.
    """
    special = [word is None for word in encoded.words]
    if encoded.is_image or special[0] or bool(seen.weights.triu(1).any()):
        return special, []
    return [True, *special[1:]], ["integrated gradients keep the first token in their baseline, as the heads of a decoder rest on it"]


def _missed(found: Integrated, steps: int) -> str:
    much = abs(found.gap) > TOLERATED * float(found.scores.abs().sum())
    advice = ", which is too much to trust them: give more steps" if much else ""
    return f"integrated gradients of {steps} steps miss {found.gap:+.2g} logits of the difference to their baseline{advice}"


def unseen_notes(model: Any) -> list[str]:
    """A sentence if some attention of the model is not seen."""
    hidden = hidden_attentions(model)
    return [f"{some(hidden)} compute attention by themselves, so their weights are not shown"] if hidden else []


def softmax_notes(model: Any, signed: tuple[bool, ...], layers: list[int]) -> list[str]:
    """A sentence if layers compute softmax, where signed weights may be expected."""
    plain = [layer for layer, is_signed in zip(layers, signed, strict=True) if not is_signed]
    if not plain:
        return []
    which = "" if len(plain) == len(layers) else f" in layers {', '.join(map(str, plain))}"
    return [
        f"{type(model).__name__} computes softmax{which}: no weight is below 0, so an oriented weight has the sign of its whole head; "
        "hf_tanhmax.convert makes a TanhMax model"
    ]


def _placed(model: Any, encoded: Encoded, seen: Seen) -> tuple[Encoded, tuple[int, int] | None]:
    """Names of positions, which for a picture are known only now."""
    if not encoded.is_image:
        return encoded, None
    grid = grid_of(model.config, encoded.inputs[PIXELS])
    tokens, words, word_texts = patch_names(grid, seen.weights.shape[-1])
    return replace(encoded, tokens=tokens, words=words, word_texts=word_texts), grid


def _attention_scores(seen: Seen, methods: tuple[str, ...]) -> dict[str, Tensor]:
    oriented = seen.weights * seen.orientation[:, :, None, None]
    ways: dict[str, Callable[[], Tensor]] = {
        "weights": lambda: _heard(seen.weights, seen.live),
        "oriented": lambda: _heard(oriented, seen.live),
        "contributions": lambda: seen.contributions.sum((0, 1, 2)),
        "rollout": lambda: _at(rollout(oriented), seen.position),
    }
    return {name: way() for name, way in ways.items() if name in methods}


def _heard(weights: Tensor, live: Tensor) -> Tensor:
    """Mean over heads, over the queries of each layer that matter, and over layers."""
    rows = live.to(weights.dtype)
    of_layers = (weights.mean(1) * rows[:, :, None]).sum(1) / rows.sum(1, keepdim=True).clamp(min=1)
    return of_layers.mean(0)


def _at(matrix: Tensor, position: int | None) -> Tensor:
    return matrix.mean(0) if position is None else matrix[position]
