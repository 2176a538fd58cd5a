"""Whether an exported model computes what the live one does: at several batches and lengths, with padding and a cache if it has one."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .inputs import Inputs, checked_sizes, random_inputs

if TYPE_CHECKING:
    from transformers.exporters import ExportedModel


class Difference(TypedDict):
    """What was compared at one size, and the largest difference of any number of the outputs."""

    component: str
    batch: int
    length: int
    difference: float
    largest: float


@torch.no_grad()
def differences(exported: "ExportedModel", model: PreTrainedModel, examples: Iterable[Inputs] | None = None) -> Iterator[Difference]:
    """Compare an exported model with the live one, call by call.

    Args:
        exported: an `ExportedModel` of Transformers that runs.
        model: the live model.
        examples: of the inputs, to use instead of random ones.
    """
    calls = examples or (random_inputs(model, *size) for size in checked_sizes(model))
    for inputs in calls:
        stages: Mapping[str, Mapping[str, Any]] = {"model": inputs} if list(exported.components) == ["model"] else stages_of(model, inputs)
        for component, arguments in stages.items():
            names = exported.components[component].metadata.kwargs
            given = {name: value for name, value in arguments.items() if name in names}
            live = model(**copy.deepcopy(given))
            found = exported.runners[component](**copy.deepcopy(given))
            main = given.get("input_ids", next(iter(given.values())))
            seen = given.get("attention_mask")
            difference, largest = _compared(found, live, seen, main)
            yield Difference(component=component, batch=main.shape[0], length=main.shape[1], difference=difference, largest=largest)


def stages_of(model: PreTrainedModel, inputs: Inputs) -> dict[str, dict[str, Any]]:
    """What `generate` calls a model with, for the prompt and for the first token after it, as the exporters of Transformers record it.

    It leaves out a mask that hides nothing, which a graph is still asked for.
    """
    utilities = import_module("transformers.exporters.utils")  # which Transformers has from 5.23 on, as `exporter_of` says
    stages = {name: arguments for name, (_, arguments) in utilities.decompose_for_generation(model, dict(inputs)).items()}
    for name, arguments in stages.items():
        if arguments.get("attention_mask") is None and "input_ids" in inputs:
            batch, length = inputs["input_ids"].shape
            arguments["attention_mask"] = inputs["input_ids"].new_ones(batch, length + (name == "decode"))
    return stages


def _compared(found: Mapping[str, Tensor], live: Mapping[str, object], seen: Tensor | None, main: Tensor) -> tuple[float, float]:
    """The largest difference, and the largest number of the live model, of all outputs that are tensors and of positions that are seen."""
    pairs = [(found[name], value) for name, value in live.items() if isinstance(value, Tensor) and value.is_floating_point()]
    kept = None if seen is None or seen.dim() != 2 else seen[:, -main.shape[1] :].bool()
    differs = largest = 0.0
    for one, other in pairs:
        if one.shape != other.shape:
            return float("inf"), float(other.abs().max())
        if kept is not None and other.shape[:2] == kept.shape:
            one, other = one[kept], other[kept]
        differs = max(differs, float((one - other).abs().max()))
        largest = max(largest, float(other.abs().max()))
    return differs, largest
