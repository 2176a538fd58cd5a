"""Explain one output of a model by its signed attention: `explain`, and `explain_generation` for the next token of a text."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from .encoding import PIXELS, Encoded, encode
from .evaluation import check_attentions, evaluating
from .explanation import Explanation
from .forward import Seen, look
from .gradients import STEPS, baseline_token, integrated_gradients
from .patches import grid_of, patch_names, per_patch
from .rollout import rollout

METHODS = ("weights", "oriented", "contributions", "rollout", "gradient", "input_x_gradient", "integrated_gradients")


def explain(
    model: Any,
    inputs: Any,
    target: int | str | None = None,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    position: int | None = None,
    layers: Any = None,
    methods: tuple[str, ...] = METHODS,
    max_length: int | None = None,
    steps: int = STEPS,
) -> Explanation:
    """Why a model gives a target its logit: signed weights, their orientation, contributions, and scores of every position.

    One forward and one backward pass; integrated gradients take `steps` more. A softmax model works too, with a warning, as its weights
    have no sign. The model is evaluated without dropout whatever mode it is in, and is left as it was.

    Scores (`Explanation.scores`), each `[K]`, over the chosen layers:

    * `weights`, `oriented`: mean over layers, heads and those queries that the logit depends on (in the last layer of a classifier, its
      [CLS] token alone), of raw and of oriented weights;
    * `contributions`: sum over layers, heads and queries, in logits: to first order, what the logit loses if no query of any of these
      layers hears the position;
    * `rollout`: signed rollout of the oriented weights, to the position that the logit is read from (the mean over all, where it is read
      from all); see `rollout`;
    * `gradient`: size of the gradient at the position's embedding or pixels; it has no sign;
    * `input_x_gradient`, `integrated_gradients`: in logits; integrated gradients by captum.

    Args:
        model: a BERT, ViT or LLaMA class (or another whose attention asks Transformers' interface) that returns logits.
        inputs: a text, a pair of texts, a PIL image, or an encoded batch of one. Padding is cut away.
        target: index or name of a class, or a token; None is what the model predicts.
        tokenizer: needed for texts; names the tokens of an encoded batch.
        processor: image processor, needed for a PIL image.
        position: for models with logits at each position, the one to explain; None is the only mask token, or the last position of a
            causal model.
        layers: indices of attention layers, negative ones from the end; None is all.
        methods: which scores to compute, of `METHODS`.
        max_length: cuts longer texts to so many tokens; None refuses a text that is longer than the model reads.
        steps: of integrated gradients.

    Raises:
        ValueError, TypeError: input, target, position, layers or methods that do not fit; a model whose attention cannot be seen; weights
            or outputs that are not finite.
        ImportError: integrated gradients without captum.
    """
    _check_methods(methods)
    chosen = check_attentions(model, layers)
    encoded = encode(model, inputs, tokenizer=tokenizer, processor=processor, max_length=max_length)
    with evaluating(model):
        seen = look(model, encoded.inputs, target, chosen, position=position, tokenizer=tokenizer)
        encoded, grid = _placed(model, encoded, seen)
        scores, notes = _attention_scores(seen, methods), _softmax_notes(model, seen, chosen)
        for note in notes:
            warnings.warn(note, UserWarning, stacklevel=2)
        fields = {"gradient": seen.gradient, "input_x_gradient": seen.input_x_gradient}
        if "integrated_gradients" in methods:
            special, baseline = [word is None for word in encoded.words], baseline_token(model, tokenizer)
            found = integrated_gradients(model, encoded.inputs, seen.target, special=special, baseline=baseline, steps=steps)
            fields["integrated_gradients"] = found.scores
            notes.append(f"integrated gradients of {steps} steps miss {found.gap:+.2g} logits of the difference to their baseline")
    for name, field in fields.items():
        if name in methods:
            scores[name] = field if grid is None else per_patch(field, grid, len(encoded.tokens))
    ordered = {method: scores[method] for method in methods}
    return _explanation(model, encoded, seen, layers=tuple(chosen), scores=ordered, grid=grid, notes=tuple(notes))


def explain_generation(model: Any, tokenizer: Any, text: Any, target: int | str | None = None, **options: Any) -> Explanation:
    """Why a causal language model continues a text with a token.

    Args:
        model: a causal language model, such as `TanhMaxLlamaForCausalLM`.
        tokenizer: of the model.
        text: what has been written so far, or an encoded batch of one.
        target: the next token, by index or as text (one token, usually with its leading space); None is what the model would write.
        **options: `layers`, `methods`, `max_length` and `steps` of `explain`.

    Raises:
        ValueError: the model does not write texts, or as `explain`.
        TypeError: an option that `explain` does not have.
    """
    if not (model.can_generate() if hasattr(model, "can_generate") else False):
        raise ValueError(f"{type(model).__name__} does not write texts; give explain_generation a causal language model")
    return explain(model, text, target, tokenizer=tokenizer, position=-1, **options)


def _check_methods(methods: tuple[str, ...]) -> None:
    unknown = [method for method in methods if method not in METHODS]
    if isinstance(methods, str) or unknown or not methods:
        what = repr(methods) if isinstance(methods, str) or not methods else repr(unknown[0])
        raise ValueError(f"methods must be some of {', '.join(METHODS)}, as a tuple, but there is {what}")


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


def _softmax_notes(model: Any, seen: Seen, layers: list[int]) -> list[str]:
    plain = [layer for layer, signed in zip(layers, seen.signed, strict=True) if not signed]
    if not plain:
        return []
    which = "" if len(plain) == len(layers) else f" in layers {', '.join(map(str, plain))}"
    return [
        f"{type(model).__name__} computes softmax{which}: no weight is below 0, so an oriented weight has the sign of its whole head; "
        "hf_tanhmax.convert makes a TanhMax model"
    ]


def _explanation(model: Any, encoded: Encoded, seen: Seen, **rest: Any) -> Explanation:
    config = model.config
    return Explanation(
        family=str(config.model_type).removeprefix("tanhmax_"),
        tokens=encoded.tokens,
        words=encoded.words,
        word_texts=encoded.word_texts,
        target=seen.target.index,
        target_name=seen.target.name,
        logit=seen.logit,
        probability=seen.probability,
        position=seen.position,
        signed=seen.signed,
        weights=seen.weights,
        orientation=seen.orientation,
        one_signed=seen.one_signed,
        contributions=seen.contributions,
        image=encoded.image,
        model_name=getattr(config, "_name_or_path", "") or type(model).__name__,
        **rest,
    )
