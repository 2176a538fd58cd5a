"""The formats that a model is exported to: which exporter of Transformers writes each, what it needs, what runs it, and its nodes."""

import contextlib
import importlib.metadata
from collections import Counter
from collections.abc import Iterator
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
        attention: what its runtime calls softmax attention; a program of ExecuTorch hides behind delegates what XNNPACK computes.
        needs: the packages that export, check and run it, with the oldest versions that were tried.
        options: of its configuration, besides dynamic sizes.
        runs_with: of its runner, so that the check computes in float32 wherever it runs.
    """

    title: str
    exporter: str
    attention: tuple[str, ...] = ()
    needs: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    runs_with: dict[str, Any] = field(default_factory=dict)


FORMATS = {
    # From opset 23 on, ONNX has one node for softmax attention.
    "onnx": Format(
        "ONNX",
        "Onnx",
        ("Attention", "MultiHeadAttention", "GroupQueryAttention"),
        {"onnx": "1.20", "onnxscript": "0.6", "onnxruntime": "1.23"},
        {"opset_version": 23},
    ),
    # With a state inside, prefill and decoding would be one graph that takes no cache.
    "openvino": Format(
        "OpenVINO",
        "OpenVINO",
        ("ScaledDotProductAttention",),
        {"openvino": "2026.0"},
        {"stateful": False},
        {"config": {"INFERENCE_PRECISION_HINT": "f32"}},
    ),
    "executorch": Format("ExecuTorch", "Executorch", needs={"executorch": "1.4", "torchao": "0.18"}),
    "torch": Format("torch.export", "Dynamo", ("scaled_dot_product_attention",)),
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


def node_counts(program: object, name: str) -> dict[str, int]:
    """How many nodes a program of the format's exporter has, and how many of them are the attention of its runtime."""
    counted = Counter(_operators(program, name))
    return {"nodes": sum(counted.values()), "attention_nodes": sum(counted[each] for each in format_named(name).attention)}


def _operators(program: Any, name: str) -> Iterator[str]:
    if name == "onnx":
        yield from (node.op_type for node in program.graph)
    elif name == "openvino":
        kinds = (node.get_type_name() for node in program.get_ops())
        yield from (kind for kind in kinds if kind not in ("Constant", "Parameter", "Result"))
    else:
        graph = program.graph if name == "torch" else program.exported_program().graph
        for target in (node.target for node in graph.nodes if node.op == "call_function"):
            named = target.name().split("::")[-1] if hasattr(target, "name") else getattr(target, "__name__", str(target))
            yield named.split(".")[0]
