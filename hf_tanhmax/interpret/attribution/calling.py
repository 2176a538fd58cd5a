"""Calling a model for one row of logits of each input, and for nothing that is not needed besides."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..inputs.encoding import IDS


def rows_of_logits(model: Any, inputs: dict[str, Tensor], positions: Sequence[int | None]) -> Tensor:
    """The row of logits that each input's target is in.

    Where all are read at the last position, a model that can be told so computes no other: with a large vocabulary that is most of its
    memory.

    Args:
        model: a Transformers model that returns logits.
        inputs: of the model, a batch.
        positions: for each input, or None where it has one row of logits.

    Returns:
        `[batch, classes]`.
    """
    length = inputs[IDS].shape[1] if IDS in inputs else 0
    last = all(position == length - 1 for position in positions)
    short = {"logits_to_keep": 1} if last and "logits_to_keep" in inspect.signature(type(model).forward).parameters else {}
    logits = model(**inputs, **without_cache(model), **short).logits
    if logits.dim() == 2:
        return logits
    return logits[:, -1] if short else logits[torch.arange(len(positions)), torch.tensor(positions)]


def without_cache(model: Any) -> dict[str, bool]:
    """Arguments that keep a model from filling a cache, where it has one."""
    return {} if getattr(model.config, "use_cache", None) is None else {"use_cache": False}
