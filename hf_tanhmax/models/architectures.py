"""A TanhMax class for every architecture of Transformers that asks the attention interface, made when it is first asked for.

The TanhMax type of a model type is `tanhmax_<type>`. Its config class, and a class for each of its heads, are subclasses of the upstream
ones that add nothing but TanhMax. There are more than 800 types, and importing their modules takes half a minute, so `import hf_tanhmax`
makes none of them. It registers, for every type, a stand-in with `AutoConfig` (`registered`), which makes the config class when it is used;
and that is when the heads and processors of the type are registered. A class is also made by its name:
`hf_tanhmax.TanhMaxQwen3ForCausalLM`.

Whether an architecture can compute TanhMax shows when a model of it is made, since it depends on the config as well; `use_tanhmax` says
what is refused.
"""

import contextlib
import difflib
import functools
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING, IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS, TOKENIZER_MAPPING_NAMES

from ..settings import TYPE_PREFIX
from .family import HEADS, OTHER_HEADS, UPSTREAM_TYPES, TanhMaxFields, tanhmax_class

PREFIX, STEM = TYPE_PREFIX, "TanhMax"
MAKING = threading.RLock()  # a class is made once, whichever threads ask for it
MADE_HEADS: dict[tuple[type[PreTrainedModel], type[PreTrainedConfig]], Any] = {}

# For each kind of processor but image processors, the table of Transformers that has one for a config class. They are exported, and not
# documented; `register` of the Auto classes adds to them, but needs to know which argument takes which class.
PROCESSORS = ("TOKENIZER_MAPPING", "FEATURE_EXTRACTOR_MAPPING", "VIDEO_PROCESSOR_MAPPING", "PROCESSOR_MAPPING")


def upstream_type(model_type: object) -> str | None:
    """The model type of Transformers that a TanhMax type belongs to; None of any other word."""
    found = str(model_type).removeprefix(PREFIX)
    return found if found != model_type and found in CONFIG_MAPPING_NAMES else None


def nearest_type(model_type: str) -> str:
    """What to say of a word that is no model type: the one that is spelled most like it, or how to list them all."""
    close = difflib.get_close_matches(model_type.removeprefix(PREFIX), CONFIG_MAPPING_NAMES, 1)
    return f"is it {close[0]!r}?" if close else "transformers.CONFIG_MAPPING has those that the installed Transformers knows"


def config_of(model_type: str) -> Any:
    """The TanhMax config class of a model type of Transformers, with its heads and processors registered.

    Args:
        model_type: upstream's, such as `"qwen3"`.

    Raises:
        ValueError: no such type; the message has the one that is spelled most like it.
    """
    if model_type not in CONFIG_MAPPING_NAMES:
        raise ValueError(f"{model_type!r} is no model type of Transformers {transformers.__version__}: {nearest_type(model_type)}")
    with MAKING:
        return _made_config(model_type)


@functools.cache
def _made_config(model_type: str) -> Any:
    upstream: Any = CONFIG_MAPPING[model_type]
    if upstream.model_type != model_type:  # some types are other words for another
        return _made_config(upstream.model_type)
    contents = {
        "__module__": __name__,
        "__doc__": f"A `{upstream.__name__}` with the TanhMax settings; see `TanhMaxFields` and `TanhMaxSettings` for what they mean.",
        "model_type": PREFIX + model_type,
    }
    made: Any = strict(type(STEM + upstream.__name__, (TanhMaxFields, upstream), contents))
    UPSTREAM_TYPES[PREFIX + model_type] = model_type
    HEADS[made] = {}
    _share_conversion(PREFIX + model_type, model_type)
    for auto, classes in upstream_heads(upstream):
        heads = tuple(head_of(cls, made) for cls in classes)
        getattr(transformers, auto).register(made, heads[0] if len(heads) == 1 else heads, exist_ok=True)
        HEADS[made][auto] = heads[0]
        if len(heads) > 1:
            OTHER_HEADS.setdefault(made, {})[auto] = [head.__name__ for head in heads[1:]]
    _share_names(model_type)
    _share_processors(upstream, made)
    return made


def head_of(upstream: Any, config_class: type[PreTrainedConfig]) -> Any:
    """The TanhMax class of an upstream model class, the same at every call.

    Args:
        upstream: a class of Transformers.
        config_class: the TanhMax config of its type.
    """
    with MAKING:
        return _made_head(upstream, config_class)


def _made_head(upstream: Any, config_class: type[PreTrainedConfig]) -> Any:
    if (upstream, config_class) not in MADE_HEADS:
        contents = {"__module__": __name__, "__doc__": f"`{upstream.__name__}` with TanhMax attention."}
        made = type(STEM + upstream.__name__, (upstream,), contents)
        _share_conversion(made.__name__, upstream.__name__)
        MADE_HEADS[upstream, config_class] = tanhmax_class(config_class)(made)
    return MADE_HEADS[upstream, config_class]


def class_named(name: str) -> Any:
    """A TanhMax class by its name, such as `TanhMaxQwen3ForCausalLM` or `TanhMaxQwen3Config`.

    Raises:
        AttributeError: Transformers has no such model or config; the message has the name that is spelled most like it.
    """
    wanted = name.removeprefix(STEM)
    upstream: Any = (getattr(transformers, wanted, None) or _not_exported(wanted)) if wanted != name else None
    if isinstance(upstream, type) and issubclass(upstream, PreTrainedConfig) and upstream.model_type in CONFIG_MAPPING_NAMES:
        return config_of(upstream.model_type)
    if isinstance(upstream, type) and issubclass(upstream, PreTrainedModel) and isinstance(upstream.config_class, type):
        return head_of(upstream, config_of(upstream.config_class.model_type))
    if upstream is not None:
        raise AttributeError(f"there is no {name}, as {wanted} of Transformers is no model or config of an architecture")
    close = difflib.get_close_matches(wanted, dir(transformers), 1) if wanted != name else []
    hint = f", or is it {STEM}{close[0]}?" if close else ""
    lacking = f"Transformers {transformers.__version__} has no {wanted}"
    raise AttributeError(f"there is no {name}, as {lacking}; install a newer one that has it (pip install -U transformers){hint}")


@functools.cache
def _not_exported(name: str) -> Any:
    """A model class that Transformers has in a module of its models alone, such as a part that no Auto class knows; None if it has none."""
    if name.isidentifier():
        for path in sorted(Path(transformers.__file__).parent.glob("models/*/modeling_*.py")):
            if f"\nclass {name}(" in path.read_text(encoding="utf-8"):
                return getattr(importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}"), name)
    return None


def __getattr__(name: str) -> Any:
    """A class by its name, for a pickle, and for a config.json that names it in this file."""
    if name.startswith(STEM):
        return class_named(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _auto_classes() -> list[str]:
    """Names of the Auto classes of models; to list what Transformers has takes half a second."""
    return [name for name in dir(transformers) if name.startswith("AutoModel") or name == "AutoBackbone"]


def upstream_heads(config: type[PreTrainedConfig]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Each Auto class that has a head for a config class, and its classes that are made from it."""
    for auto, classes in mapped_heads(config):
        fitting = tuple(cls for cls in classes if getattr(cls, "config_class", None) is config)
        if fitting:
            yield auto, fitting


def mapped_heads(config: type[PreTrainedConfig]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Each Auto class that has a head for a config class, and its classes, which may be those of another type, such as LLaMA's.

    Which architectures an Auto class knows, it says nowhere but in `_model_mapping`.
    """
    for auto in _auto_classes():
        mapping = getattr(getattr(transformers, auto), "_model_mapping", None)
        if mapping is not None and config in mapping:
            found = mapping[config]
            yield auto, tuple(found) if isinstance(found, list | tuple) else (found,)


def _share_conversion(ours: str, upstream: str) -> None:
    """Let weights whose names in files differ from those of the modules load into a TanhMax class, and be saved from it.

    Transformers has this by class name or else by model type, so that without it such weights would be new. What it has by model type must
    not be shared by class name: the renaming would be done again in parts of the model that are of the same type.
    """
    conversion = get_checkpoint_conversion_mapping(upstream)
    if conversion is not None:
        register_checkpoint_conversion_mapping(ours, conversion, overwrite=True)


def _share_names(model_type: str) -> None:
    """Add a type to the tables of class names by model type, which libraries read instead of asking the Auto classes.

    lm-eval finds there whether a model is an encoder with a decoder, the pipeline for speech which models generate, and `AutoTokenizer` of
    which types the files name a wrong class of tokenizer.
    """
    if model_type in TOKENIZER_MAPPING_NAMES:
        TOKENIZER_MAPPING_NAMES[PREFIX + model_type] = TOKENIZER_MAPPING_NAMES[model_type]
    if model_type in MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS:
        MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.add(PREFIX + model_type)
    for name, table in vars(transformers.models.auto.modeling_auto).items():
        if name.startswith("MODEL_FOR_") and name.endswith("_MAPPING_NAMES") and model_type in table:
            heads = table[model_type]
            table[PREFIX + model_type] = STEM + heads if isinstance(heads, str) else tuple(STEM + head for head in heads)


def _share_processors(upstream: type[PreTrainedConfig], ours: type[PreTrainedConfig]) -> None:
    for name in PROCESSORS:
        mapping: Any = getattr(transformers, name)
        with contextlib.suppress(ImportError):  # of a library that a processor needs; upstream's cannot be had then either
            found = mapping.get(upstream, None)
            if found is not None and (not isinstance(found, dict) or all(found.values())):
                mapping.register(ours, found, exist_ok=True)
    # By their names, as looking up what needs torchvision logs a warning where it is not installed.
    names: Any = IMAGE_PROCESSOR_MAPPING_NAMES.get(upstream.model_type, {})
    usable = [backend for backend in names if backend != "torchvision" or importlib.util.find_spec("torchvision") is not None]
    images: Any = {backend: getattr(transformers, names[backend]) for backend in usable if names[backend]}
    if images:
        IMAGE_PROCESSOR_MAPPING.register(ours, images, exist_ok=True)  # `AutoImageProcessor` needs torchvision in some releases
