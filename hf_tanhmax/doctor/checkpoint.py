"""Checks of a checkpoint on disk: is it a TanhMax model, is it complete, and does it hold anything that it should not?"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from ..checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE,
    CONFIG,
    Checkpoint,
    CheckpointError,
    JsonObject,
    build,
    class_of,
    read_checkpoint,
    read_config,
    read_object,
)
from ..conversion.report import CONVERSION, read_report
from ..errors import one_line, some
from ..integration.hub_kernel import ignores_kernels
from ..integration.patching import attention_modules
from ..integration.summary import attention_summary, parts_summary, softmax_summary
from ..models.remote_code import CODE_FILE, auto_map, verdict
from ..processors import KINDS
from .files import check_files
from .report import Finding
from .weights import check_weights, read_header

GENERATION_CONFIG = "generation_config.json"
OTHER_VERSION = " and this is "  # in a verdict about a file of code that another version wrote, which still runs


def check_checkpoint(folder: str | Path) -> list[Finding]:
    """Look at a model, or at an adapter and its base. Of weights only headers are read; nothing is unpickled, and no code is imported.

    Args:
        folder: where `save_pretrained`, a Trainer, a recipe or a download put it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [Finding("error", str(folder), "is not a folder; name the one that holds config.json")]
    if (folder / ADAPTER_CONFIG).is_file():
        return [*check_files(folder), *_check_adapter(folder)]
    files = check_files(folder) if (folder / CONFIG).is_file() else ()  # of any other folder there is nothing to say
    return [*files, *_check_model(folder)]


def _check_model(folder: Path, *, is_base: bool = False) -> Iterator[Finding]:
    try:
        config = read_config(folder / CONFIG)
    except CheckpointError as error:
        yield Finding("error", CONFIG, error.reason)
        yield from _check_softmax(folder)
        return
    values = read_object(folder / CONFIG) or {}
    try:
        _, model_class = class_of(config, folder / CONFIG)
    except CheckpointError as error:
        yield Finding("warning", CONFIG, f"{error.reason}; until then nobody can tell whether tensors are missing")
        yield from check_weights(folder, None, config)
    else:
        yield from _check_built(folder, values, model_class, config)
    yield from check_code(folder, values)
    yield from _check_conversion(folder)
    if not is_base:  # the processor lies beside the adapter
        yield from _check_processor(Checkpoint(str(folder)))


def _check_softmax(folder: Path) -> Iterator[Finding]:
    """Warn of a softmax model of Transformers' own whose attention nothing of this package reaches."""
    values = read_object(folder / CONFIG) or {}
    if values.get("model_type") not in CONFIG_MAPPING:
        return
    try:
        config = CONFIG_MAPPING[values["model_type"]].from_dict(values)
        _, model_class = class_of(config, folder / CONFIG)
        model = build(model_class, config, folder / CONFIG)
    except (CheckpointError, StrictDataclassError, TypeError, ValueError):  # of which the reason above is enough
        return
    if not attention_modules(model):
        yield Finding("warning", CONFIG, f"{ignores_kernels(model, 'owner/name')}; hf-tanhmax convert refuses it too")


def _check_conversion(folder: Path) -> Iterator[Finding]:
    try:
        report = read_report(folder)
    except ValueError as error:
        yield Finding("warning", CONVERSION, one_line(error).removeprefix(f"{CONVERSION} "))
        return
    if report is not None:
        yield Finding("ok", CONVERSION, f"says that the model {report.describe()}")


def _check_built(folder: Path, values: JsonObject, model_class: type[PreTrainedModel], config: PreTrainedConfig) -> Iterator[Finding]:
    try:
        model = build(model_class, config, folder / CONFIG)
    except CheckpointError as error:
        yield Finding("error", CONFIG, error.reason)
        return
    yield Finding("ok", CONFIG, f"{model_class.__name__} with {attention_summary(model)}")
    for sentence in (*parts_summary(model), *softmax_summary(model)):
        yield Finding("ok", CONFIG, sentence)
    if model_class.can_generate():
        yield from _check_cache(folder, values)
    yield from check_weights(folder, model_class, config)


def _check_cache(folder: Path, values: JsonObject) -> Iterator[Finding]:
    if values.get("use_cache") is False:
        say = "has use_cache false, as training leaves it: generate() keeps a cache anyway, other callers get none; set it to true"
        yield Finding("warning", CONFIG, say)
    if (read_object(folder / GENERATION_CONFIG) or {}).get("use_cache") is False:
        yield Finding("warning", GENERATION_CONFIG, "has use_cache false, so each new token costs as much as all before it; set it to true")


def _check_processor(checkpoint: Checkpoint) -> Iterator[Finding]:
    try:
        wanted = checkpoint.modalities
    except CheckpointError:  # which was said before
        return
    for kind in wanted:
        noun, _, files = KINDS[kind]
        there = next(filter(checkpoint.file, files), None)
        if there is not None:
            yield Finding("ok", there, f"the {noun} is there")
        else:
            say = f"is not there ({', '.join(files)}), so a pipeline cannot use the model; save it into the same folder"
            yield Finding("warning", noun, say)


def check_code(folder: Path, values: JsonObject) -> Iterator[Finding]:
    """About the code for those who load it without the plugin: it is read as text and compared, never imported."""
    mapped = {str(auto): str(target) for auto, target in (values.get("auto_map") or {}).items()}
    yield from _check_map(folder, mapped, values)
    path = folder / CODE_FILE
    if path.is_file():
        said = verdict(path.read_text(encoding="utf-8", errors="replace"))
        if said is None:
            yield Finding("ok", CODE_FILE, "is exactly what this version writes")
        else:
            yield Finding("warning" if OTHER_VERSION in said else "error", CODE_FILE, said.removeprefix(f"{CODE_FILE} "))
    for other in sorted(path.name for path in folder.glob("*.py") if path.name != CODE_FILE):
        yield Finding("warning", other, "is code that hf_tanhmax did not write; read it before anybody runs it, or delete it")


def _check_map(folder: Path, mapped: dict[str, str], values: JsonObject) -> Iterator[Finding]:
    if not mapped:
        say = "has no auto_map, so the model loads only where hf_tanhmax is imported; save it again with this version"
        yield Finding("warning", CONFIG, say)
        return
    elsewhere = sorted({target.split("--")[0] for target in mapped.values() if "--" in target})
    if elsewhere:
        say = f"has an auto_map that takes code from another repository ({some(elsewhere)}), whoever may write there; save it again"
        yield Finding("warning", CONFIG, say)
    local = {target.rsplit(".", 1)[0] for target in mapped.values() if "--" not in target}
    missing = sorted(f"{module}.py" for module in local if not (folder / f"{module}.py").is_file())
    if missing:
        yield Finding("error", CONFIG, f"has an auto_map that names {some(missing)}, which is not there; save the model again")
    wanted = auto_map(str(values.get("model_type")), values.get("architectures") or ())
    if local == {Path(CODE_FILE).stem} and not elsewhere and mapped != wanted:
        differing = some(auto for auto in {*mapped, *wanted} if mapped.get(auto) != wanted.get(auto))
        yield Finding("warning", CONFIG, f"has an auto_map that differs from its family's in {differing}; save it again")


def _check_adapter(folder: Path) -> Iterator[Finding]:
    header = read_header(folder / ADAPTER_WEIGHTS)
    if isinstance(header, str):
        yield Finding("error", ADAPTER_WEIGHTS, header)
    elif not header:
        yield Finding("error", ADAPTER_WEIGHTS, "holds no tensors; save the adapter again")
    else:
        yield Finding("ok", ADAPTER_WEIGHTS, f"is whole, with {len(header)} tensors")
    try:
        checkpoint = read_checkpoint(folder)
    except CheckpointError as error:
        yield Finding("error", ADAPTER_CONFIG, f"{error.reason}; save the adapter again")
        return
    adapter = checkpoint.adapter or {}
    targets = adapter.get("target_modules")
    modules = some(targets, shown=8) if isinstance(targets, list) else str(targets)
    yield Finding("ok", ADAPTER_CONFIG, f"{adapter.get('peft_type') or 'an adapter of unknown kind'} on the modules {modules}")
    yield from _check_base(folder, checkpoint)


def _check_base(folder: Path, checkpoint: Checkpoint) -> Iterator[Finding]:
    inside, name = folder / BASE, checkpoint.base_name
    if name is None:
        yield Finding("error", ADAPTER_CONFIG, "names no base model (base_model_name_or_path), so the adapter cannot be loaded")
    elif inside.is_dir() and not Path(name).is_dir():
        say = f"names its base {name!r}, which is not found from here, though {BASE}/ lies beside it; write its path there instead"
        yield Finding("warning", ADAPTER_CONFIG, say)
    elif not inside.is_dir():
        yield _base_elsewhere(checkpoint)
    if inside.is_dir():
        yield from (replace(finding, subject=f"{BASE}/{finding.subject}") for finding in _check_model(inside, is_base=True))


def _base_elsewhere(checkpoint: Checkpoint) -> Finding:
    name = checkpoint.base_name
    try:
        settings = checkpoint.settings
    except CheckpointError as error:
        return Finding("error", ADAPTER_CONFIG, f"names its base {name!r}, whose {CONFIG} {error.reason}")
    if settings is None:
        say = f"names its base {name!r}, which is not on this machine, so whether it is a TanhMax model is unknown; load it once"
        return Finding("warning", ADAPTER_CONFIG, say)
    return Finding("ok", ADAPTER_CONFIG, f"names its base {name!r}, which has {settings.describe()}")
