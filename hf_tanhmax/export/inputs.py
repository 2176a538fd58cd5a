"""Inputs that a model is traced with and checked with: random ones of several sizes, padded as its kind is padded."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim
from transformers import PreTrainedModel

from ..checkpoint import length_limit, text_config
from ..processors import modality

TRACED = (3, 9)  # batch and length; neither may be 1 or 0, which torch.export would take for constants
LARGEST = (32, 512)  # where memory is planned ahead; a model's own limit may be lower
CHECKED = ((3, 9), (1, 5), (2, 33), (4, 14))
Inputs = dict[str, Tensor]


def random_inputs(model: PreTrainedModel, batch: int, length: int) -> Inputs:
    """Random tokens, of which every row but the first is padded to another length, or random pictures.

    Args:
        model: reads texts or images of one size.
        batch: number of rows.
        length: tokens of the longest row; pictures have the size that the model wants.

    Raises:
        ValueError: the model reads something else.
    """
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    kind = modality(model)
    if kind == "image" and model.main_input_name == "pixel_values":
        config: Any = getattr(model.config, "vision_config", model.config)
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.randn(batch, config.num_channels, height, width, generator=generator)}
    if kind == "text" and model.main_input_name == "input_ids":
        config = text_config(model)
        tokens = torch.randint(config.vocab_size, (batch, length), generator=generator)
        # The token of padding may be embedded as 0: its scores are 0, and so is its output but for rounding, which a norm would blow up.
        tokens = torch.where(tokens == (config.pad_token_id or 0), (tokens + 1) % config.vocab_size, tokens)
        return {"input_ids": tokens, "attention_mask": _padding(batch, length, left=generates(model))}
    raise ValueError(
        f"export knows inputs of models that read texts or images, but a {type(model).__name__} reads {model.main_input_name!r}; "
        "give an example as inputs={...} in Python"
    )


def checked_sizes(model: PreTrainedModel) -> Iterator[tuple[int, int]]:
    """Batches and lengths that the model reads, of which all but the first are not those of the trace."""
    limit = length_limit(model) or max(length for _, length in CHECKED) + 8
    for batch, length in CHECKED:
        yield batch, min(length, limit - 8)


def bounded_shapes(model: PreTrainedModel, inputs: Inputs) -> dict[str, dict[int, Dim]]:
    """Which dimensions change, of a runtime that plans its memory for the largest that may come."""
    batch = Dim("batch", min=1, max=LARGEST[0])
    if modality(model) == "image":
        return {name: {0: batch} for name in inputs}
    length = Dim("length", min=2, max=min(LARGEST[1], length_limit(model) or LARGEST[1]))
    return {name: {0: batch, 1: length} for name in inputs}


def generates(model: PreTrainedModel) -> bool:
    """Whether a model writes one token after the other, so that it is exported with a cache."""
    return bool(model.can_generate()) and not model.config.is_encoder_decoder


def _padding(batch: int, length: int, *, left: bool) -> Tensor:
    lengths = torch.tensor([length - row % max(1, length - 2) for row in range(batch)])
    mask = (torch.arange(length) < lengths[:, None]).long()
    return mask.flip(-1) if left else mask
