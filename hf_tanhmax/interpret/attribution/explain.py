"""Explain one output of a model by its signed attention: `explain`, and `explain_generation` for the next token of a text.

`most_probable` finds the targets that are worth an explanation each.

Scores that `explain` computes where they are named in its `methods`, as they take more passes; each `[K]`:

* `value_zeroing`: how far each layer's output turns without the values of a position, rolled out over layers (Mohebbi et al. 2023);
  a share, and neither for nor against;
* `alti`: how much nearer each position's vector brings each layer's output, rolled out over layers (Ferrando et al. 2022); a share too;
* `alti_logit`: what attention to a position writes straight into the logit, traced to the input by ALTI (Ferrando et al. 2023), in
  logits, without what the MLPs write;
* `attnlrp`: relevance propagated from the logit to the positions as they enter the first layer (Achtibat et al. 2024), in logits;
* `occlusion`: what the logit loses without one position, and `kernel_shap`: Shapley values, which add up to what it loses without any;
  both by captum and in logits, for any model.

`Explanation.conservation` has what the scores of a method add up to beside what they should; a note says so where that is far.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...choices import EXPLAIN_METHODS
from ..inputs.encoding import ImageProcessor, ModelInput, encode
from ..inputs.twin import Twin, check_same_tokens, split_twin
from .evaluation_mode import display_name, evaluation_mode, resolve_layers, unwrap
from .explanation import Explanation
from .forward_passes import without_cache
from .integrated_gradients import STEPS, baseline_token
from .methods import Attribution, AttributionOptions, attribute, cut_notes, layer_notes, softmax_notes, unknown_notes, unrecorded_notes
from .removal import SAMPLES
from .target import choose_target, logits_of


def explain(
    model: nn.Module,
    inputs: ModelInput,
    target: int | str | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    processor: ImageProcessor | None = None,
    position: int | None = None,
    layers: int | Sequence[int] | None = None,
    methods: tuple[str, ...] = EXPLAIN_METHODS,
    max_length: int | None = None,
    steps: int = STEPS,
    samples: int = SAMPLES,
    twin: Twin | None = None,
) -> Explanation:
    """Why a model gives a target its logit: signed weights, their orientation, contributions, and scores of every position.

    One forward and one backward pass; integrated gradients take `steps` more. A softmax model works too, with a warning, as its weights
    have no sign; so does a text with words that the tokenizer does not know. The model is evaluated without dropout, and left as it was.

    Scores (`Explanation.scores`), each `[K]`, over the layers of `layers`:

    * `weights`, `oriented`: mean over layers, heads and those queries that the logit depends on (in the last layer of a classifier, its
      [CLS] token alone), of raw and of oriented weights;
    * `contributions`: sum over layers, heads and queries, in logits: to first order, what the logit loses if every weight on the position
      becomes 0 in these layers;
    * `rollout`: signed rollout of the oriented weights, to the position that the logit is read from (the mean over all, where it is read
      from all); see `rollout`;
    * `gradient`: norm of the gradient at the position's embedding or pixels; it has no sign;
    * `input_x_gradient`, `integrated_gradients`: in logits; integrated gradients by captum. The module names more, for `methods`.

    Args:
        model: any whose attention asks Transformers' interface, with logits and one axis of tokens or patches; of an encoder and decoder,
            the self-attention of the encoder is explained. Also inside PEFT or data parallelism.
        inputs: a text, a pair of texts, a PIL image, or an encoded batch of one. Padding is cut away.
        target: index or name of a class, or a token; None is what the model predicts.
        tokenizer: needed for texts; names the tokens of an encoded batch.
        processor: image processor, needed for a PIL image.
        position: for models with logits per position, the one to explain; None is the only mask token, or the last position of a causal
            model.
        layers: indices of attention layers, negative ones from the end; None is all that are called.
        methods: which scores to compute, of `METHODS`; `methods_for` says which of them a model serves.
        max_length: cuts longer texts to so many tokens; None refuses a text that is longer than the model reads.
        steps: of integrated gradients.
        samples: subsets that KernelSHAP runs.
        twin: another model of the same shape, tokenizer and classes, such as the softmax model that this one was converted from; the same
            target is explained in it too, as `Explanation.twin`. As a pair with its tokenizer this is compared with the model's.

    Raises:
        ValueError, TypeError: input, target, position, layers or methods that do not fit the model; one whose attention cannot be
            recorded; weights or outputs that are not finite; a twin of another tokenizer, shape or other classes.
        ImportError: integrated gradients, occlusion or KernelSHAP without captum.
    """
    inner = unwrap(model)
    indices, baseline = resolve_layers(inner, layers), baseline_token(inner, tokenizer)
    options = AttributionOptions(methods, indices, baseline, tokenizer, processor, position, max_length, steps, layers is None, samples)
    if twin is not None:
        twin_model, twin_tokenizer = split_twin(twin)
        _check_layers(inner, unwrap(twin_model))
        check_same_tokens(inner, unwrap(twin_model), tokenizer, twin_tokenizer, inputs)
    with evaluation_mode(inner):
        attribution = attribute(inner, inputs, target, options)
    shown = attribution.result.layers
    notes = [
        *unknown_notes(attribution.encoded),
        *cut_notes(attribution.encoded),
        *softmax_notes(inner, attribution.result.signed, shown),
        *unrecorded_notes(inner),
    ]
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    explanation = _explanation(inner, attribution, (*notes, *layer_notes(inner, indices, shown), *attribution.notes))
    if twin is None:
        return explanation
    found = _explained_twin(unwrap(twin_model), inputs, explanation.target, options)
    explanation.check_comparable(found)
    return replace(explanation, twin=found)


def explain_generation(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    text: ModelInput,
    target: int | str | None = None,
    *,
    layers: int | Sequence[int] | None = None,
    methods: tuple[str, ...] = EXPLAIN_METHODS,
    max_length: int | None = None,
    steps: int = STEPS,
    samples: int = SAMPLES,
    twin: Twin | None = None,
) -> Explanation:
    """Why a causal language model continues a text with a token.

    Args:
        model: a causal language model, such as `TanhMaxLlamaForCausalLM`.
        tokenizer: of the model.
        text: the text so far, or an encoded batch of one.
        target: the next token, by index or as text (one token, usually with its leading space); None is the most probable one.
        layers: as for `explain`.
        methods: as for `explain`.
        max_length: as for `explain`.
        steps: as for `explain`.
        samples: as for `explain`.
        twin: as for `explain`.

    Raises:
        ValueError: the model does not write texts, or as `explain`.
    """
    can_generate = getattr(model, "can_generate", None)
    if can_generate is None or not can_generate():
        raise ValueError(f"{type(model).__name__} does not write texts; give explain_generation a causal language model")
    return explain(
        model,
        text,
        target,
        tokenizer=tokenizer,
        position=-1,
        layers=layers,
        methods=methods,
        max_length=max_length,
        steps=steps,
        samples=samples,
        twin=twin,
    )


def most_probable(
    model: nn.Module,
    inputs: ModelInput,
    count: int,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    processor: ImageProcessor | None = None,
    position: int | None = None,
    max_length: int | None = None,
) -> tuple[int, ...]:
    """Indices of the targets with the largest logits, the largest first.

    `[explain(model, text, target, ...) for target in most_probable(model, text, 3, ...)]` explains one input for each, and a page of these
    lets the reader switch between them.

    Args:
        model: as for `explain`.
        inputs: as for `explain`.
        count: how many; fewer where the model has fewer.
        tokenizer: as for `explain`.
        processor: as for `explain`.
        position: as for `explain`.
        max_length: as for `explain`.

    Raises:
        ValueError: `count` is below 1, or as `explain`.
        TypeError: as `explain`.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, but is {count}")
    inner = unwrap(model)
    encoded = encode(inner, inputs, tokenizer=tokenizer, processor=processor, max_length=max_length)
    with evaluation_mode(inner), torch.no_grad():
        logits = logits_of(inner(**encoded.inputs, **without_cache(inner)), inner)
    chosen = choose_target(inner, logits, encoded.inputs, None, position=position, tokenizer=tokenizer)
    row = logits[0] if chosen.position is None else logits[0, chosen.position]
    return tuple(row.topk(min(count, len(row))).indices.tolist())


def _check_layers(model: PreTrainedModel, twin: PreTrainedModel) -> None:
    layers = [len(resolve_layers(each)) for each in (twin, model)]
    if layers[0] != layers[1]:
        raise ValueError(f"the twin has {layers[0]} layers of attention and the model {layers[1]}; give a twin of the same shape")


def _explained_twin(twin: PreTrainedModel, inputs: ModelInput, target: int, options: AttributionOptions) -> Explanation:
    """The same in a twin. What it shares with the model (unknown words, a cut) and that it computes softmax need not be said again."""
    baseline = baseline_token(twin, options.tokenizer)
    with evaluation_mode(twin):
        attribution = attribute(twin, inputs, target, replace(options, layers=resolve_layers(twin, options.layers), baseline=baseline))
    return _explanation(twin, attribution, (*unrecorded_notes(twin), *attribution.notes))


def _explanation(model: PreTrainedModel, attribution: Attribution, notes: tuple[str, ...]) -> Explanation:
    result, encoded = attribution.result, attribution.encoded
    return Explanation(
        family=str(model.config.model_type).removeprefix("tanhmax_"),
        tokens=encoded.tokens,
        words=encoded.words,
        word_texts=encoded.word_texts,
        target=result.target.index,
        target_name=result.target.name,
        logit=result.logit,
        probability=result.probability,
        position=result.position,
        layers=result.layers,
        signed=result.signed,
        weights=result.weights,
        orientation=result.orientation,
        one_signed=result.one_signed,
        contributions=result.contributions,
        scores=attribution.scores,
        image=encoded.image,
        grid=attribution.grid,
        model_name=display_name(model),
        notes=notes,
        unknown=encoded.unknown,
        conservation=attribution.conservation,
        cut=encoded.cut,
        padding=encoded.padding,
    )
