"""Causal language modelling on packed rows."""

from collections.abc import Callable
from typing import Any, ClassVar

from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, EvalPrediction, default_data_collator

from ...errors import RecipeError
from ..data.rows import Splits
from ..data.tokenizer import build_causal_tokenizer, load_tokenizer
from .losses import next_token_loss
from .metrics import reduced_tokens, row_losses, token_metrics
from .packing import packed
from .task import Task, first
from .text import check_positions, decoder_sizes, text_splits


class CausalLM(Task):
    """LLaMA with its head for the next token."""

    auto_class = AutoModelForCausalLM
    peft_task = "CAUSAL_LM"
    main_metric = "perplexity"
    higher_is_better = False
    reported = ("perplexity", "cross_entropy", "token_accuracy")
    forward: ClassVar = {"use_cache": False}  # with a cache Transformers does not separate packed documents

    def splits(self) -> Splits:
        """Rows with `text`; a single document is divided by its characters where validation rows are missing."""
        return text_splits(self.config)

    def processor(self, splits: Splits) -> Any:
        """The checkpoint's tokenizer, or one built from the training texts."""
        if self.config.from_scratch:
            sizes = {"vocabulary_size": self.config.vocabulary_size, "max_length": self.config.max_length}
            return build_causal_tokenizer(splits.train["text"], **sizes)
        return load_tokenizer(self.config.model_name_or_path)

    def sizes(self, processor: Any, splits: Splits) -> dict[str, Any]:
        """Of a small LLaMA."""
        return decoder_sizes(self.config, processor)

    def check_checkpoint(self, name: str, found: Any) -> None:
        """Refuse rows that are longer than its positions."""
        check_positions(self.config, name, found)

    def examples(self, rows: Dataset, processor: Any, *, training: bool) -> Dataset:
        """Packed rows; every document ends with the tokenizer's end token.

        Raises:
            RecipeError: a tokenizer without an end token.
        """
        if processor.eos_token_id is None:
            raise RecipeError("the tokenizer has no end token, which tells documents apart")
        documents = ([*processor(text, verbose=False)["input_ids"], processor.eos_token_id] for text in rows["text"])
        return Dataset.from_dict(packed(documents, length=self.config.max_length, pad_token_id=processor.pad_token_id))

    def collator(self, processor: Any, *, training: bool) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """Stacks the rows, which have one length."""
        return default_data_collator

    def loss(self) -> Callable[..., Tensor]:
        """Cross entropy of the next token."""
        return next_token_loss

    def reduce(self, logits: Any, labels: Tensor) -> Tensor:
        """Loss and number of the tokens of each row."""
        return reduced_tokens(first(logits)[:, :-1], labels[:, 1:])

    def metrics(self, splits: Splits) -> Callable[[EvalPrediction], dict[str, float]]:
        """Perplexity."""
        return token_metrics

    def outcomes(self, prediction: Any) -> list[float]:
        """The cross entropy of every row."""
        return row_losses(prediction)
