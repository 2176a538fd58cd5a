"""TanhMax models as files of other runtimes: ONNX, OpenVINO, ExecuTorch and torch.export, by the exporters of Transformers."""

from .exporting import ExportError, ExportReport, export_model
from .formats import FORMATS
from .javascript import lay_out_for_javascript

__all__ = ["FORMATS", "ExportError", "ExportReport", "export_model", "lay_out_for_javascript"]
