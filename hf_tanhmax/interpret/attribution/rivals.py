"""The most probable targets of an input, for explanations between which a reader can switch."""

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..inputs.encoding import ImageProcessor, ModelInput, encode
from .evaluation_mode import evaluation_mode, unwrap
from .forward_passes import without_cache
from .target import choose_target, logits_of


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
