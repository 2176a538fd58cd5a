"""Softmax checkpoints of many architectures as users have them, tiny and with their processors; their conversions; and the definition."""

import shutil
from pathlib import Path

import torch
import transformers
from families import NAIVE
from saved_models import TEXTS
from supported_models import ARCHITECTURES

import hf_tanhmax
from hf_tanhmax.training.data.tokenizer import build_causal_tokenizer, build_tokenizer

VALUES = {case.name: dict(case.values) for case in ARCHITECTURES}  # of their tiny configurations
WORDS = [*TEXTS, "the film is long", "a short film , and a good one", "user assistant and why not"]
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "chat_template.jinja", "*processor_config.json", "vocab.json")


def words(*, types: bool = False, length: int = 60):
    """An encoder's tokenizer, which tells token types where the model has them."""
    made = build_tokenizer(WORDS, vocabulary_size=40, max_length=length)
    if not types:
        made.model_input_names = ["input_ids", "attention_mask"]
    return made


def pieces(*, length: int = 60):
    """A decoder's tokenizer: bytes and a few pairs of them."""
    return build_causal_tokenizer(WORDS, vocabulary_size=40, max_length=length)


def save_softmax(folder, head: str, name: str, processor=None, **changes) -> str:
    """Write a softmax model of a class, of an architecture that `supported_models` names, and its processor; returns the folder.

    The vocabulary is as large as a tokenizer wants it, and at least what `Architecture.example` draws from.
    """
    cls = getattr(transformers, head)
    values = {**VALUES[name], **changes}
    if isinstance(processor, transformers.PreTrainedTokenizerBase):
        part = values["text_config"] = dict(values["text_config"]) if "text_config" in values else values
        part["vocab_size"] = max(len(processor), part["vocab_size"])
        values = values if part is not values else {key: value for key, value in values.items() if key != "text_config"}
    torch.manual_seed(0)
    cls(cls.config_class(**values)).save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return str(folder)


def save_converted(softmax: str, folder, auto=None, **settings) -> str:
    """Convert the checkpoint in a folder, and write the result into another, with the processor's files; returns that folder."""
    hf_tanhmax.convert(softmax, auto, **settings).save_pretrained(folder)
    copy_processor(softmax, folder)
    return str(folder)


def copy_processor(source: str, folder) -> None:
    for pattern in TOKENIZER_FILES:
        for path in Path(source).glob(pattern):
            shutil.copy(path, folder)


def by_definition(model, softmax: str):
    """The softmax class of a TanhMax model with its weights, whose attention is TanhMax from sinh and cosh alone.

    Args:
        model: of a TanhMax class, at polarity 1.
        softmax: the folder of the softmax checkpoint that it came from.
    """
    twin = type(model).__mro__[1].from_pretrained(softmax, attn_implementation=NAIVE)
    twin.load_state_dict(model.state_dict())
    return twin.eval()
