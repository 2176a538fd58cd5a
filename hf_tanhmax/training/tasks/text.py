"""What the tasks on text share: texts as rows, the positions of a checkpoint, the sizes of small models, and the prediction of tokens."""

from collections.abc import Callable
from typing import ClassVar

from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, EvalPrediction, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from ...errors import RecipeError
from ..configuration.schema import SyntheticTextConfig, TextConfig
from ..data.rows import Splits, assembled, check_columns, check_texts, raw_splits
from ..data.synthetic import synthetic_splits
from .losses import next_token_loss
from .metrics import reduced_tokens, row_losses, token_metrics
from .task import Fields, Logits, Task, first

ROOM = 8  # positions a model from scratch has beyond max_length, so that its size does not hang on the last token


class TokenPrediction(Task[PreTrainedTokenizerBase]):
    """Texts of which tokens are predicted."""

    config: TextConfig
    main_metric = "perplexity"
    higher_is_better = False

    def check_checkpoint(self, name: str, found: PreTrainedConfig) -> None:
        """Refuse rows that are longer than its positions."""
        check_positions(self.config, name, found)

    def reduce(self, logits: Logits, labels: Tensor) -> Tensor:
        """Loss and number of the predicted tokens of each row."""
        return reduced_tokens(first(logits), labels)

    def metrics(self, splits: Splits) -> Callable[[EvalPrediction], dict[str, float]]:
        """Perplexity and accuracy of the predicted tokens."""
        return token_metrics

    def outcomes(self, prediction: PredictionOutput) -> list[float]:
        """The cross entropy of every row."""
        return row_losses(prediction)


class NextTokenPrediction(TokenPrediction):
    """LLaMA, whose logits at one place are for the token at the next."""

    auto_class: ClassVar = AutoModelForCausalLM
    peft_task = "CAUSAL_LM"
    reported = ("perplexity", "cross_entropy", "token_accuracy")

    def sizes(self, processor: PreTrainedTokenizerBase, splits: Splits) -> Fields:
        """Of a small LLaMA."""
        ids: Fields = {"bos_token_id": processor.bos_token_id, "eos_token_id": processor.eos_token_id}
        dropout = {"attention_dropout": self.config.dropout or 0.0}
        return _sizes(self.config, processor) | ids | {"num_key_value_heads": self.config.num_heads} | dropout

    def loss(self) -> Callable[..., Tensor]:
        """Cross entropy of the next token."""
        return next_token_loss

    def reduce(self, logits: Logits, labels: Tensor) -> Tensor:
        """Loss and number of the tokens of each row."""
        return reduced_tokens(first(logits)[:, :-1], labels[:, 1:])


def text_splits(config: SyntheticTextConfig) -> Splits:
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


def check_positions(config: TextConfig, name: str, found: PreTrainedConfig) -> None:
    """Refuse rows that are longer than the positions of a checkpoint.

    Raises:
        RecipeError: with both lengths.
    """
    positions = getattr(found, "max_position_embeddings", None)
    if isinstance(positions, int) and config.max_length > positions:
        raise RecipeError(f"max_length is {config.max_length}, but {name} has positions for {positions} tokens")


def encoder_sizes(config: TextConfig, tokenizer: PreTrainedTokenizerBase) -> Fields:
    """Of a small BERT."""
    dropout = 0.1 if config.dropout is None else config.dropout
    return _sizes(config, tokenizer) | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}


def _sizes(config: TextConfig, tokenizer: PreTrainedTokenizerBase) -> Fields:
    return {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_heads,
        "intermediate_size": 4 * config.hidden_size,
        "max_position_embeddings": config.max_length + ROOM,
        "pad_token_id": tokenizer.pad_token_id,
    }
