"""From softmax to TanhMax: the same weights under another class, calibrated so that they still work there.

Names are imported when they are asked for, as some of them take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

# The module of each public name.
_MODULES = {
    "AlignmentReport": "report",
    "AllocationReport": "allocation",
    "ConversionReport": "report",
    "RefitReport": "refitting",
    "TransferReport": "report",
    "align": "gauge",
    "allocate": "allocation",
    "calibrate": "calibration.calibrate",
    "calibration_batches": "calibration.inputs",
    "refit": "refitting",
    "transfer": "attention_transfer",
    "undo_refit": "originals",
}

__all__ = [
    "AlignmentReport",
    "AllocationReport",
    "ConversionReport",
    "RefitReport",
    "TransferReport",
    "align",
    "allocate",
    "calibrate",
    "calibration_batches",
    "refit",
    "transfer",
    "undo_refit",
]

if TYPE_CHECKING:
    from .allocation import AllocationReport, allocate
    from .attention_transfer import transfer
    from .calibration.calibrate import calibrate
    from .calibration.inputs import calibration_batches
    from .gauge import align
    from .originals import undo_refit
    from .refitting import RefitReport, refit
    from .report import AlignmentReport, ConversionReport, TransferReport
else:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
