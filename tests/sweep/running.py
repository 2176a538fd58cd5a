"""Running a model of any architecture, here and in processes that have the published file alone."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def run(model: PreTrainedModel, inputs: dict[str, Tensor], **options) -> list[Tensor]:
    """The floating-point outputs of a model, in their order."""
    torch.manual_seed(0)
    return list(tensors_of(model(**copied(inputs), **options)))


def aligned(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose weights lie as torch places them; from a file they lie otherwise, and convolutions round otherwise then."""
    return copy.deepcopy(model)


def copied(inputs: dict) -> dict:
    return {name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value) for name, value in inputs.items()}


def tensors_of(output: object) -> Iterator[Tensor]:
    """The floating-point tensors in an output; caches are left out."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif hasattr(output, "to_tuple"):
        yield from tensors_of(output.to_tuple())
    elif isinstance(output, tuple | list):
        for each in output:
            yield from tensors_of(each)
    elif isinstance(output, dict):
        yield from tensors_of(list(output.values()))
