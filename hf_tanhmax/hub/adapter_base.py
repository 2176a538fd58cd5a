"""The model that a PEFT adapter was trained on: where it is, whether it is a TanhMax model, and the two merged into one."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel

from ..checkpoint import ADAPTER_CONFIG, BASE, CONFIG, class_of
from ..models.auto import FAMILIES
from .documents import CARD
from .errors import HubError, in_a_sentence
from .staging import BESIDE, PROCESSOR, copy, read_json


@dataclass(frozen=True)
class Base:
    """The base of an adapter: a folder or a repository, and the revision of a repository."""

    name: str
    revision: str | None
    is_local: bool


def base_of(folder: Path, api: HfApi) -> Base:
    """The base that an adapter names: the folder `base` in it, another folder, or a repository.

    Args:
        folder: the adapter.
        api: asked for the config of a base on the Hub.

    Raises:
        HubError: it is nowhere, or a softmax model.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    name = config.get("base_model_name_or_path")
    place = next((path for path in (folder / BASE, Path(str(name))) if (path / CONFIG).is_file()), None)
    if place is not None:
        found = Base(str(place), None, is_local=True)
        _refuse_softmax(folder, found, read_json(place / CONFIG))
        return found
    if not name or Path(name).is_absolute() or name.count("/") > 1:
        raise HubError(f"the base model of {folder} is not at {name}: save it with save_pretrained in {folder / BASE}")
    found = Base(name, config.get("revision"), is_local=False)
    with in_a_sentence(name):
        try:
            path = api.hf_hub_download(name, CONFIG, revision=found.revision)
        except RemoteEntryNotFoundError as error:
            raise HubError(f"the base of {folder}, {name}, holds no model (no {CONFIG}): name the one that it was trained on") from error
    _refuse_softmax(folder, found, read_json(Path(path)))
    return found


def save_merged(folder: Path, base: Base, into: Path, *, token: str) -> None:
    """Save the base with the adapter's changes in its weights, and what the adapter has beside it except its card.

    Raises:
        HubError: PEFT is missing, or the adapter does not fit its base.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise HubError("merging an adapter needs PEFT: pip install peft") from error
    model = _load(base, token)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        try:
            adapted: Any = PeftModel.from_pretrained(model, str(folder))
        except (UserWarning, RuntimeError, ValueError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise HubError(f"the adapter in {folder} does not fit {base.name} ({reason}): name the base that it was trained on") from error
    if not hasattr(adapted, "merge_and_unload"):
        kind = read_json(folder / ADAPTER_CONFIG).get("peft_type")
        raise HubError(f"{folder} is of type {kind}, which cannot be merged into weights: leave `merge` off")
    adapted.merge_and_unload().save_pretrained(into)
    copy(folder, into, set(PROCESSOR) | (set(BESIDE) - {CARD}))


def _load(base: Base, token: str) -> PreTrainedModel:
    """The base, from safetensors only."""
    place: dict[str, Any] = {"revision": base.revision, "token": None if base.is_local else token}
    config = AutoConfig.from_pretrained(base.name, **place)
    try:
        _, cls = class_of(config)
        return cls.from_pretrained(base.name, config=config, use_safetensors=True, **place)
    except (OSError, ValueError) as error:
        raise HubError(f"cannot load the base {base.name}: {str(error).splitlines()[0]}") from error


def _refuse_softmax(folder: Path, base: Base, config: dict[str, Any]) -> None:
    kind = config.get("model_type")
    if kind not in {family.model_type for family in FAMILIES}:
        raise HubError(
            f"the base of {folder}, {base.name}, is no TanhMax model (model type {kind!r}), so the adapter would be loaded on softmax: "
            f"save the model that it was trained on in {folder / BASE}"
        )
