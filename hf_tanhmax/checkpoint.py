"""What a folder or a name on the Hub holds: a model, or an adapter and its base.

Whatever it says is read here and nowhere else, from JSON alone: nothing is unpickled, and no code that it brings along is run. The base of
an adapter is, in this order: the folder `base` in the adapter's, the folder that the adapter names, the repository of that name.
"""

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from packaging.version import InvalidVersion, Version
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from .choices import PIPELINES
from .errors import one_line
from .integration.kernel_note import forgotten, kernel_of
from .models.architectures import PREFIX, class_named, config_of, nearest_type, upstream_heads, upstream_type
from .models.family import TanhMaxFields
from .processors import KINDS, Processor, auto_processor, load_processors, modalities, modality
from .settings import TanhMaxSettings

CONFIG, ADAPTER_CONFIG, RESULTS = "config.json", "adapter_config.json", "results.json"
WEIGHTS, INDEX, ADAPTER_WEIGHTS = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
BASE = "base"  # the folder inside an adapter's that holds its base model

# What PEFT calls a task, and the Auto class of its base. The others have none and name the class of their base instead.
PEFT_TASKS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
JsonObject = dict[str, Any]


class CheckpointError(ValueError):
    """A file that is not what a checkpoint needs: the message names it, and `reason` goes on from its name."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file} {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Checkpoint:
    """A whole model, or an adapter and its base. Its config is read once.

    Attributes:
        name: a folder, or a name on the Hub.
        revision: of a name on the Hub: a commit, tag or branch; None is the main branch.
        adapter: what the adapter_config.json of a PEFT adapter says; None for a whole model.
        base: the model that an adapter is for; None for a whole model, and where an adapter names none.
    """

    name: str
    revision: str | None = None
    adapter: JsonObject | None = None
    base: "Checkpoint | None" = None

    @property
    def is_local(self) -> bool:
        """Whether it is a folder."""
        return Path(self.name).is_dir()

    @property
    def base_name(self) -> str | None:
        """What an adapter names as its base, which may have been a folder of another machine; None where it names none."""
        named = (self.adapter or {}).get("base_model_name_or_path")
        return named if isinstance(named, str) and named else None

    def file(self, name: str) -> Path | None:
        """One of its files in its folder or, of a name on the Hub, in the cache; None if it is not there."""
        if self.is_local:
            path = Path(self.name) / name
            return path if path.is_file() else None
        try:
            cached = try_to_load_from_cache(self.name, name, revision=self.revision)
        except HFValidationError:  # a folder of another machine
            return None
        return Path(cached) if isinstance(cached, str) else None

    @functools.cached_property
    def config(self) -> PreTrainedConfig | None:
        """The TanhMax config, of the base for an adapter; None where an adapter's base is not on this machine.

        Raises:
            CheckpointError: a whole model that is not there, or one that is no TanhMax model.
        """
        if self.adapter is not None and (self.base is None or self.base.file(CONFIG) is None):
            return None
        return read_config(self._config_file)

    @property
    def settings(self) -> TanhMaxSettings | None:
        """The TanhMax settings in its config; None where there is no config."""
        return None if self.config is None else self.config.tanhmax_settings

    @property
    def family(self) -> str | None:
        """The model type of Transformers, such as `bert`; None where there is no config."""
        return None if self.config is None else str(self.config.model_type).removeprefix("tanhmax_")

    @property
    def auto_class(self) -> str | None:
        """The name of the Auto class that loads it, or loads an adapter's base, which PEFT's task says where there is no config.

        None of a class that no Auto class loads.

        Raises:
            CheckpointError: as `config` and `model_class`.
        """
        return PEFT_TASKS.get(str((self.adapter or {}).get("task_type")), "AutoModel") if self._head is None else self._head[0]

    @property
    def model_class(self) -> type[PreTrainedModel] | None:
        """The TanhMax class that the config names as its own; None where there is no config.

        Raises:
            CheckpointError: the config names no class of its family, or several.
        """
        return None if self._head is None else self._head[1]

    @property
    def pipeline(self) -> str | None:
        """The task of its head, as the Hub calls it; None where no pipeline uses it."""
        if self.auto_class == "AutoModel" and self.modality == "image":
            return "image-feature-extraction"
        return None if self.auto_class is None else PIPELINES.get(self.auto_class)

    @property
    def labels(self) -> list[str]:
        """The names of the classes, if the model classifies and they have names of their own."""
        names = [] if self.config is None else list((self.config.id2label or {}).values())
        own = [str(name) for number, name in enumerate(names) if name != f"LABEL_{number}"]
        return own if (self.pipeline or "").endswith("classification") else []

    @property
    def modality(self) -> str:
        """What its main input holds: `"text"`, `"image"`, `"audio"` or `"video"`; of an adapter without its base, as its files tell."""
        if self.model_class is not None:
            return modality(self.model_class)
        return "image" if any(map(self.file, KINDS["image"].files)) else "text"

    @property
    def modalities(self) -> tuple[str, ...]:
        """All that it reads or writes."""
        return (self.modality,) if self.model_class is None else modalities(self.model_class)

    @property
    def processor_class(self) -> str | None:
        """The name of the Auto class of what makes its inputs, if that is in its folder; None where there is none."""
        return auto_processor(self.file, self.modalities, self.modality)

    def processor(self, kind: str, *, place: Mapping[str, object] | None = None) -> Processor:
        """Its tokenizer, image processor, feature extractor or video processor; that of an adapter lies beside the adapter.

        Args:
            kind: what it reads: `"text"`, `"image"`, `"audio"` or `"video"`.
            place: arguments of `from_pretrained` that say where it is, such as `subfolder`, `token` and `cache_dir`.

        Raises:
            OSError, ValueError, ImportError: it has none that can be loaded here.
        """
        return getattr(transformers, KINDS[kind].auto_class).from_pretrained(self.name, **self._place, **(place or {}))

    def processors(self, wanted: tuple[str, ...]) -> tuple[list[Processor], dict[str, str]]:
        """All that make inputs of some kinds, as `load_processors` returns them."""
        return load_processors(self.name, wanted, self._place)

    def built(self) -> PreTrainedModel | None:
        """The model without weights, on the meta device; None where there is no config.

        Raises:
            CheckpointError: its config describes no model that can be built.
        """
        return None if self._head is None else build(self._head[1], self.config, self._config_file)

    def load(self, auto_class: type | None = None, **options: object) -> PreTrainedModel:
        """The model with its weights, from safetensors; an adapter as PEFT puts it on its base, not merged.

        Args:
            auto_class: loads the model, or the base; None is the class that the config names, of any architecture of Transformers.
            options: passed to its `from_pretrained`.

        Raises:
            ValueError: the config names a class that is not known, or an adapter names no base.
            OSError: there is no such checkpoint.
            ImportError: an adapter without PEFT.
        """
        if self.adapter is None:
            loader: Any = auto_class or _named_class(AutoConfig.from_pretrained(self.name, **self._place))
            return loader.from_pretrained(self.name, use_safetensors=True, **self._place, **options)
        try:
            import peft
        except ImportError as error:
            raise ImportError(f"{self.name} is an adapter, which needs PEFT: pip install hf-tanhmax[recipes]") from error
        if self.base is None:
            raise CheckpointError(Path(self.name) / ADAPTER_CONFIG, "names no base model (base_model_name_or_path)")
        return peft.PeftModel.from_pretrained(self.base.load(auto_class, **options), self.name)  # type: ignore[return-value]

    @property
    def _place(self) -> dict[str, str]:
        return {"revision": self.revision} if self.revision else {}

    @property
    def _config_file(self) -> Path:
        model = self.base or self
        return model.file(CONFIG) or Path(model.name) / CONFIG

    @functools.cached_property
    def _head(self) -> tuple[str | None, type[PreTrainedModel]] | None:
        return None if self.config is None else class_of(self.config, self._config_file)


def read_checkpoint(name: str | os.PathLike[str], *, revision: str | None = None) -> Checkpoint:
    """A folder or a name on the Hub as a checkpoint; of an adapter, which only a folder is taken for, the base is found too.

    Args:
        name: the folder or the name; what is in it need not be whole, or a checkpoint at all.
        revision: of a name on the Hub, or of the base of an adapter, instead of the one that the adapter names.

    Raises:
        CheckpointError: an adapter_config.json that holds no JSON object.
    """
    folder = Path(name)
    if not (folder / ADAPTER_CONFIG).is_file():
        return Checkpoint(os.fspath(name), revision)
    adapter = read_json(folder / ADAPTER_CONFIG)
    found = Checkpoint(os.fspath(name), None, adapter)
    places = (folder / BASE, *([Path(found.base_name)] if found.base_name else []))
    place = next((path for path in places if (path / CONFIG).is_file()), None)
    if place is not None:
        return replace(found, base=Checkpoint(str(place)))
    return replace(found, base=Checkpoint(found.base_name, revision or adapter.get("revision"))) if found.base_name else found


def read_json(path: Path) -> JsonObject:
    """The object in a JSON file that is there.

    Raises:
        CheckpointError: something else is in it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(path, "is not JSON") from error
    if not isinstance(found, dict):
        raise CheckpointError(path, "holds no JSON object")
    return found


def read_object(path: Path) -> JsonObject | None:
    """The object in a JSON file; None where there is no such file or something else in it."""
    try:
        return read_json(path)
    except (OSError, CheckpointError):
        return None


def read_config(path: Path) -> PreTrainedConfig:
    """The TanhMax config in a `config.json`.

    Raises:
        CheckpointError: there is none.
    """
    values = read_object(path)
    if values is None:
        reason = "is not a JSON object" if path.is_file() else "is not there; name the folder that a model was saved to"
        raise CheckpointError(path, reason)
    kind = values.get("model_type")
    upstream = upstream_type(kind)
    if upstream is None and str(kind).startswith(PREFIX):
        raise CheckpointError(path, f"is of model type {kind!r}, {unknown_type(values)}")
    if upstream is None:
        kernel = kernel_of(values)
        reason = f"is of model type {kind!r}, which is no TanhMax model (such as tanhmax_bert); `hf-tanhmax convert` makes one of it"
        raise CheckpointError(path, reason if kernel is None else f"is of model type {kind!r} and {forgotten(kernel)}")
    config_class: type[PreTrainedConfig] = config_of(upstream)
    try:
        return config_class.from_dict(values)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise CheckpointError(path, f"holds a value that cannot be: {one_line(error)}") from error


def unknown_type(config: Mapping[str, Any]) -> str:
    """What to say of a model type that the installed Transformers does not know, as the rest of a sentence that names it."""
    newer = written_by_newer(config)
    hint = f"Transformers {newer} wrote it: upgrade Transformers" if newer else nearest_type(str(config.get("model_type")))
    return f"which Transformers {transformers.__version__} does not know; {hint}"


def written_by_newer(config: Mapping[str, Any]) -> str | None:
    """The release of Transformers that wrote a config, if it is newer than the installed one."""
    try:
        written = Version(str(config.get("transformers_version")))
    except InvalidVersion:
        return None
    return str(written) if written > Version(transformers.__version__) else None


def class_of(config: PreTrainedConfig, path: Path) -> tuple[str | None, type[PreTrainedModel]]:
    """The name of the Auto class, if there is one, and the class that a TanhMax config names as its own.

    Args:
        config: as `read_config` returns it.
        path: of the file that it was read from.

    Raises:
        CheckpointError: it names none of its family, or several.
    """
    try:
        model_class = _named_class(config)
    except ValueError as error:
        named = config.architectures or []
        raise CheckpointError(path, f"does not name one class of its family (architectures: {named}); save the model again") from error
    return auto_class_of(model_class), model_class


def auto_class_of(model_class: type[PreTrainedModel]) -> str | None:
    """The name of the Auto class that loads a TanhMax class, the one that a pipeline uses if there is one; None where none does."""
    upstream: Any = model_class.__mro__[1]
    found = [auto for auto, classes in upstream_heads(upstream.config_class) if upstream in classes]
    return min(
        found, key=lambda auto: (auto not in PIPELINES, auto == "AutoModelForPreTraining", [*PIPELINES, *found].index(auto)), default=None
    )


def build(model_class: type[PreTrainedModel], config: PreTrainedConfig | None, path: Path) -> PreTrainedModel:
    """A model without weights, on the meta device.

    Args:
        model_class: of the model.
        config: of the model.
        path: of the file that the config was read from.

    Raises:
        CheckpointError: the config describes no model that can be built.
    """
    made: Any = model_class
    try:
        with torch.device("meta"):
            return made(config)
    except (ValueError, TypeError, ArithmeticError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(path, f"describes a model that cannot be built: {one_line(error)}") from error


def _named_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The one class that a config of a TanhMax or a softmax model names."""
    names, found = config.architectures or [], None
    if len(names) == 1:
        try:
            found = class_named(names[0]) if isinstance(config, TanhMaxFields) else getattr(transformers, names[0], None)
        except AttributeError:
            found = None
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel) and isinstance(config, found.config_class)):  # type: ignore[arg-type]
        raise ValueError(
            f"its config names {names or 'no class'}, which is not one class of {config.model_type!r} in Transformers "
            f"{transformers.__version__}; save the model again with that release"
        )
    return found


def length_limit(model: PreTrainedModel, tokenizer: Tokenizer | None = None) -> int | None:
    """How many tokens a model reads, special ones included; None where neither config nor tokenizer says.

    Models such as RoBERTa count positions from behind the padding token's, so they read fewer tokens than they have positions.
    """
    positions = getattr(text_config(model), "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "num_embeddings", None) == positions:
            positions -= 0 if module.padding_idx is None else module.padding_idx + 1  # type: ignore[operator]
            break
    limits = [positions, getattr(tokenizer, "model_max_length", None)]
    return min((limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**9), default=None)


def text_config(model: PreTrainedModel) -> Any:
    """The config of the part of a model that reads text, such as the language model of LLaVA; of a model that is one part, its own."""
    try:
        return model.config.get_text_config()
    except ValueError:  # there are several such parts
        return model.config
