"""The attribution methods: scores of every position of one input. `explain` computes them for one input, `faithfulness` for many."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...choices import METHODS, check_choice
from ...errors import some
from ..inputs.encoding import PIXELS, EncodedInput, ImageProcessor, ModelInput, encode
from ..inputs.image_patches import patch_grid, patch_names, sum_per_patch
from .conservation import ACCEPTED_GAP, CHANGE, Conservation
from .decomposition.scores import DECOMPOSITIONS, Scores, check_served, decomposed
from .evaluation_mode import check_finite, encoder_of, modules_outside_interface
from .forward_passes import PassResult, forward_backward
from .hooks import patch_positions
from .integrated_gradients import STEPS, IntegratedGradients, integrated_gradients
from .orientation import oriented
from .removal import SAMPLES, SEED, Removal, kernel_shap, occlusion
from .rollout import rollout

# The names of scores that have a sum, in sentences about it.
SUMMED = {"contributions": "contributions", "input_x_gradient": "input times gradient", "alti_logit": "ALTI-Logit scores"}
SUMMED |= {"attnlrp": "AttnLRP scores", "occlusion": "scores of occlusion", "kernel_shap": "KernelSHAP scores"}
SHOWN_WORDS = 5  # of those that are unknown


@dataclass(frozen=True)
class AttributionOptions:
    """Arguments of `explain`, checked; `layers` as indices, and `baseline` as `baseline_token` finds it.

    Raises:
        ValueError: a method that does not exist, or none.
    """

    methods: tuple[str, ...]
    layers: list[int]
    baseline: int
    tokenizer: PreTrainedTokenizerBase | None = None
    processor: ImageProcessor | None = None
    position: int | None = None
    max_length: int | None = None
    steps: int = STEPS
    skip_uncalled: bool = False
    samples: int = SAMPLES
    seed: int = SEED

    def __post_init__(self) -> None:
        if isinstance(self.methods, str):
            raise ValueError(f"methods must be a tuple of names, but is the text {self.methods!r}")
        check_choice("method", self.methods, METHODS)


@dataclass(frozen=True)
class Attribution:
    """One input with names for its positions, the result of its forward and backward pass, and scores `[K]` by method.

    `grid`, `notes` and `conservation` are as in `Explanation`.
    """

    encoded: EncodedInput
    result: PassResult
    scores: dict[str, Tensor]
    grid: tuple[int, int] | None
    notes: list[str] = field(default_factory=list)
    conservation: dict[str, Conservation] = field(default_factory=dict)


def attribute(model: PreTrainedModel, inputs: ModelInput, target: int | str | None, options: AttributionOptions) -> Attribution:
    """Encode one input, run the model forward and backward, and score the positions.

    Args:
        model: in evaluation mode, gradients enabled.
        inputs: as for `explain`.
        target: as for `explain`.
        options: methods, layers and whatever else `explain` was given.

    Raises:
        ValueError, TypeError, ImportError: as `explain`.
    """
    check_served(model, options.methods)
    encoded = encode(model, inputs, tokenizer=options.tokenizer, processor=options.processor, max_length=options.max_length)
    result = forward_backward(
        model,
        encoded.inputs,
        target,
        options.layers,
        position=options.position,
        tokenizer=options.tokenizer,
        skip_uncalled=options.skip_uncalled,
    )
    encoded, grid = _with_patch_names(model, encoded, result)
    _check_positions(model, encoded, result)
    computed = {method: _scores(method, model, encoded, grid, result, options) for method in options.methods}
    check_finite(model, {f"the scores of {method}": scores.values for method, scores in computed.items()})
    conservation = {method: scores.conservation for method, scores in computed.items() if scores.conservation is not None}
    notes = [
        each.sentence(SUMMED[method]) for method, each in conservation.items() if method in SUMMED and each.is_far
    ]  # integrated gradients have a note of their own, at any gap
    notes += [note for scores in computed.values() for note in scores.notes]
    return Attribution(encoded, result, {method: scores.values for method, scores in computed.items()}, grid, notes, conservation)


def scored_again(model: PreTrainedModel, found: Attribution, method: str, options: AttributionOptions) -> Tensor:
    """Scores `[K]` of an input by another method, or by a sampled one with another seed, from the passes that have been run.

    Args:
        model: as for `attribute`.
        found: what `attribute` gave for the input.
        method: the score.
        options: as for `attribute`.

    Raises:
        ValueError, ImportError: as `attribute`.
    """
    scores = _scores(method, model, found.encoded, found.grid, found.result, options)
    check_finite(model, {f"the scores of {method}": scores.values})
    return scores.values


def _scores(
    method: str,
    model: PreTrainedModel,
    encoded: EncodedInput,
    grid: tuple[int, int] | None,
    result: PassResult,
    options: AttributionOptions,
) -> Scores:
    """The scores of one method."""
    if method in DECOMPOSITIONS:
        return decomposed(model, method, encoded.inputs, result)

    def _per_position(values: Tensor) -> Tensor:
        return values if grid is None else sum_per_patch(values, grid, len(encoded.tokens), encoded.content_positions)

    if method == "integrated_gradients":
        special, notes = _baseline_tokens_kept(encoded, result)
        integrated = integrated_gradients(
            model, encoded.inputs, result.target, special=special, baseline=options.baseline, steps=options.steps
        )
        values = _per_position(integrated.scores)
        change = integrated.gap + float(integrated.scores.sum())
        return Scores(values, Conservation.of(integrated.scores, change, CHANGE), (*notes, _gap_note(integrated, options.steps)))
    if method in ("occlusion", "kernel_shap"):
        removal = Removal(model, encoded, result.target, grid, options.baseline)
        return occlusion(removal) if method == "occlusion" else kernel_shap(removal, options.samples, options.seed)
    if method == "gradient":
        return Scores(_per_position(result.gradient))
    if method == "input_x_gradient":
        return Scores(_per_position(result.input_x_gradient), Conservation.of(result.input_x_gradient, result.logit))
    values = _attention_scores(result, method)
    return Scores(values, Conservation.of(values, result.logit) if method == "contributions" else None)


def _with_patch_names(model: PreTrainedModel, encoded: EncodedInput, result: PassResult) -> tuple[EncodedInput, tuple[int, int] | None]:
    """Name the positions of an image, whose number is known after the forward pass only; and its grid of patches."""
    if not encoded.is_image:
        return encoded, None
    grid = patch_grid(model.config, encoded.inputs[PIXELS])
    places = patch_positions(model, encoded.inputs)
    tokens, words, word_texts = patch_names(grid, result.weights.shape[-1], places)
    return replace(encoded, tokens=tokens, words=words, word_texts=word_texts), grid


def _check_positions(model: PreTrainedModel, encoded: EncodedInput, result: PassResult) -> None:
    shape = tuple(result.weights.shape[-2:])
    if shape != (len(encoded.tokens),) * 2:
        raise ValueError(
            f"{type(model).__name__} attends from {shape[0]} to {shape[1]} positions, and not from each of the {len(encoded.tokens)} of "
            "the input to each, so its weights cannot be placed in it"
        )


def _attention_scores(result: PassResult, method: str) -> Tensor:
    oriented_weights = oriented(result.weights, result.orientation)
    compute: dict[str, Callable[[], Tensor]] = {
        "weights": lambda: _mean_over_queries(result.weights, result.has_gradient),
        "oriented": lambda: _mean_over_queries(oriented_weights, result.has_gradient),
        "contributions": lambda: result.contributions.sum((0, 1, 2)),
        "rollout": lambda: _row_of(rollout(oriented_weights), result.position),
    }
    return compute[method]()


def _mean_over_queries(weights: Tensor, has_gradient: Tensor) -> Tensor:
    """Mean over heads, over the queries of each layer that the logit depends on, and over layers, `[K]`."""
    queries = has_gradient.to(weights.dtype)
    per_layer = (weights.mean(1) * queries[:, :, None]).sum(1) / queries.sum(1, keepdim=True).clamp(min=1)
    return per_layer.mean(0)


def _row_of(matrix: Tensor, position: int | None) -> Tensor:
    return matrix.mean(0) if position is None else matrix[position]


def _baseline_tokens_kept(encoded: EncodedInput, result: PassResult) -> tuple[list[bool], list[str]]:
    """Which tokens the baseline of integrated gradients keeps, and a note if there are others than the special ones.

    For a decoder also the first token: many heads rest on it (Xiao et al. 2024, attention sinks), and on the way to another token they let
    go at once: the scores of SmolLM2 then miss 50 logits with any number of steps, and 0.02 where the token is kept.
    """
    special = [word is None for word in encoded.words]
    if encoded.is_image or special[0] or bool(result.weights.triu(1).any()):
        return special, []
    return [True, *special[1:]], ["integrated gradients keep the first token in their baseline, as the heads of a decoder rest on it"]


def _gap_note(integrated: IntegratedGradients, steps: int) -> str:
    large = abs(integrated.gap) > ACCEPTED_GAP * float(integrated.scores.abs().sum())
    advice = ", which is too much to trust them: give more steps" if large else ""
    return f"integrated gradients of {steps} steps miss {integrated.gap:+.2g} logits of the difference to their baseline{advice}"


def unknown_notes(encoded: EncodedInput) -> list[str]:
    """A note if the tokenizer does not know some of the words, or any of them."""
    if not encoded.unknown:
        return []
    numbers = dict.fromkeys(encoded.words[position] for position in encoded.unknown)
    words = list(dict.fromkeys(encoded.word_texts[number] for number in numbers if number is not None))
    shown = ", ".join(f"“{word}”" for word in words[:SHOWN_WORDS]) + (
        f" and {len(words) - SHOWN_WORDS} more" if words[SHOWN_WORDS:] else ""
    )
    replaced = f"the tokenizer has {encoded.tokens[encoded.unknown[0]]} in the place of {shown}"
    if set(encoded.content_positions) <= set(encoded.unknown):
        return [f"the model knows none of these words: {replaced}; its answer and all scores would be the same for any such words"]
    return [f"{replaced}, so the model has not read {'it' if len(words) == 1 else 'them'}; scores there are those of any unknown word"]


def cut_notes(encoded: EncodedInput) -> list[str]:
    """A note if the text was cut."""
    if not encoded.cut:
        return []
    read, whole = len(encoded.tokens), len(encoded.tokens) + encoded.cut
    return [f"the text was cut: the model has read {read} of its {whole} tokens, and nothing here is about the other {encoded.cut}"]


def unrecorded_notes(model: nn.Module) -> list[str]:
    """A note if some attention of the model cannot be recorded."""
    outside = modules_outside_interface(model)
    return [f"{some(outside)} compute attention by themselves, so their weights are not shown"] if outside else []


def layer_notes(model: nn.Module, asked: list[int], shown: tuple[int, ...]) -> list[str]:
    """Notes if not all attention of the model is shown: that of a decoder beside its encoder, and layers that were not called."""
    notes = []
    if encoder_of(model) is not None:
        notes.append(f"of {type(model).__name__} the self-attention of the encoder is shown, and neither the decoder's nor cross attention")
    if left := [layer for layer in asked if layer not in shown]:
        notes.append(f"not called for this input, and so not shown: layers {', '.join(map(str, left))}")
    return notes


def softmax_notes(model: nn.Module, signed: tuple[bool, ...], layers: Sequence[int]) -> list[str]:
    """A note if layers compute softmax, where signed weights may be expected."""
    softmax_layers = [layer for layer, is_signed in zip(layers, signed, strict=True) if not is_signed]
    if not softmax_layers:
        return []
    where = "" if len(softmax_layers) == len(layers) else f" in layers {', '.join(map(str, softmax_layers))}"
    return [
        f"{type(model).__name__} computes softmax{where}: no weight is below 0, so an oriented weight has the sign of its whole head; "
        "hf_tanhmax.convert makes a TanhMax model"
    ]
