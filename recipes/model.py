"""The model of a run: from scratch, from a softmax checkpoint or from a TanhMax one, with the attention that the recipe says."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertConfig, PreTrainedModel, PreTrainedTokenizerBase

import hf_tanhmax
from hf_tanhmax.models.family import TanhMaxFields

from .config import Config
from .data import Splits
from .errors import RecipeError
from .tokenizer import build_tokenizer

ROOM = 8  # positions a model from scratch has beyond max_length, so that its size does not hang on the last token


def tanhmax_settings(config: Config) -> hf_tanhmax.TanhMaxSettings | None:
    """What the recipe asks of TanhMax when training begins; None for softmax.

    Raises:
        RecipeError: layers or heads that are not lists of different indices.
    """
    if config.attention == "softmax":
        return None
    polarity = config.polarity if config.polarity_schedule is None else config.polarity_start
    try:
        return hf_tanhmax.TanhMaxSettings(polarity=polarity, layers=config.layers, heads=config.heads, score_bias=config.score_bias)
    except (TypeError, ValueError) as error:
        raise RecipeError(str(error)) from error


def checkpoint_config(config: Config) -> Any:
    """The config of the checkpoint to start from, checked against the recipe; None from scratch.

    Raises:
        RecipeError: no such checkpoint, or a TanhMax checkpoint for a softmax recipe or with settings of another kind.
    """
    settings, name = tanhmax_settings(config), config.model_name_or_path
    if name is None:
        return None
    if (name.startswith(("/", ".", "~")) or name.count("/") > 1) and not Path(name).is_dir():
        raise RecipeError(f"model_name_or_path: there is no folder {name}")
    try:
        found = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise RecipeError(f"model_name_or_path: cannot read the config of {name!r}: {' '.join(str(error).split())[:300]}") from error
    positions = getattr(found, "max_position_embeddings", None)
    if isinstance(positions, int) and config.max_length > positions:
        raise RecipeError(f"max_length is {config.max_length}, but {name} has positions for {positions} tokens")
    if isinstance(found, TanhMaxFields):
        _check_tanhmax_checkpoint(name, found.tanhmax_settings, settings)
    return found


def load_tokenizer(config: Config, splits: Splits) -> PreTrainedTokenizerBase:
    """The tokenizer of the checkpoint, or one built from the training texts.

    Raises:
        RecipeError: a checkpoint without a tokenizer or without a padding token.
    """
    if config.model_name_or_path is None:
        texts = [*splits.train["text"], *(splits.train["text_pair"] if config.text_pair_column else [])]
        return build_tokenizer(texts, vocabulary_size=config.vocabulary_size, max_length=config.max_length)
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model_name_or_path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{config.model_name_or_path!r} has no tokenizer: {' '.join(str(error).split())[:300]}") from error
    if tokenizer.pad_token is None:
        raise RecipeError(f"the tokenizer of {config.model_name_or_path!r} has no padding token, which batches need")
    return tokenizer


def build_model(config: Config, checkpoint: Any, names: list[str], tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model, in float32, with one output per class.

    Raises:
        RecipeError: a checkpoint that cannot be loaded, or that TanhMax does not know.
    """
    settings = tanhmax_settings(config)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    if checkpoint is None:
        model = _from_scratch(config, settings, labels, tokenizer)
    else:
        try:
            model = _from_checkpoint(config, settings, checkpoint, labels)
        except (OSError, ValueError, RuntimeError) as error:
            raise RecipeError(f"cannot start from {config.model_name_or_path!r}: {' '.join(str(error).split())[:400]}") from error
    if isinstance(model.config, TanhMaxFields) != (settings is not None):
        raise RuntimeError(f"attention: {config.attention} was asked for, but the model is {type(model).__name__}")
    return model


def _from_scratch(config: Config, settings: Any, labels: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    dropout = 0.1 if config.dropout is None else config.dropout
    sizes = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_heads,
        "intermediate_size": 4 * config.hidden_size,
        "max_position_embeddings": config.max_length + ROOM,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        if settings is None:
            return AutoModelForSequenceClassification.from_config(BertConfig(**sizes, **labels))
        fields = {f"tanhmax_{name}": getattr(settings, name) for name in ("polarity", "layers", "heads", "score_bias")}
        return AutoModelForSequenceClassification.from_config(hf_tanhmax.TanhMaxBertConfig(**sizes, **labels, **fields))
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _from_checkpoint(config: Config, settings: Any, checkpoint: Any, labels: dict[str, Any]) -> PreTrainedModel:
    name, arguments = str(config.model_name_or_path), {"dtype": torch.float32, **labels}
    if config.dropout is not None:
        arguments |= {"hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.dropout}
    if settings is None:
        return AutoModelForSequenceClassification.from_pretrained(name, **arguments)
    if not isinstance(checkpoint, TanhMaxFields):
        chosen = {key: getattr(settings, key) for key in ("polarity", "layers", "heads", "score_bias")}
        return hf_tanhmax.convert(name, AutoModelForSequenceClassification, **chosen, **arguments)
    model = AutoModelForSequenceClassification.from_pretrained(name, **arguments)
    if not settings.learned:
        hf_tanhmax.set_polarity(model, settings.polarity)
    return model


def _check_tanhmax_checkpoint(name: str, have: hf_tanhmax.TanhMaxSettings, want: hf_tanhmax.TanhMaxSettings | None) -> None:
    if want is None:
        raise RecipeError(
            f"{name} is a TanhMax checkpoint, but the recipe says attention: softmax; start from a softmax checkpoint, or make one with "
            "hf_tanhmax.to_softmax"
        )
    if have.learned != want.learned:
        kinds = {True: "learned", False: "a number"}
        raise RecipeError(f"the polarity of {name} is {kinds[have.learned]}, but that of the recipe is {kinds[want.learned]}")
    for key in ("layers", "heads"):
        if getattr(have, key) != getattr(want, key):
            raise RecipeError(f"{key} of {name} are {getattr(have, key)}, but those of the recipe are {getattr(want, key)}")
