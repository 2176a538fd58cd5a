"""What each kind of recipe adds to a run: its rows, its model's sizes, its batches and its metrics."""

from importlib import import_module

from ..configuration.schema import Config
from .task import Task

MODULES = {
    "bert/text_classification": ("text_classification", "TextClassification"),
    "bert/masked_lm": ("masked_lm", "MaskedLM"),
    "vit/image_classification": ("image_classification", "ImageClassification"),
    "llama/causal_lm": ("causal_lm", "CausalLM"),
    "llama/sft": ("sft", "SFT"),
}


def task_for(config: Config) -> Task:
    """The task of a recipe."""
    module, name = MODULES[config.task]
    return getattr(import_module(f".{module}", __name__), name)(config)
