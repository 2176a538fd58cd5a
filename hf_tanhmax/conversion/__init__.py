"""From softmax to TanhMax: the same weights under another class, calibrated so that they still work there.

Names are imported when they are asked for, as some of them take seconds.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

# The module of each public name.
_MODULES = {
    "AlignmentReport": "report",
    "AllocationReport": "allocation",
    "ConversionReport": "report",
    "RefitReport": "refit",
    "TransferReport": "report",
    "align": "gauge",
    "allocate": "allocation",
    "calibrate": "calibration.calibrate",
    "calibration_batches": "calibration.inputs",
    "refit": "refit",
    "transfer": "transfer",
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
    from .calibration.calibrate import calibrate
    from .calibration.inputs import calibration_batches
    from .gauge import align
    from .originals import undo_refit
    from .refit import RefitReport, refit
    from .report import AlignmentReport, ConversionReport, TransferReport
    from .transfer import transfer
else:

    class _Package(ModuleType):
        """The package, whose functions refit and transfer do not become the modules of these names when the modules are imported."""

        def __setattr__(self, name: str, value: object) -> None:
            if name not in __all__ or not isinstance(value, ModuleType):
                super().__setattr__(name, value)

    sys.modules[__name__].__class__ = _Package

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
