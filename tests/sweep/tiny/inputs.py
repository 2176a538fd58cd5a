"""Inputs with which the forward of a tiny model runs, told by the names of its arguments and by its config."""

import inspect

import torch
from transformers import PreTrainedModel

LENGTH, PADDED, TEXT = 9, 3, 40


def tiny_inputs(model: PreTrainedModel, batch: int = 2) -> dict[str, torch.Tensor]:
    """Inputs with which a tiny model runs; rows after the first are padded on the right where it takes an attention mask.

    Args:
        model: of `tiny_model`, or its conversion.
        batch: rows.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return _inputs(model, batch)


def _inputs(model, batch):
    arguments = inspect.signature(model.forward).parameters
    main = model.main_input_name
    inputs = {}
    if "input_ids" in arguments:
        inputs |= text(arguments, batch)
    if "pixel_values" in arguments:
        inputs["pixel_values"] = pixels(model.config, batch)
    return inputs


def text(arguments, batch, length=LENGTH):
    ids = torch.randint(4, TEXT, (batch, length))
    inputs = {"input_ids": ids}
    if "attention_mask" in arguments:
        mask = torch.ones_like(ids)
        mask[1:, -PADDED:] = 0
        inputs["attention_mask"] = mask
        inputs["input_ids"] = torch.where(mask.bool(), ids, 0)
    if "decoder_input_ids" in arguments:
        inputs["decoder_input_ids"] = torch.randint(4, TEXT, (batch, 5))
    return inputs


def pixels(config, batch):
    size = getattr(config, "image_size", 32)
    size = size if isinstance(size, int) else size[0]
    return torch.randn(batch, getattr(config, "num_channels", 3), size, size)
