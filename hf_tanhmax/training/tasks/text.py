"""What the tasks on text share: texts as rows, the positions of a checkpoint, and the sizes of small models."""

from typing import Any

from datasets import Dataset

from ...errors import RecipeError
from ..data.rows import Splits, assembled, check_columns, check_texts, raw_splits
from ..data.synthetic import synthetic_splits

ROOM = 8  # positions a model from scratch has beyond max_length, so that its size does not hang on the last token


def text_splits(config: Any) -> Splits:
    """Rows with one column, `text`, for the tasks that learn from text alone.

    Raises:
        RecipeError: a split without text.
    """

    def embedded() -> dict[str, Dataset]:
        made = synthetic_splits(config.synthetic_documents, config.synthetic_vocabulary, config.synthetic_polar)
        return {split: Dataset.from_dict({config.text_column: rows["text"]}) for split, rows in made.items()}

    tables = {}
    for split, rows in raw_splits(config, embedded).items():
        check_columns(split, rows, config, ("text_column",))
        check_texts(split, rows, config, "text_column")
        texts = [text for text in rows[config.text_column] if text.strip()]
        if not texts:
            raise RecipeError(f"the {split} data has no text: every row of {config.text_column!r} is blank")
        tables[split] = Dataset.from_dict({"text": texts})
    if len(tables["train"]) == 1 and "validation" not in tables:
        tables |= _halves(tables["train"][0]["text"], config.validation_share)
    return assembled(config, tables)


def _halves(text: str, validation_share: float) -> dict[str, Dataset]:
    """One document as two: its last part, from the beginning of a line, is for validation."""
    cut = text.rfind("\n", 0, round(len(text) * (1 - validation_share))) + 1
    parts = {"train": text[:cut], "validation": text[cut:]}
    if not all(part.strip() for part in parts.values()):
        raise RecipeError("the train data is one short document, which cannot be divided into train and validation; give a validation_file")
    return {split: Dataset.from_dict({"text": [part]}) for split, part in parts.items()}


def check_positions(config: Any, name: str, found: Any) -> None:
    """Refuse rows that are longer than the positions of a checkpoint.

    Raises:
        RecipeError: with both lengths.
    """
    positions = getattr(found, "max_position_embeddings", None)
    if isinstance(positions, int) and config.max_length > positions:
        raise RecipeError(f"max_length is {config.max_length}, but {name} has positions for {positions} tokens")


def encoder_sizes(config: Any, tokenizer: Any) -> dict[str, Any]:
    """Of a small BERT."""
    dropout = 0.1 if config.dropout is None else config.dropout
    return _sizes(config, tokenizer) | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}


def decoder_sizes(config: Any, tokenizer: Any) -> dict[str, Any]:
    """Of a small LLaMA."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return _sizes(config, tokenizer) | ids | {"num_key_value_heads": config.num_heads, "attention_dropout": config.dropout or 0.0}


def _sizes(config: Any, tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_heads,
        "intermediate_size": 4 * config.hidden_size,
        "max_position_embeddings": config.max_length + ROOM,
        "pad_token_id": tokenizer.pad_token_id,
    }
