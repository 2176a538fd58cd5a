"""What a saved checkpoint says it is: its config, its class, and the task that class is for. Nothing but JSON is read."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from .choices import PIPELINES
from .models.auto import FAMILIES

CONFIG, ADAPTER_CONFIG, RESULTS = "config.json", "adapter_config.json", "results.json"
BASE = "base"  # the folder inside an adapter's that holds its base model


def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file or something else in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_config(path: Path) -> Any:
    """The TanhMax config in a `config.json`.

    Raises:
        ValueError: there is none; the message goes on from the name of the file.
    """
    values = read_object(path)
    if values is None:
        raise ValueError("is not a JSON object" if path.is_file() else "is not there; name the folder that a model was saved to")
    kinds: dict[str, Any] = {config.model_type: config for config in FAMILIES}
    kind = values.get("model_type")
    if kind not in kinds:
        raise ValueError(f"is of model type {kind!r}, which is no TanhMax model ({', '.join(kinds)}); `hf-tanhmax convert` makes one of it")
    try:
        return kinds[kind].from_dict(values)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"holds a value that cannot be: {' '.join(str(error).split())}") from error


def class_of(config: Any) -> tuple[str, type[PreTrainedModel]]:
    """The Auto class and the class that a config names as its own.

    Raises:
        ValueError: it names none of its family, or several; the message goes on from the name of the file.
    """
    named = config.architectures or []
    for auto, cls in FAMILIES[type(config)].items():
        if named == [cls.__name__]:
            return auto, cls
    raise ValueError(f"does not name one class of its family (architectures: {named}); save the model again")


def pipeline_of(auto_class: str, model_type: str) -> str | None:
    """The task of a head, as the Hub calls it."""
    if auto_class == "AutoModel" and model_type == "tanhmax_vit":
        return "image-feature-extraction"
    return PIPELINES.get(auto_class)
