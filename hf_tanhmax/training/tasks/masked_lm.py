"""Masked language modelling: some tokens are hidden, and guessed from both sides."""

from collections.abc import Callable
from typing import Any, ClassVar

from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForMaskedLM, DataCollatorForLanguageModeling, DataCollatorForTokenClassification, EvalPrediction

from ...errors import RecipeError
from ..data.rows import Splits
from ..data.tokenizer import build_tokenizer, load_tokenizer
from .losses import token_loss
from .metrics import reduced_tokens, row_losses, token_metrics
from .task import Task, first
from .text import check_positions, encoder_sizes, text_splits

EVALUATION_SEED = 42  # of the tokens that are hidden in evaluations, the same in every run


class MaskedLM(Task):
    """BERT with its head for masked language modelling."""

    auto_class = AutoModelForMaskedLM
    peft_task = None
    new_modules: ClassVar = ["transform"]
    main_metric = "perplexity"
    higher_is_better = False
    reported = ("perplexity", "token_accuracy")
    column_names_kept = True

    def splits(self) -> Splits:
        """Rows with `text`."""
        return text_splits(self.config)

    def processor(self, splits: Splits) -> Any:
        """The checkpoint's tokenizer, or one built from the training texts.

        Raises:
            RecipeError: a tokenizer without a mask token.
        """
        if self.config.from_scratch:
            return build_tokenizer(splits.train["text"], vocabulary_size=self.config.vocabulary_size, max_length=self.config.max_length)
        tokenizer = load_tokenizer(self.config.model_name_or_path)
        if tokenizer.mask_token is None:
            raise RecipeError(f"the tokenizer of {self.config.model_name_or_path!r} has no mask token, which this task needs")
        return tokenizer

    def sizes(self, processor: Any, splits: Splits) -> dict[str, Any]:
        """Of a small BERT."""
        return encoder_sizes(self.config, processor)

    def check_checkpoint(self, name: str, found: Any) -> None:
        """Refuse texts that are longer than its positions."""
        check_positions(self.config, name, found)

    def examples(self, rows: Dataset, processor: Any, *, training: bool) -> Dataset:
        """`input_ids` and, for evaluations, which tokens are hidden: these are chosen once, those of training anew in every epoch."""
        hide = None if training else self._hiding(processor, seed=EVALUATION_SEED)

        def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
            encoded = processor(batch["text"], truncation=True, max_length=self.config.max_length, return_special_tokens_mask=True)
            if hide is None:
                return dict(encoded)
            hidden = [hide([{key: encoded[key][row] for key in encoded}]) for row in range(len(batch["text"]))]
            del encoded["special_tokens_mask"]
            return {**encoded, **{key: [one[key][0].tolist() for one in hidden] for key in ("input_ids", "labels")}}

        options = {"desc": "tokens", "load_from_cache_file": False, "keep_in_memory": True}
        return rows.map(encode, batched=True, remove_columns=rows.column_names, **options)

    def collator(self, processor: Any, *, training: bool) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """Hides tokens while training; pads."""
        return self._hiding(processor) if training else DataCollatorForTokenClassification(processor)

    def loss(self) -> Callable[..., Tensor]:
        """Cross entropy of the hidden tokens."""
        return token_loss

    def reduce(self, logits: Any, labels: Tensor) -> Tensor:
        """Loss and number of the hidden tokens of each row."""
        return reduced_tokens(first(logits), labels)

    def metrics(self, splits: Splits) -> Callable[[EvalPrediction], dict[str, float]]:
        """Perplexity and accuracy of the hidden tokens."""
        return token_metrics

    def outcomes(self, prediction: Any) -> list[float]:
        """The cross entropy of every row."""
        return row_losses(prediction)

    def _hiding(self, processor: Any, *, seed: int | None = None) -> Any:
        return DataCollatorForLanguageModeling(processor, mlm=True, mlm_probability=self.config.mask_probability, seed=seed)
