"""`export_model`: a TanhMax model as files of another runtime, compared with the live model before they are written.

The exporters of Transformers (`transformers.exporters`) do the work. What is here is what they leave to their caller: inputs to trace with,
sizes that may change, the check, int8, a tokenizer beside the files, and sentences about what cannot be exported. The attention in the
files is `hf_tanhmax.attention.portable`, of a model that is set to "eager" the definition.
"""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from ..checkpoint import read_checkpoint
from ..errors import first_cause, first_line
from ..integration.patching import ConfigView, attention_modules
from ..processors import modalities
from .checking import Difference, differences
from .formats import check_packages, exporter_of, format_named, node_counts, versions_of
from .inputs import TRACED, Inputs, bounded_shapes, generates, random_inputs

if TYPE_CHECKING:
    from transformers.exporters import ExportedModel

REPORT = "export.json"  # written by the exporters of Transformers, which skip what they do not know
OURS = "hf_tanhmax"
# How far an export may be from the live model, as a share of the largest number that it computes.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
COARSE = 5e-2


class ExportError(RuntimeError):
    """A model that cannot be exported whole, or whose export computes something else; the message names the module if one is to blame."""


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how far it is from the live model.

    Attributes:
        model: the name of its class.
        format: as it was asked for.
        versions: of the packages that wrote it, this one included where it is installed.
        attentions: attention modules of the model.
        graphs: for each graph its nodes, and how many are softmax attention nodes, which the runtime has a kernel for.
        checks: for each graph and size, the largest difference from the live model, and the largest number of its outputs.
        int8: the same checks of the graphs with int8 weights; None without them.
    """

    model: str
    format: str
    versions: dict[str, str]
    attentions: int
    graphs: dict[str, dict[str, int]]
    checks: list[Difference]
    int8: list[Difference] | None = None

    @property
    def largest_difference(self) -> float:
        """Of any output at any size."""
        return max(each["difference"] for each in self.checks)


def export_model(
    model: PreTrainedModel | str,
    out: str | os.PathLike[str],
    *,
    format: Literal["onnx", "openvino", "executorch", "torch"] = "onnx",  # noqa: A002, which is what it is
    auto_class: type | None = None,
    with_past: bool | None = None,
    opset: int | None = None,
    int8: bool = False,
    inputs: Mapping[str, Tensor] | None = None,
    revision: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export a TanhMax model with batch and length left open, check it against the live model, and write it to a new folder.

    Args:
        model: a live model, or a folder, or a name on the Hub.
        out: a new folder: the graphs, their configuration, what makes inputs (of a model given by name), and `export.json` with the check.
        format: "onnx", "openvino", "executorch" or "torch".
        auto_class: the Auto class of the head, of a model given by name; None is the head that it was saved with.
        with_past: a graph for the prompt and one for each token after it, which takes a KV cache and returns it; None: if it generates.
        opset: of ONNX; None is 23, the first with a node for attention.
        int8: also write `..._quantized.onnx`, with int8 weights, quantised dynamically by onnxruntime.
        inputs: an example of what the model is called with, of a model that reads neither texts nor images of one size.
        revision: of a name on the Hub.
        progress: told in a few words what is done next.

    Raises:
        ValueError: an unknown format, a folder that is not empty, options that do not go together, or a model that computes softmax.
        ImportError: Transformers or a package of the format is absent or too old.
        ExportError: the model cannot be exported whole, or the export differs from it; nothing is written then.
    """
    out, say = Path(out), progress or (lambda _: None)
    _check_options(format, out, opset=opset, int8=int8)
    say("loading the model")
    name = model if isinstance(model, str) else None
    live = model if isinstance(model, PreTrainedModel) else _loaded(model, auto_class, revision)
    check_exportable(live, with_past=with_past)
    with _undisturbed(live):
        say(f"tracing {type(live).__name__} for {format_named(format).title}")
        exported = exported_model(live, format, with_past=with_past, opset=opset, inputs=inputs)
        graphs = {part: node_counts(component.program, format) for part, component in exported.components.items()}
        say("comparing it with the live model")
        examples = None if inputs is None else [dict(inputs)]
        checks = _checked(exported, live, format, examples)
        out.mkdir(parents=True, exist_ok=True)
        if format == "torch":
            for component in exported.components.values():
                component.program.example_inputs = None  # a cache among them is a class that torch.export.load refuses
        exported.save_pretrained(out)
        quantized = None
        if int8:
            say("quantising its weights to int8")
            quantized = list(differences(quantize(exported, out), live, examples))
    if name is not None:
        for each in read_checkpoint(name, revision=revision).processors(modalities(live))[0]:
            each.save_pretrained(out)
    attentions = len(attention_modules(live))
    report = ExportReport(type(live).__name__, format, versions_of(format), attentions, graphs, checks, quantized)
    _add_to_manifest(out / REPORT, report)
    return report


def exported_model(
    model: PreTrainedModel,
    name: str,
    *,
    with_past: bool | None = None,
    opset: int | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> "ExportedModel":
    """A model as an `ExportedModel` of Transformers, with batch and length left open: a graph "model", or "prefill" and "decode".

    Raises:
        ImportError: as `export_model`.
        ExportError: the model cannot be exported whole.
    """
    with quietly():
        exporter, configuration = exporter_of(name)
    options = dict(format_named(name).options)
    if opset is not None:
        options["opset_version"] = opset
    given: Inputs = dict(inputs) if inputs is not None else random_inputs(model, *TRACED)
    past = _has_past(model, with_past)
    if name == "executorch" and not past and inputs is None:
        options["dynamic_shapes"] = bounded_shapes(model, given)
    run = exporter.export_for_generation if past else exporter.export
    with quietly(), _Traced(model):
        return run(model, {**given}, configuration(dynamic=True, **options))


def check_exportable(model: object, *, with_past: bool | None = None) -> None:
    """Check that there is TanhMax to export.

    Raises:
        TypeError: it is no model of Transformers, such as an adapter on its base.
        ValueError: it computes softmax, has no cache where one is asked for, or one that a window cuts off.
    """
    if not isinstance(model, PreTrainedModel):
        more = "; merge it first: model.merge_and_unload()" if hasattr(model, "merge_and_unload") else ""
        raise TypeError(f"export takes a model of Transformers, but got {type(model).__name__}{more}")
    named = {"tanhmax", "tanhmax_eager"}  # asked for by attn_implementation
    if not any(isinstance(each, ConfigView) or each._attn_implementation in named for each in _configs(model)):
        raise ValueError(
            f"a {type(model).__name__} computes softmax, which the exporters of Transformers export as it is; for TanhMax convert it "
            "first: hf-tanhmax convert SOURCE OUT"
        )
    if with_past and not model.can_generate():
        raise ValueError(f"a {type(model).__name__} does not generate, so it has no past to export; leave with_past out")
    if _has_past(model, with_past) and any(DynamicCache(config=model.config).is_sliding):
        raise ValueError(
            f"the cache of a {type(model).__name__} forgets what is behind its window (sliding_window), but an exported graph masks it as "
            "if no prompt were longer, so its decoding would be wrong after one that is; export it without a cache: with_past=False"
        )


def _configs(model: nn.Module) -> list[PreTrainedConfig | ConfigView]:
    return [config for module in attention_modules(model) if (config := getattr(module, "config", None)) is not None]


def _has_past(model: PreTrainedModel, with_past: bool | None) -> bool:
    return generates(model) if with_past is None else with_past


def _check_options(name: str, out: Path, *, opset: int | None, int8: bool) -> None:
    check_packages(name)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"{out} is there already and not an empty folder; name one that is new")
    for option, given in (("opset", opset is not None), ("int8", int8)):
        if given and name != "onnx":
            raise ValueError(f"{option} is of ONNX alone, but the format is {name!r}; leave it out")


def _loaded(name: object, auto_class: type | None, revision: str | None) -> PreTrainedModel:
    if not isinstance(name, str | os.PathLike):
        return cast(PreTrainedModel, name)  # which is refused with its type
    return read_checkpoint(name, revision=revision).load(auto_class)


@contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode, and as it was afterwards: exporters freeze its weights."""
    training, wanted = (
        [(module, module.training) for module in model.modules()],
        [(each, each.requires_grad) for each in model.parameters()],
    )
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode
        for parameter, requires in wanted:
            parameter.requires_grad_(requires)


@contextmanager
def quietly() -> Iterator[None]:
    """Without what exporters print and warn about themselves."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)


class _Traced:
    """A model that is traced: whatever an exporter raises meanwhile leaves as one of our errors, with the module that it came to."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.entered: list[str] = []

    def __enter__(self) -> None:
        self.hooks = []
        for path, module in self.model.named_modules():
            self.hooks += [module.register_forward_pre_hook(self._enter(path)), module.register_forward_hook(self._leave)]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self.hooks:
            hook.remove()
        if not isinstance(error, Exception) or isinstance(error, ImportError):
            return
        path = self.entered[-1] if self.entered else ""
        place = f" in its {path} ({type(self.model.get_submodule(path)).__name__})" if path else ""
        raise ExportError(
            f"{type(self.model).__name__} cannot be exported whole: it fails{place}, {first_line(first_cause(error))}"
        ) from error

    def _enter(self, path: str) -> Callable[..., None]:
        return lambda *_: self.entered.append(path)

    def _leave(self, *_: object) -> None:
        self.entered.pop()


def _checked(exported: "ExportedModel", model: PreTrainedModel, name: str, examples: list[Inputs] | None) -> list[Difference]:
    """The comparison with the live model, if it comes out well."""
    try:
        exported.to(**format_named(name).runs_with)
        checks = list(differences(exported, model, examples))
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"{format_named(name).title} cannot run the exported {type(model).__name__}, so nothing was written: {first_line(error)}"
        ) from error
    tolerance = TOLERANCE.get(model.dtype, COARSE)
    worst = max(checks, key=lambda each: each["difference"])
    if not worst["difference"] <= tolerance * max(1.0, worst["largest"]):
        raise ExportError(
            f"the export of {type(model).__name__} differs from the live model by {worst['difference']:.2g} in {worst['component']!r} at "
            f"batch {worst['batch']} and length {worst['length']}, so nothing was written; report this with the versions that you use"
        )
    return checks


def quantize(exported: "ExportedModel", out: Path) -> "ExportedModel":
    """Every graph of an `ExportedModel` in ONNX with int8 weights, written beside the others and ready to run."""
    exporters, base = import_module("transformers.exporters"), import_module("transformers.exporters.base")
    parts = {}
    for part, component in exported.components.items():
        # The quantiser of onnxruntime takes ONNX's own node for its older one of that name, whose int8 form has other inputs.
        kept = [node.name for node in component.program.graph if node.op_type == "Attention"]
        quantizer = exporters.OnnxRuntimeQuantizer(exporters.OnnxRuntimeDynamicConfig(nodes_to_exclude=kept))
        with quietly():
            program = quantizer.quantize(component.program, {}, "onnx")
        exporters.OnnxExporter.save_program(program, out / f"{part}_quantized.onnx")
        parts[part] = base.ExportedComponent(program, component.metadata)
    smaller = exporters.ExportedModel(parts, "onnx", config=exported.config)
    return smaller.to()


def _add_to_manifest(path: Path, report: ExportReport) -> None:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest[OURS] = {**asdict(report), "largest_difference": report.largest_difference}
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
