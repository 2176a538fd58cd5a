"""Masked language modelling: some tokens are masked, and predicted from both sides."""

from collections.abc import Callable
from typing import ClassVar

from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForMaskedLM, DataCollatorForLanguageModeling, DataCollatorForTokenClassification, PreTrainedTokenizerBase

from ...errors import RecipeError
from ..configuration.schema import MaskedLMConfig
from ..data.rows import Splits
from ..data.tokenizer import build_tokenizer, load_tokenizer
from .losses import token_loss
from .task import Collator, Fields
from .text import TokenPrediction, encoder_sizes, text_splits

EVALUATION_SEED = 42  # of the tokens that are hidden in evaluations, the same in every run


class MaskedLM(TokenPrediction):
    """BERT with its head for masked language modelling."""

    config: MaskedLMConfig
    auto_class = AutoModelForMaskedLM
    peft_task = None
    new_modules: ClassVar = ["transform"]
    reported = ("perplexity", "token_accuracy")
    column_names_kept = True

    def splits(self) -> Splits:
        """Rows with `text`."""
        return text_splits(self.config)

    def processor(self, splits: Splits) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, or one built from the training texts.

        Raises:
            RecipeError: a tokenizer without a mask token.
        """
        name = self.config.model_name_or_path
        if name is None:
            return build_tokenizer(splits.train["text"], vocabulary_size=self.config.vocabulary_size, max_length=self.config.max_length)
        tokenizer = load_tokenizer(name)
        if tokenizer.mask_token is None:
            raise RecipeError(f"the tokenizer of {name!r} has no mask token, which this task needs")
        return tokenizer

    def sizes(self, processor: PreTrainedTokenizerBase, splits: Splits) -> Fields:
        """Of a small BERT."""
        return encoder_sizes(self.config, processor)

    def examples(self, rows: Dataset, processor: PreTrainedTokenizerBase, *, training: bool) -> Dataset:
        """`input_ids` and, for evaluations, which tokens are masked: these are chosen once, those of training anew in every epoch."""
        hide = None if training else self._hiding(processor, seed=EVALUATION_SEED)

        def encode(batch: dict[str, list[str]]) -> dict[str, object]:
            encoded = processor(batch["text"], truncation=True, max_length=self.config.max_length, return_special_tokens_mask=True)
            if hide is None:
                return dict(encoded)
            hidden = [hide([{key: encoded[key][row] for key in encoded}]) for row in range(len(batch["text"]))]
            del encoded["special_tokens_mask"]
            return {**encoded, **{key: [one[key][0].tolist() for one in hidden] for key in ("input_ids", "labels")}}

        options = {"desc": "tokens", "load_from_cache_file": False, "keep_in_memory": True}
        return rows.map(encode, batched=True, remove_columns=rows.column_names, **options)

    def collator(self, processor: PreTrainedTokenizerBase, *, training: bool) -> Collator:
        """Masks tokens while training; pads."""
        return self._hiding(processor) if training else DataCollatorForTokenClassification(processor)

    def loss(self) -> Callable[..., Tensor]:
        """Cross entropy of the masked tokens."""
        return token_loss

    def _hiding(self, processor: PreTrainedTokenizerBase, *, seed: int | None = None) -> DataCollatorForLanguageModeling:
        return DataCollatorForLanguageModeling(processor, mlm=True, mlm_probability=self.config.mask_probability, seed=seed)
