"""Before training: a model is calibrated if its recipe says so, and of a language model the loss is measured, to compare with its end."""

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...conversion.report import ORIGINALS
from ...models.family import TanhMaxFields
from ...results import Conversion
from ..tasks import Task
from .calibration import calibrate
from .check import is_checked, measured_at_start, softmax_loss, token_loss, warnings_about

logger = logging.getLogger(__name__)


def prepare(
    model: PreTrainedModel,
    folder: Path,
    task: Task,
    checkpoint: PreTrainedConfig | None,
    inputs: list[dict[str, Any]],
    batches: list[dict[str, Tensor]],
) -> Conversion:
    """Calibrate a model before its training, if the recipe says so, and measure what a language model can do before it.

    Args:
        model: as it was converted, or as its checkpoint has it; changed in place.
        folder: of the run.
        task: of the recipe.
        checkpoint: the config of what it was made from.
        inputs: what to calibrate with; empty for no calibration.
        batches: validation rows with labels.
    """
    config, converted, is_main = task.config, Conversion(), PartialState().is_main_process
    if is_checked(task):
        converted["checked_rows"] = sum(len(batch["labels"]) for batch in batches)
        if config.attention == "tanhmax" and not isinstance(checkpoint, TanhMaxFields):
            converted["softmax_loss"] = softmax_loss(model, task, batches)
    if inputs:
        started = time.perf_counter()
        report = calibrate(model, config, inputs)
        rows, seconds = sum(len(next(iter(batch.values()))) for batch in inputs), time.perf_counter() - started
        converted |= {"calibration_rows": rows, "calibration_seconds": round(seconds, 2)}
        if is_main:
            report.save(folder)
            (folder / ORIGINALS).unlink(missing_ok=True)  # of no use to a model whose other weights are trained
            print(f"calibrated with {rows} training rows in {seconds:.1f} s: the model {report.describe()}", file=sys.stderr)
    if is_checked(task):
        converted["converted_loss"] = token_loss(model, task, batches)
    _warn(warnings_about(converted, config))
    return converted


def conversion_of(history: Sequence[dict[str, float]], model: nn.Module, task: Task, batches: list[dict[str, Tensor]]) -> Conversion:
    """What was measured before training, and of a language model the loss after it with what is wrong with them all.

    Args:
        history: of the Trainer's log.
        model: that was trained.
        task: of the recipe.
        batches: the same validation rows as before.
    """
    found = measured_at_start(history)
    if "converted_loss" in found:
        found["trained_loss"] = token_loss(model, task, batches)
        found["warnings"] = warnings_about(found, task.config)
        _warn(found["warnings"])
    return found


def _warn(sentences: list[str]) -> None:
    if PartialState().is_main_process:
        for sentence in sentences:
            logger.warning(sentence)
