"""The config of a softmax checkpoint, and one sentence about each way in which it may be none that can be converted."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from ..checkpoint import unknown_type, written_by_newer
from ..errors import one_line
from ..models.architectures import mapped_heads, upstream_type
from ..models.family import TanhMaxFields

# The arguments of `from_pretrained` that say where a repository is, for its config as for its weights.
HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# Those that a config would take for its own.
FOR_WEIGHTS = ("dtype", "torch_dtype", "quantization_config")


def config_of_checkpoint(name: str, hub: dict[str, Any], kwargs: dict[str, Any]) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """The checkpoint's config with the fields that were passed for it, and the arguments that are left for its weights.

    Args:
        name: a folder or a name on the Hub.
        hub: where it is, of the arguments in `HUB`.
        kwargs: the other arguments of `from_pretrained`.

    Raises:
        ValueError: a model type that Transformers does not know, code that comes with the checkpoint, or values that a config refuses.
        OSError: there is no config.
    """
    passed = kwargs.get("config")
    kept = {key: kwargs[key] for key in FOR_WEIGHTS if key in kwargs}
    others = {key: value for key, value in kwargs.items() if key not in (*FOR_WEIGHTS, "config")}
    if isinstance(passed, PreTrainedConfig):
        return passed, {**others, **kept}
    written, _ = PreTrainedConfig.get_config_dict(passed or name, **hub, **{key: kwargs[key] for key in ("gguf_file",) if key in kwargs})
    _check_type(name, written, trusted=bool(kwargs.get("trust_remote_code")))
    with refusals_in_words(name, written):
        config, left = AutoConfig.from_pretrained(passed or name, return_unused_kwargs=True, **hub, **others)
    return config, {**{key: value for key, value in left.items() if key in others}, **kept}


def class_that_loads(name: str, asked: Any, config: PreTrainedConfig) -> Any:
    """An Auto class or a model class as it was asked for, but for an Auto class that has a class of another type for it, such as LLaMA's.

    Args:
        name: of the checkpoint.
        asked: the class.
        config: of the checkpoint.

    Raises:
        ValueError: a model class of another type, or one that reads files beside its weights.
    """
    mapped = dict(mapped_heads(type(config)))
    borrowed = {auto: classes[0] for auto, classes in mapped.items() if classes[0].config_class is not type(config)}
    found = borrowed.get(getattr(asked, "__name__", ""), asked)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        return found
    if found.config_class is not type(config) and found not in borrowed.values() and found.__module__.startswith("transformers."):
        raise ValueError(f"{name} is of model type {config.model_type!r}, but {found.__name__} is of another; pass an Auto class")
    own: Any = found.from_pretrained
    if (
        not issubclass(cast(type, found.config_class), TanhMaxFields)
        and own.__func__ is not vars(PreTrainedModel)["from_pretrained"].__func__
    ):
        raise ValueError(f"{found.__name__} reads files beside its weights, in a way of its own: load the softmax model, and convert that")
    return found


@contextmanager
def refusals_in_words(name: str, config: Mapping[str, Any]) -> Iterator[None]:
    """Say of a config that Transformers refuses whose it is, and whether a newer release wrote it."""
    try:
        yield
    except (KeyError, StrictDataclassError) as error:
        newer = written_by_newer(config)
        reason = f"Transformers {newer} wrote it, and {transformers.__version__} is installed: upgrade Transformers" if newer else "mend it"
        raise ValueError(f"{name} has a config that cannot be: {one_line(error)}; {reason}") from error


def refuse_tanhmax_parts(name: str, config: PreTrainedConfig) -> None:
    """Refuse a model with parts that are TanhMax already, which have settings of their own and would keep them.

    Raises:
        ValueError: there are.
    """
    for key, part in vars(config).items():
        if isinstance(part, TanhMaxFields):
            raise ValueError(
                f"the {key} of {name} is a TanhMax model already ({part.model_type}), with settings of its own: put the whole together "
                "from softmax models (hf_tanhmax.to_softmax), and convert that"
            )
        if isinstance(part, PreTrainedConfig):
            refuse_tanhmax_parts(name, part)


def of_other_code(name: str, kind: object) -> ValueError:
    """What to say of a checkpoint or a class whose code is not Transformers' own."""
    return ValueError(
        f"{name} is of model type {kind!r}, whose code is not Transformers' own, so no TanhMax class can be made that others load; "
        "hf_tanhmax.use_tanhmax patches the live model, if it asks Transformers' attention interface"
    )


def _check_type(name: str, config: Mapping[str, Any], *, trusted: bool) -> None:
    """Refuse a type that Transformers does not know, before it asks whether to run the code that comes with the checkpoint."""
    kind, brought = config.get("model_type"), config.get("auto_map")
    if kind is None or upstream_type(kind) is not None:
        return
    if brought and (trusted or kind not in CONFIG_MAPPING):
        raise of_other_code(name, kind)
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"{name} is of model type {kind!r}, {unknown_type(config)}")
