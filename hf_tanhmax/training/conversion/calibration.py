"""Calibration of a converted model before it is trained, with unlabelled rows of its training data.

Every process computes the same from the same rows, and takes over the numbers of the first, so that all begin with equal weights. A run
that is resumed has its calibrated weights in what it saved, and does not calibrate again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast
from datasets import Dataset
from transformers import PreTrainedModel

from ...checkpoint import BASE
from ...conversion.calibration.calibrate import calibrate as calibrate_model
from ...conversion.report import ConversionReport
from ...errors import RecipeError, one_line
from ..configuration.schema import Config
from ..tasks import Task
from ..tasks.task import Processor

NOT_INPUTS = ("labels", "special_tokens_mask")  # what a collator may make beside the inputs of a model


def calibration_batches(task: Task, rows: Dataset, processor: Processor) -> list[dict[str, Any]]:
    """Inputs of the model from as many training rows as the recipe says (all where there are fewer), which its seed chooses.

    They are made as for an evaluation: padded, nothing masked or augmented. Long rows come first, so that little is padded.

    Args:
        task: of the recipe.
        rows: of the training data, as `task.examples` gives them.
        processor: tokenizer or image processor.
    """
    config = task.config
    chosen = np.random.default_rng(config.seed).permutation(len(rows))[: config.calibrate]
    kept = rows.select(chosen)
    lengths = task.lengths(kept)
    order = sorted(range(len(kept)), key=lambda index: -lengths[index])
    collate, size = task.collator(processor, training=False), min(config.batch_size, 32)
    made = (collate([kept[index] for index in order[first : first + size]]) for first in range(0, len(order), size))
    return [{**{key: value for key, value in batch.items() if key not in NOT_INPUTS}, **task.forward} for batch in made]


def calibrate(model: PreTrainedModel, config: Config, batches: list[dict[str, Any]]) -> ConversionReport:
    """Calibrate a converted model in place, alike in all processes.

    Raises:
        RecipeError: rows that are too few, or a model that cannot be calibrated.
    """
    given: dict[str, Any] = {"refit": config.refit, "transfer_steps": config.transfer_steps}
    with _on_device(model):
        try:
            report = calibrate_model(model, batches, balance=config.balance, **given)
        except (NotImplementedError, ValueError) as error:
            raise RecipeError(f"calibrate: {one_line(error, 400)}") from error
        if PartialState().num_processes > 1:
            for tensor in model.state_dict().values():
                broadcast(tensor)
    return report


def calibrated_before(checkpoint: str, folder: Path, task: Task) -> PreTrainedModel:
    """The calibrated model of a run that is resumed: the base of its adapter, or what it was when the checkpoint was saved.

    Args:
        checkpoint: the folder to resume from.
        folder: of the run.
        task: of the recipe.
    """
    return task.auto_class.from_pretrained(folder / BASE if task.config.lora_rank else checkpoint)


@contextmanager
def _on_device(model: PreTrainedModel) -> Iterator[None]:
    """The model on the device of this process, and back where it was: the Trainer places it itself."""
    before: Any = model.device
    model.to(PartialState().device)
    try:
        yield
    finally:
        model.to(before)
