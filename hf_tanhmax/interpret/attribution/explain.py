"""Explain one output of a model by its signed attention: `explain`, and `explain_generation` for the next token of a text."""

import warnings
from typing import Any

from .evaluation import check_attentions, evaluating, name_of, unwrapped
from .examining import METHODS, Examined, Request, examine, softmax_notes, unseen_notes
from .explanation import Explanation
from .gradients import STEPS, baseline_token


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
    model = unwrapped(model)
    shown, baseline = check_attentions(model, layers), baseline_token(model, tokenizer)
    request = Request(methods, shown, baseline, tokenizer, processor, position, max_length, steps)
    with evaluating(model):
        found = examine(model, inputs, target, request)
    notes = [*softmax_notes(model, found.seen.signed, request.layers), *unseen_notes(model)]
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return _explanation(model, found, request, (*notes, *found.notes))


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


def _explanation(model: Any, found: Examined, request: Request, notes: tuple[str, ...]) -> Explanation:
    seen, encoded = found.seen, found.encoded
    return Explanation(
        family=str(model.config.model_type).removeprefix("tanhmax_"),
        tokens=encoded.tokens,
        words=encoded.words,
        word_texts=encoded.word_texts,
        target=seen.target.index,
        target_name=seen.target.name,
        logit=seen.logit,
        probability=seen.probability,
        position=seen.position,
        layers=tuple(request.layers),
        signed=seen.signed,
        weights=seen.weights,
        orientation=seen.orientation,
        one_signed=seen.one_signed,
        contributions=seen.contributions,
        scores=found.scores,
        image=encoded.image,
        grid=found.grid,
        model_name=name_of(model),
        notes=notes,
    )
