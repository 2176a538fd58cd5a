"""What makes the inputs of a model: the tokenizer, image processor, feature extractor or video processor beside it, or all joined.

Which of them a model needs is read off its class: the arguments of its forward pass, and whether it writes text.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import transformers
from transformers import PreTrainedModel, ProcessorMixin
from transformers import PreTrainedTokenizerBase as Tokenizer

from .errors import one_line

Processor: TypeAlias = Any  # a tokenizer, or one of several classes that share no base

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt")
JOINT_FILE, PREPROCESSOR_FILE, VIDEO_FILE = "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"
JOINT = "AutoProcessor"
REFUSALS = (
    AttributeError,
    ImportError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
)  # of processors that are not there, or not to be had here


class Kind(NamedTuple):
    """One kind of processor: its name in a sentence, the Auto class that finds it, and the files of which one is there where it is."""

    noun: str
    auto_class: str
    files: tuple[str, ...]


KINDS = {
    "text": Kind("tokenizer", "AutoTokenizer", TOKENIZER_FILES),
    "image": Kind("image processor", "AutoImageProcessor", (PREPROCESSOR_FILE, JOINT_FILE)),
    "audio": Kind("feature extractor", "AutoFeatureExtractor", (PREPROCESSOR_FILE, JOINT_FILE)),
    "video": Kind("video processor", "AutoVideoProcessor", (VIDEO_FILE, PREPROCESSOR_FILE, JOINT_FILE)),
}
# What an argument of a forward pass holds.
ARGUMENTS = {
    "input_ids": "text",
    "pixel_values": "image",
    "input_features": "audio",
    "input_values": "audio",
    "pixel_values_videos": "video",
}


def modality(model: PreTrainedModel | type[PreTrainedModel]) -> str:
    """What a model's main input holds: `"text"`, `"image"`, `"audio"` or `"video"`; one of another name counts as text."""
    declared = getattr(model, "input_modalities", None)
    return "video" if declared == "video" else ARGUMENTS.get(model.main_input_name, "text")


def modalities(model: PreTrainedModel | type[PreTrainedModel]) -> tuple[str, ...]:
    """All that a model reads or writes, in the order of `KINDS`, of which each kind has a processor."""
    cls: Any = model if isinstance(model, type) else type(model)
    main = modality(cls)
    read = {ARGUMENTS[name] for name in inspect.signature(cls.forward).parameters if name in ARGUMENTS and main != "video"}
    written = {"text"} if cls.can_generate() else set()
    return tuple(kind for kind in KINDS if kind in read | written | {main})


def auto_processor(has: Callable[[str], object], wanted: tuple[str, ...], main: str) -> str | None:
    """The name of the Auto class that loads what makes the inputs, the joint one where several kinds are wanted; None where there is none.

    Args:
        has: whether a file is there.
        wanted: as `modalities` returns it.
        main: as `modality` returns it.
    """
    if len(wanted) > 1 and has(JOINT_FILE):
        return JOINT
    kind = KINDS[main]
    files = (*kind.files, "tokenizer_config.json") if main == "text" else kind.files
    return kind.auto_class if any(map(has, files)) else None


def load_processors(name: str, wanted: tuple[str, ...], place: Mapping[str, Any]) -> tuple[list[Processor], dict[str, str]]:
    """The processors of a checkpoint: one that joins several kinds, or each kind by itself.

    Args:
        name: a folder, or a name on the Hub.
        wanted: as `modalities` returns it.
        place: arguments of `from_pretrained` that say where it is, such as `revision`.

    Returns:
        What was loaded; and for each kind that was not, why.
    """
    found: list[Processor] = []
    missing: dict[str, str] = {}
    if len(wanted) > 1:
        joint = _loaded(JOINT, name, place)
        if isinstance(joint, ProcessorMixin) and knows_words(getattr(joint, "tokenizer", None)):
            return [joint], {}
    for kind in wanted:
        loaded = _loaded(KINDS[kind].auto_class, name, place)
        if isinstance(loaded, str):
            missing[kind] = f"that of {name} cannot be loaded here: {loaded}"
        elif not knows_words(loaded):
            missing[kind] = f"{name} has none"
        else:
            found.append(loaded)
    return found, missing


def nouns(found: list[Processor]) -> str:
    """What loaded processors are, in words."""
    return " and ".join(dict.fromkeys(_noun(each) for each in found))


def knows_words(processor: Processor) -> bool:
    """False of a tokenizer that Transformers makes for BERT without its files, which knows special tokens alone."""
    return not isinstance(processor, Tokenizer) or len(processor) > len(processor.all_special_tokens)


def _loaded(auto_class: str, name: str, place: Mapping[str, Any]) -> Processor | str:
    try:
        return getattr(transformers, auto_class).from_pretrained(name, **place)
    except REFUSALS as error:
        return one_line(error, 400)


def _noun(processor: Processor) -> str:
    if isinstance(processor, ProcessorMixin):
        return "processor"
    if isinstance(processor, Tokenizer):
        return KINDS["text"].noun
    name = type(processor).__name__
    return KINDS["video" if "VideoProcessor" in name else "audio" if "FeatureExtractor" in name else "image"].noun
