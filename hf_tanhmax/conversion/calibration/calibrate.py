"""All that calibration does to a converted model, in its order, and how close the model then is to softmax on inputs that were held out."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from ...integration.hooks import without_dropout
from ...models.family import TanhMaxFields
from ..attention_transfer import transfer
from ..gauge import align
from ..originals import undo_refit
from ..projections import modules_to_align, why_not_aligned
from ..refitting import refit as refit_outputs
from ..report import ConversionReport
from ..runner import Batch, Runner, check_batch
from .plan import BALANCE, Plan
from .quality import Comparison


def calibrate(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    balance: float = BALANCE,
    refit: bool | None = None,
    transfer_steps: int = 0,
    folder: str | Path | None = None,
) -> ConversionReport:
    """Calibrate a converted model, in place, with unlabelled inputs; the last tenth of them is held out to measure with.

    Without a shift, biases are aligned (`align`); then queries and keys are trained (`transfer`) and output projections refitted (`refit`),
    if that is asked for. With a balanced shift there is nothing to align, and output projections are refitted, if the layers of the model
    can be run one at a time; where they cannot, the report says why (`not_refitted`), and measures what the shift alone does.

    Args:
        model: of a TanhMax class, with the weights of a softmax model and the polarity and shift that it is to have.
        batches: mappings of the model's inputs, such as `calibration_batches` makes.
        balance: of a model without a shift, the mass of negative weights over that of positive ones, in (0, 1].
        refit: whether output projections are refitted; None where the model has a balanced shift and can be refitted.
        transfer_steps: of attention transfer; 0 for none.
        folder: where a refit keeps what it has done, so that it continues there if it is ended.

    Returns:
        What was done, how close the model is to the softmax model before and after, and the parameters that were changed.

    Raises:
        ValueError: what does not go together, or what `align`, `transfer` and `refit` refuse; softmax is then still at polarity 0.
        TypeError: a batch that is no mapping.
        NotImplementedError: what the model's architecture does not allow.
        torch.OutOfMemoryError: a batch that does not fit into memory; the message says what to lower.
    """
    started = time.perf_counter()
    if not isinstance(model.config, TanhMaxFields):
        raise ValueError(f"{type(model).__name__} is not a TanhMax class; call hf_tanhmax.convert(..., calibrate=inputs)")
    settings = model.config.tanhmax_settings
    plan = Plan(settings.polarity, shift=settings.shift, calibrate=True, balance=balance, refit=refit, transfer_steps=transfer_steps)
    unaligned = why_not_aligned(model)
    plan = plan.for_model(alignable=unaligned is None)
    if plan.shift != settings.shift:
        raise ValueError(str(unaligned))
    parts = split(batches)
    with without_dropout(model):
        # Aligning is for polarity 1, whatever the model has until it is trained.
        polarity = 1.0 if plan.shift is None and settings.polarity == 0 else None
        comparison = Comparison(Runner(model, modules_to_align(model)), parts.held, polarity=polarity, held_out=parts.held_out)
        alignment = align(model, parts.fitted, balance=balance) if plan.shift is None else None
        originals: dict[str, Tensor] = {}
        done = False
        try:
            transferred = transfer(model, parts.fitted, steps=transfer_steps) if transfer_steps else None
            originals |= (transferred and transferred.originals) or {}
            refitted, not_refitted = None, None
            if plan.refit is not False:
                try:
                    refitted = refit_outputs(model, parts.fitted, originals=originals or None, folder=folder, progress=sys.stderr.isatty())
                    originals |= refitted.originals
                except NotImplementedError as error:
                    if plan.refit:
                        raise
                    not_refitted = str(error)
            quality = comparison.quality()
            done = True
        finally:
            if originals and not done:
                undo_refit(model, originals)
    counted: Any = alignment or refitted or transferred or quality
    return ConversionReport(
        polarity=settings.polarity if polarity is None else polarity,
        shift=settings.shift,
        balance=balance if plan.shift is None else float(settings.polarity),
        tokens=counted.rows,
        seconds=time.perf_counter() - started,
        alignment=alignment,
        transfer=transferred,
        refit=refitted,
        quality=quality,
        not_refitted=not_refitted,
    )


class Parts(NamedTuple):
    """Batches to fit to, and others to measure with; the same where there is one input alone."""

    fitted: Sequence[Batch]
    held: Sequence[Batch]
    held_out: bool


def split(batches: Iterable[Batch]) -> Parts:
    """Hold out the last tenth: of many batches whole ones, of a few so many rows.

    Raises:
        ValueError: no batches.
        TypeError: a batch that is no mapping.
    """
    known: Any = (
        batches if hasattr(batches, "__len__") and hasattr(batches, "__getitem__") and not isinstance(batches, Mapping) else list(batches)
    )
    count = len(known)
    if count == 0:
        raise ValueError("there is nothing to calibrate with; give some inputs, such as 256 texts in all")
    if count >= 10:
        kept = count - count // 10
        return Parts(_Range(known, 0, kept), _Range(known, kept, count), held_out=True)
    fitted = [known[index] for index in range(count)]
    for batch in fitted:
        check_batch(batch)
    rows, held = sum(map(_rows, fitted)), []
    wanted = min(max(1, round(rows / 10)), rows - 1)
    while wanted > 0 and len(fitted) > 0:
        last = fitted.pop()
        rest = _rows(last) - wanted
        if rest > 0:
            fitted.append(_cut(last, slice(rest)))
            last = _cut(last, slice(rest, rest + wanted))
        held.append(last)
        wanted -= _rows(last)
    return Parts(fitted, held, held_out=True) if held else Parts(fitted, fitted, held_out=False)


class _Range(Sequence[Batch]):
    """A part of a sequence that is not copied."""

    def __init__(self, batches: Sequence[Batch], start: int, stop: int) -> None:
        self.batches, self.indices = batches, range(start, stop)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.batches[self.indices[index]]


def _rows(batch: Batch) -> int:
    """How many inputs a batch can be cut into; 1 where that is not clear."""
    sizes = {len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim()}
    whole = all(isinstance(value, Tensor) or not hasattr(value, "__len__") for value in batch.values())
    return sizes.pop() if whole and len(sizes) == 1 else 1


def _cut(batch: Batch, rows: slice) -> Batch:
    return {name: value[rows] if isinstance(value, Tensor) and value.dim() else value for name, value in batch.items()}
