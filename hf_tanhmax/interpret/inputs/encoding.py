"""What is explained, ready for the model: one text, one picture, or one encoded batch, without padding, with names for its positions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .word_alignment import readable, words_of

IDS, PIXELS, MASK = "input_ids", "pixel_values", "attention_mask"


@dataclass(frozen=True)
class Encoded:
    """One input of a model.

    Attributes:
        inputs: what the model is called with, every tensor with a first dimension of 1.
        tokens: readable tokens; empty for images, whose positions are known only after a forward pass.
        words: for each token the index of its word, None for special ones.
        word_texts: the words.
        image: the picture, PIL and RGB, where there was one.
        text: what was tokenized, where there was one.
    """

    inputs: dict[str, Tensor]
    tokens: tuple[str, ...] = ()
    words: tuple[int | None, ...] = ()
    word_texts: tuple[str, ...] = ()
    image: Any = None
    text: str = ""

    @property
    def is_image(self) -> bool:
        """Whether this is a picture."""
        return PIXELS in self.inputs

    @property
    def places(self) -> tuple[int, ...]:
        """Positions that are not special, in order."""
        return tuple(place for place, word in enumerate(self.words) if word is not None)


def encode(model: Any, inputs: Any, *, tokenizer: Any = None, processor: Any = None, max_length: int | None = None) -> Encoded:
    """One input as a model takes it, on the model's device.

    Args:
        model: a Transformers model; its config says how long a text may be.
        inputs: a text, a pair of texts, a PIL image, or an encoded batch of one (a mapping with `input_ids` or `pixel_values`).
        tokenizer: needed for a text; names the tokens of an encoded batch.
        processor: image processor, needed for a PIL image.
        max_length: longer texts are cut to so many tokens; None refuses a text that the model cannot read whole.

    Raises:
        ValueError: an empty text, one too long, a batch of several, an image of the wrong mode, or what is needed is missing.
        TypeError: inputs of another kind.
    """
    if isinstance(inputs, str) or (isinstance(inputs, tuple) and all(isinstance(part, str) for part in inputs) and len(inputs) == 2):
        return _encode_text(model, inputs, tokenizer, max_length)
    if isinstance(inputs, Mapping):
        return _encoded_already(model, inputs, tokenizer)
    if hasattr(inputs, "mode") and hasattr(inputs, "convert"):
        return _encode_image(model, inputs, processor)
    raise TypeError(f"explain takes a text, a PIL image or an encoded batch of one, but got {type(inputs).__name__}")


def longest(model: Any, tokenizer: Any = None) -> int | None:
    """How many tokens a model reads, special ones included; None where it does not say."""
    limits = [getattr(model.config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    return min((limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**9), default=None)


def _encode_text(model: Any, text: str | tuple[str, str], tokenizer: Any, max_length: int | None) -> Encoded:
    parts = (text,) if isinstance(text, str) else text
    if tokenizer is None:
        raise ValueError("a text needs tokenizer=, the tokenizer of the model")
    if not parts[0].strip():
        raise ValueError("the text is empty, so there is no token to explain; give at least one word")
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
    batch = tokenizer(*parts, return_tensors="pt", return_offsets_mapping=bool(tokenizer.is_fast), verbose=False, **cut)
    offsets = batch.pop("offset_mapping", None)
    sequences = batch.sequence_ids(0) if tokenizer.is_fast else None
    identifiers = batch[IDS][0].tolist()
    _check_length(model, tokenizer, len(identifiers))
    special = _special(tokenizer, identifiers)
    if all(special):
        raise ValueError(f"the text {parts[0]!r} has no token that is not special, so there is nothing to explain")
    tokens = readable(tokenizer, identifiers)
    if offsets is None:
        words, word_texts = _each_its_own(tokens, special)
    else:
        joined, begins = " ".join(parts), (0, len(parts[0]) + 1)
        shift = [begins[sequence or 0] for sequence in sequences or []]
        placed = [(begin + by, end + by) for (begin, end), by in zip(offsets[0].tolist(), shift, strict=True)]
        words, word_texts = words_of(joined, placed, special)
    return Encoded(_on_device(model, dict(batch)), tokens, words, word_texts, text=" ".join(parts))


def _check_length(model: Any, tokenizer: Any, length: int) -> None:
    limit = longest(model, tokenizer)
    if limit is not None and length > limit:
        raise ValueError(f"the text has {length} tokens, but {type(model).__name__} reads {limit}; shorten it, or give max_length={limit}")


def _encoded_already(model: Any, batch: Mapping[str, Any], tokenizer: Any) -> Encoded:
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    if (IDS in tensors) == (PIXELS in tensors):
        raise ValueError(f"an encoded batch holds either {IDS} or {PIXELS} as tensors, but this one holds {', '.join(batch) or 'nothing'}")
    main = tensors[IDS if IDS in tensors else PIXELS]
    if main.shape[0] != 1:
        raise ValueError(f"explain takes one input at a time, but the batch has {main.shape[0]}; give batch[i : i + 1] of each tensor")
    if PIXELS in tensors:
        return Encoded(_on_device(model, tensors))
    length = main.shape[1]
    kept = tensors.get(MASK, torch.ones_like(main))[0].bool()
    inputs = {name: value[:, kept.to(value.device)] if value.shape[:2] == (1, length) else value for name, value in tensors.items()}
    identifiers = inputs[IDS][0].tolist()
    if not identifiers:
        raise ValueError(f"the {MASK} hides every token, so there is nothing to explain")
    _check_length(model, tokenizer, len(identifiers))
    tokens, special = readable(tokenizer, identifiers), _special(tokenizer, identifiers)
    words, word_texts = _each_its_own(tokens, special)
    return Encoded(_on_device(model, inputs), tokens, words, word_texts)


def _encode_image(model: Any, image: Any, processor: Any) -> Encoded:
    if processor is None:
        raise ValueError("a picture needs processor=, the image processor of the model")
    channels = getattr(model.config, "num_channels", 3)
    wanted = {1: "L", 3: "RGB"}.get(channels)
    if wanted is None or image.mode != wanted:
        raise ValueError(
            f'the picture has mode "{image.mode}", but {type(model).__name__} reads {channels} channels; '
            + (f'give image.convert("{wanted}")' if wanted else "encode it yourself and give the batch")
        )
    batch = processor(images=image, return_tensors="pt")
    return Encoded(_on_device(model, {PIXELS: batch[PIXELS]}), image=image.convert("RGB"))


def _special(tokenizer: Any, identifiers: list[int]) -> list[bool]:
    known = set(getattr(tokenizer, "all_special_ids", ())) - {getattr(tokenizer, "unk_token_id", None)}
    return [identifier in known for identifier in identifiers]


def _each_its_own(tokens: tuple[str, ...], special: list[bool]) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    places = [place for place, is_special in enumerate(special) if not is_special]
    order = {place: index for index, place in enumerate(places)}
    return tuple(order.get(place) for place in range(len(tokens))), tuple(tokens[place] for place in places)


def _on_device(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    like = next(model.parameters())
    return {name: value.to(like.device, like.dtype if value.is_floating_point() else value.dtype) for name, value in tensors.items()}
