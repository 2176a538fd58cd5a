"""TanhMax models as files of other runtimes: ONNX, OpenVINO, ExecuTorch and torch.export, by the exporters of Transformers."""

from .exporting import ExportError, ExportReport, export_model
from .formats import FORMATS

__all__ = ["FORMATS", "ExportError", "ExportReport", "export_model"]
