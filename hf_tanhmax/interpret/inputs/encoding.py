"""One input, ready for the model: a text, an image or an encoded batch of one, without padding, with names for its positions."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...checkpoint import length_limit, text_config
from .image_patches import seen_picture, vision_config
from .word_alignment import align_words, token_texts

if TYPE_CHECKING:
    from PIL.Image import Image

SPECIAL = ("unk_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id")
IDS, PIXELS, MASK, DECODER_IDS = "input_ids", "pixel_values", "attention_mask", "decoder_input_ids"
SHORT = 5  # tokens

# What is explained: a text, a pair of texts, a PIL image, or an encoded batch of one.
ModelInput: TypeAlias = "str | tuple[str, str] | Image | Mapping[str, object]"
ImageProcessor: TypeAlias = Callable[..., Mapping[str, Tensor]]


@dataclass(frozen=True)
class EncodedInput:
    """One input of a model.

    Attributes:
        inputs: arguments of the model, every tensor with a first dimension of 1.
        tokens: readable tokens; empty for images, whose positions are known only after a forward pass.
        words: per token the index of its word, None for special ones.
        word_texts: the words.
        image: the image, PIL and RGB, where there was one.
        unknown: positions of the token that stands for whatever the tokenizer does not know.
        cut: how many tokens of a text were cut away.
        padding: positions of padding that no attention mask hides.
    """

    inputs: dict[str, Tensor]
    tokens: tuple[str, ...] = ()
    words: tuple[int | None, ...] = ()
    word_texts: tuple[str, ...] = ()
    image: "Image | None" = None
    unknown: tuple[int, ...] = ()
    cut: int = 0
    padding: tuple[int, ...] = ()

    @property
    def is_image(self) -> bool:
        """Whether this is an image."""
        return PIXELS in self.inputs

    @property
    def content_positions(self) -> tuple[int, ...]:
        """Positions that are not special, in order."""
        return tuple(position for position, word in enumerate(self.words) if word is not None)


def encode(
    model: PreTrainedModel,
    inputs: ModelInput,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    processor: ImageProcessor | None = None,
    max_length: int | None = None,
) -> EncodedInput:
    """One input as arguments of the model, on the model's device, floats in its dtype.

    An encoder and decoder that writes texts is given the token that these begin with, if nothing else says what it has written.

    Args:
        model: a Transformers model; its config says how long a text may be.
        inputs: a text, a pair of texts, a PIL image, or an encoded batch of one (a mapping with `input_ids` or `pixel_values`).
        tokenizer: needed for a text; names the tokens of an encoded batch.
        processor: image processor, needed for a PIL image.
        max_length: longer texts are cut to so many tokens; None refuses a text that the model cannot read whole.

    Raises:
        ValueError: an empty text, one too long, a batch of several, an image of the wrong mode, or a missing tokenizer or processor.
        TypeError: inputs of another kind.
    """
    encoded = _encoded(model, inputs, tokenizer, processor, max_length)
    return replace(encoded, inputs=with_decoder_start(model, encoded.inputs))


def with_decoder_start(model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Arguments of a model with `decoder_input_ids`, if it is an encoder and decoder that writes texts and they lack them."""
    config, generation = model.config, getattr(model, "generation_config", None)
    if DECODER_IDS in inputs or not getattr(config, "is_encoder_decoder", False) or not model.can_generate():
        return inputs
    names = ("decoder_start_token_id", "bos_token_id")
    tokens = [getattr(holder, name, None) for name in names for holder in (generation, config)]
    start = next((token for token in tokens if isinstance(token, int)), None)
    if start is None:
        raise ValueError(f"{type(model).__name__} does not say with which token its texts begin; give {DECODER_IDS} in an encoded batch")
    return {**inputs, DECODER_IDS: torch.tensor([[start]], device=next(model.parameters()).device)}


def short_input(model: PreTrainedModel) -> dict[str, Tensor] | None:
    """An input to see by what the parts of a model do: a few tokens, or a picture; None of a model that reads something else."""
    if model.main_input_name == IDS:
        end = getattr(text_config(model), "eos_token_id", None)  # at which BART classifies
        known = getattr(text_config(model), "vocab_size", None) or math.inf
        tokens = [*range(1, SHORT), end if isinstance(end, int) and end < known else SHORT]
        if max(tokens) >= known:  # on a GPU, looking such a token up ends the process
            return None
        return with_decoder_start(model, _on_device(model, {IDS: torch.tensor([tokens])}))
    config = vision_config(model.config)
    size = getattr(config, "image_size", None)
    if model.main_input_name != PIXELS or size is None:
        return None
    shape = (1, getattr(config, "num_channels", 3), *((size, size) if isinstance(size, int) else size))
    return _on_device(model, {PIXELS: torch.linspace(-1, 1, math.prod(shape)).view(shape)})


def is_per_token(name: str, value: Tensor, length: int) -> bool:
    """Whether a tensor of a batch of one has a place for each token of the input, and not of the decoder."""
    return value.shape[:2] == (1, length) and not name.startswith("decoder_")


def _encoded(
    model: PreTrainedModel,
    inputs: ModelInput,
    tokenizer: PreTrainedTokenizerBase | None,
    processor: ImageProcessor | None,
    max_length: int | None,
) -> EncodedInput:
    if isinstance(inputs, str):
        return _encode_text(model, (inputs,), tokenizer, max_length)
    if isinstance(inputs, tuple) and len(inputs) == 2 and all(isinstance(part, str) for part in inputs):
        return _encode_text(model, inputs, tokenizer, max_length)
    if isinstance(inputs, Mapping):
        return _strip_padding(model, inputs, tokenizer)
    if not isinstance(inputs, tuple) and hasattr(inputs, "mode") and hasattr(inputs, "convert"):
        return _encode_image(model, inputs, processor)
    raise TypeError(f"explain takes a text, a PIL image or an encoded batch of one, but got {type(inputs).__name__}")


def _encode_text(
    model: PreTrainedModel, parts: tuple[str, ...], tokenizer: PreTrainedTokenizerBase | None, max_length: int | None
) -> EncodedInput:
    if tokenizer is None:
        raise ValueError("a text needs tokenizer=, the tokenizer of the model")
    if not parts[0].strip():
        raise ValueError("the text is empty, so there is no token to explain; give at least one word")
    batch = tokenizer(
        *parts,
        return_tensors="pt",
        return_offsets_mapping=bool(tokenizer.is_fast),
        truncation=max_length is not None,
        max_length=max_length,
        verbose=False,
    )
    offsets = batch.pop("offset_mapping", None)
    identifiers = batch[IDS][0].tolist()
    _check_length(model, tokenizer, len(identifiers))
    special = _special_tokens(tokenizer, identifiers)
    if all(special):
        raise ValueError(f"the text {parts[0]!r} has no token that is not special, so there is nothing to explain")
    tokens = token_texts(tokenizer, identifiers)
    if offsets is None:
        words, word_texts = _word_per_token(tokens, special)
    else:
        part_starts = (0, len(parts[0]) + 1)
        shifts = [part_starts[part or 0] for part in batch.sequence_ids(0)]
        shifted = [(begin + shift, end + shift) for (begin, end), shift in zip(offsets[0].tolist(), shifts, strict=True)]
        words, word_texts = align_words(" ".join(parts), shifted, special)
    cut = 0 if max_length is None else len(tokenizer(*parts, verbose=False)[IDS]) - len(identifiers)
    unknown = _unknown_tokens(tokenizer, identifiers)
    return EncodedInput(_on_device(model, dict(batch)), tokens, words, word_texts, unknown=unknown, cut=cut)


def _check_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, length: int) -> None:
    limit = length_limit(model, tokenizer)
    if limit is not None and length > limit:
        raise ValueError(f"the text has {length} tokens, but {type(model).__name__} reads {limit}; shorten it, or give max_length={limit}")


def _strip_padding(model: PreTrainedModel, batch: Mapping[str, object], tokenizer: PreTrainedTokenizerBase | None) -> EncodedInput:
    """An encoded batch of one without the positions that its attention mask hides."""
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    if (IDS in tensors) == (PIXELS in tensors):
        raise ValueError(
            f"an encoded batch holds either {IDS} or {PIXELS} as tensors, but this one holds {', '.join(batch) or 'nothing'}; of a model "
            "of several inputs, give those of one"
        )
    main = tensors[IDS if IDS in tensors else PIXELS]
    if main.shape[0] != 1:
        raise ValueError(f"explain takes one input at a time, but the batch has {main.shape[0]}; give batch[i : i + 1] of each tensor")
    if PIXELS in tensors:
        return EncodedInput(_on_device(model, tensors))
    length = main.shape[1]
    kept = tensors.get(MASK, torch.ones_like(main))[0].bool()
    inputs = {name: value[:, kept.to(value.device)] if is_per_token(name, value, length) else value for name, value in tensors.items()}
    identifiers = inputs[IDS][0].tolist()
    if not identifiers:
        raise ValueError(f"the {MASK} hides every token, so there is nothing to explain")
    _check_length(model, tokenizer, len(identifiers))
    tokens = token_texts(tokenizer, identifiers)
    words, word_texts = _word_per_token(tokens, _special_tokens(tokenizer, identifiers))
    unknown, padding = _unknown_tokens(tokenizer, identifiers), _padding_tokens(tokenizer, identifiers)
    return EncodedInput(_on_device(model, inputs), tokens, words, word_texts, unknown=unknown, padding=padding)


def _encode_image(model: PreTrainedModel, image: "Image", processor: ImageProcessor | None) -> EncodedInput:
    if processor is None:
        raise ValueError("a picture needs processor=, the image processor of the model")
    channels = getattr(vision_config(model.config), "num_channels", 3)
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None or image.mode != mode:
        raise ValueError(
            f'the picture has mode "{image.mode}", but {type(model).__name__} reads {channels} channels; '
            + (f'give image.convert("{mode}")' if mode else "encode it yourself and give the batch")
        )
    adapted: Any = model  # which passes on whatever it is given
    own = adapted.get_base_model() if hasattr(adapted, "get_base_model") else model
    accepted = inspect.signature(type(own).forward).parameters
    batch = {name: value for name, value in processor(images=image, return_tensors="pt").items() if name in accepted}
    return EncodedInput(_on_device(model, batch), image=seen_picture(image.convert("RGB"), processor, batch[PIXELS]))


def _special_tokens(tokenizer: PreTrainedTokenizerBase | None, identifiers: list[int]) -> list[bool]:
    special = set(getattr(tokenizer, "all_special_ids", ())) - {getattr(tokenizer, "unk_token_id", None)}
    return [identifier in special for identifier in identifiers]


def _unknown_tokens(tokenizer: PreTrainedTokenizerBase | None, identifiers: list[int]) -> tuple[int, ...]:
    """Positions of the token for unknown words, unless it also is another special one, as in GPT-2."""
    return _positions_of("unk_token_id", tokenizer, identifiers)


def _padding_tokens(tokenizer: PreTrainedTokenizerBase | None, identifiers: list[int]) -> tuple[int, ...]:
    """Positions of the token for padding, unless it also is another special one."""
    return _positions_of("pad_token_id", tokenizer, identifiers)


def _positions_of(name: str, tokenizer: PreTrainedTokenizerBase | None, identifiers: list[int]) -> tuple[int, ...]:
    wanted = getattr(tokenizer, name, None)
    others = [getattr(tokenizer, other, None) for other in SPECIAL if other != name]
    if wanted is None or wanted in others:
        return ()
    return tuple(position for position, identifier in enumerate(identifiers) if identifier == wanted)


def _word_per_token(tokens: tuple[str, ...], special: list[bool]) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    positions = [position for position, is_special in enumerate(special) if not is_special]
    index = {position: number for number, position in enumerate(positions)}
    return tuple(index.get(position) for position in range(len(tokens))), tuple(tokens[position] for position in positions)


def _on_device(model: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    like = next(model.parameters())
    return {name: value.to(like.device, like.dtype if value.is_floating_point() else value.dtype) for name, value in tensors.items()}
