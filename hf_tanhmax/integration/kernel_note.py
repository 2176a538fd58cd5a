"""A stock model whose attention is TanhMax by a kernel of the Hub, as whoever has this package sees it: by the note in its config.

The kernel writes the note at its first call (`hub_kernel`), since `save_pretrained` forgets it.
"""

import functools
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import AttentionInterface, PreTrainedConfig

from ..settings import TanhMaxSettings
from .hub_kernel import KERNEL_NOTE, KERNEL_SETTINGS

# What a kernel registers says by its module who made it: the id in its metadata.
KERNEL_ID = "_tanhmax_"


def kernel_of(values: Mapping[str, object]) -> str | None:
    """The kernel that a config, or that of a part of the model, names as a dictionary; None if there is none."""
    found = values.get(KERNEL_NOTE)
    if isinstance(found, str):
        return found
    return next((name for part in values.values() if isinstance(part, Mapping) and (name := kernel_of(part)) is not None), None)


def forgotten(name: str) -> str:
    """What became of a model that was saved with a note, as the rest of a sentence about it."""
    return (
        f"was saved from a model that computed TanhMax by the kernel {name} ({KERNEL_NOTE}), which no checkpoint remembers, so it loads as "
        f'softmax: give attn_implementation="{name}" again, or make a TanhMax checkpoint of it with `hf-tanhmax convert`'
    )


def without_kernel(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config as a dictionary, without the note and the settings of a kernel in the configs of parts."""
    return {
        key: {name: each for name, each in without_kernel(value).items() if name not in (KERNEL_NOTE, *KERNEL_SETTINGS)}
        if isinstance(value, Mapping)
        else value
        for key, value in values.items()
    }


def is_own_kernel(name: str | None) -> bool:
    """Whether an attention implementation is a kernel of this package that was loaded."""
    known: Any = AttentionInterface()
    return name is not None and "/" in name and name in known.valid_keys() and known[name].__module__.startswith(KERNEL_ID)


def compare_with_kernel(config: PreTrainedConfig, asked: TanhMaxSettings) -> None:
    """Say so where a model is converted to other settings than those that its kernel computed."""
    values = config.to_dict()
    name = kernel_of(values)
    if name is None:
        return
    holder = next(part for part in (values, *(each for each in values.values() if isinstance(each, Mapping))) if KERNEL_NOTE in part)
    said = {key.removeprefix("tanhmax_"): holder[key] for key in KERNEL_SETTINGS[:3] if holder.get(key) is not None}
    computed = TanhMaxSettings(**said)
    if computed != replace(asked, layers=None, softmax_parts=None, score_bias=computed.score_bias):
        _say_other_settings(name, computed.describe(), asked.describe())


@functools.cache
def _say_other_settings(name: str, computed: str, asked: str) -> None:
    logging.getLogger(__name__).warning("the kernel %s computed %s, and this model is converted to %s", name, computed, asked)
