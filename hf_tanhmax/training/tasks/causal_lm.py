"""Causal language modelling on packed rows: documents in rows of one length, none of which attends to another.

Every row holds pieces of documents side by side. The positions of each piece count from 0, by which Transformers separates them when there
is no padding mask and no cache; the first token of a piece has no label, as nothing of its own stands before it.
"""

from collections.abc import Iterable
from typing import ClassVar

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, default_data_collator

from ...errors import RecipeError
from ..configuration.schema import CausalLMConfig
from ..data.rows import Splits
from ..data.tokenizer import build_causal_tokenizer, load_tokenizer
from .losses import IGNORED
from .task import Collator
from .text import NextTokenPrediction, text_splits


class CausalLM(NextTokenPrediction):
    """LLaMA with its head for the next token."""

    config: CausalLMConfig
    forward: ClassVar = {"use_cache": False}  # with a cache Transformers does not separate packed documents

    def splits(self) -> Splits:
        """Rows with `text`; a single document is divided by its characters where validation rows are missing."""
        return text_splits(self.config)

    def processor(self, splits: Splits) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, or one built from the training texts."""
        config = self.config
        if config.model_name_or_path is not None:
            return load_tokenizer(config.model_name_or_path)
        return build_causal_tokenizer(splits.train["text"], vocabulary_size=config.vocabulary_size, max_length=config.max_length)

    def examples(self, rows: Dataset, processor: PreTrainedTokenizerBase, *, training: bool) -> Dataset:
        """Packed rows; every document ends with the tokenizer's end token.

        Raises:
            RecipeError: a tokenizer without an end token.
        """
        if processor.eos_token_id is None:
            raise RecipeError("the tokenizer has no end token, which tells documents apart")
        documents = ([*processor(text, verbose=False)["input_ids"], processor.eos_token_id] for text in rows["text"])
        return Dataset.from_dict(packed(documents, length=self.config.max_length, pad_token_id=processor.pad_token_id))

    def collator(self, processor: PreTrainedTokenizerBase, *, training: bool) -> Collator:
        """Stacks the rows, which have one length."""
        return default_data_collator


def packed(documents: Iterable[list[int]], *, length: int, pad_token_id: int) -> dict[str, list[list[int]]]:
    """Rows of `input_ids`, `position_ids` and `labels`, each `[rows][length]`.

    Args:
        documents: tokens of each; one that does not fit in what is left of a row goes on in the next, as a piece of its own.
        length: tokens of a row.
        pad_token_id: fills the last row, as a piece without labels.
    """
    rows: dict[str, list[list[int]]] = {"input_ids": [], "position_ids": [], "labels": []}
    room = 0

    def add(ids: list[int], labels: list[int]) -> None:
        rows["input_ids"][-1] += ids
        rows["position_ids"][-1] += range(len(ids))
        rows["labels"][-1] += labels

    for document in documents:
        start = 0
        while start < len(document):
            if room == 0:
                for column in rows.values():
                    column.append([])
                room = length
            piece = document[start : start + room]
            add(piece, [IGNORED, *piece[1:]])
            start, room = start + len(piece), room - len(piece)
    if room:
        add([pad_token_id] * room, [IGNORED] * room)
    return rows
