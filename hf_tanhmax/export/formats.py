"""The formats that a model is exported to: which exporter of Transformers writes each, which packages it needs, and what runs it."""

import contextlib
import importlib.metadata
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from ..errors import first_cause

if TYPE_CHECKING:
    from transformers.exporters import HfExporter

# The first whose exporters save and run what they export; before it, each returned the bare program of its backend.
TRANSFORMERS = "5.23"


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        title: what people call it.
        exporter: the beginning of the names of its exporter and of its configuration in `transformers.exporters`.
        needs: the packages that export, check and run it, with the oldest versions that were tried.
        options: of its configuration, besides dynamic sizes.
        runs_with: of its runner, so that the check computes in float32 wherever it runs.
    """

    title: str
    exporter: str
    needs: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    runs_with: dict[str, Any] = field(default_factory=dict)


FORMATS = {
    # From opset 23 on, ONNX has one node for softmax attention.
    "onnx": Format("ONNX", "Onnx", {"onnx": "1.20", "onnxscript": "0.6", "onnxruntime": "1.23"}, {"opset_version": 23}),
    # With a state inside, prefill and decoding would be one graph that takes no cache.
    "openvino": Format(
        "OpenVINO", "OpenVINO", {"openvino": "2026.0"}, {"stateful": False}, {"config": {"INFERENCE_PRECISION_HINT": "f32"}}
    ),
    "executorch": Format("ExecuTorch", "Executorch", {"executorch": "1.4", "torchao": "0.18"}),
    "torch": Format("torch.export", "Dynamo"),
}


def format_named(name: str) -> Format:
    """A format by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in FORMATS:
        raise ValueError(f"there is no format {name!r}; choose from {', '.join(FORMATS)}")
    return FORMATS[name]


def check_packages(name: str) -> None:
    """Check that a format can be exported here.

    Raises:
        ImportError: a package is absent or too old; the sentence says which, and what installs it.
    """
    chosen = format_named(name)
    if Version(importlib.metadata.version("transformers")).release < Version(TRANSFORMERS).release:
        raise ImportError(
            f"export needs Transformers {TRANSFORMERS} or newer, whose exporters save and run what they export, but "
            f'{importlib.metadata.version("transformers")} is installed: pip install -U "transformers>={TRANSFORMERS}"'
        )
    for package, oldest in chosen.needs.items():
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise ImportError(f'{chosen.title} needs {package}, which is not installed: pip install "hf-tanhmax[{name}]"') from None
        if Version(installed).release < Version(oldest).release:
            raise ImportError(
                f'{chosen.title} needs {package} {oldest} or newer, but {installed} is installed: pip install -U "hf-tanhmax[{name}]"'
            )


def exporter_of(name: str) -> "tuple[HfExporter, type]":
    """The exporter of a format, and the class of its configuration.

    Raises:
        ImportError: as `check_packages`, or a package of the exporter cannot be imported.
    """
    check_packages(name)
    chosen = format_named(name)
    exporters = import_module("transformers.exporters")
    try:
        return getattr(exporters, f"{chosen.exporter}Exporter")(), getattr(exporters, f"{chosen.exporter}Config")
    except ImportError as error:
        raise ImportError(f'{chosen.title} cannot be exported, as {first_cause(error)}: pip install "hf-tanhmax[{name}]"') from error


def versions_of(name: str) -> dict[str, str]:
    """The versions of the packages that bear on an export."""
    found = {}
    for package in ("hf-tanhmax", "torch", "transformers", *format_named(name).needs):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
