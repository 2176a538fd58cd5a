"""Models from scratch with equal numbers of parameters, whichever map they compute."""

from dataclasses import replace
from typing import Any

from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from .maps.registry import MAPS, parameters_of
from .plan import CAUSAL, IMAGES, MASKED, Size, Task

PROJECTIONS = {CAUSAL: 3}  # of an MLP; others have two, whose inner one has a bias


def build(task: Task, map_name: str, words: int, classes: int, *, dropout: float, seed: int) -> PreTrainedModel:
    """A model with random weights.

    Args:
        task: says which kind and how large.
        map_name: of `MAPS`.
        words: in the vocabulary; of images, channels.
        classes: of a classifier.
        dropout: of hidden states, where the kind of model has it.
        seed: of the weights.

    Raises:
        ValueError: the numbers of parameters cannot be made equal.
    """

    def _made(size: Size) -> PreTrainedModel:
        set_seed(seed)
        model = _softmax_model(task, size, words, classes, dropout)
        chosen.install(model)
        return model

    chosen, wanted = MAPS[map_name], task.model
    target = parameters_of(_softmax_model(task, wanted, words, classes, dropout))
    model = _made(wanted)
    unit = PROJECTIONS.get(task.kind, 2) * wanted.width + (task.kind != CAUSAL)
    extra = parameters_of(model) - target
    if extra:
        narrower = round(extra / (unit * wanted.layers))
        if narrower >= wanted.mlp:
            raise ValueError(f"{chosen.title} needs {extra:,} parameters more than softmax, which MLPs of {wanted.mlp} units cannot give")
        model = _made(replace(wanted, mlp=wanted.mlp - narrower))
    left = parameters_of(model) - target
    if abs(left) >= unit * wanted.layers:
        raise ValueError(f"{chosen.title} has {left:+,} parameters beside softmax's {target:,}: its MLPs cannot make up for them")
    return model


def _softmax_model(task: Task, size: Size, words: int, classes: int, dropout: float) -> PreTrainedModel:
    values: dict[str, Any] = {
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.mlp,
    }
    if task.kind == CAUSAL:
        special = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": True}
        return LlamaForCausalLM(LlamaConfig(vocab_size=words, max_position_embeddings=task.length, **special, **values))
    values |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": 0.0}
    if task.kind == IMAGES:
        sides = {"image_size": task.image_size, "patch_size": task.patch_size, "num_channels": words, "num_labels": classes}
        return ViTForImageClassification(ViTConfig(**sides, **values))
    config = BertConfig(vocab_size=words, max_position_embeddings=task.length, num_labels=classes, pad_token_id=0, **values)
    return BertForMaskedLM(config) if task.kind == MASKED else BertForSequenceClassification(config)
