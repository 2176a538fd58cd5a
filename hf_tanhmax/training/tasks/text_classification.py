"""Classification of texts or pairs of texts, into two classes or more."""

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedConfig, PreTrainedTokenizerBase

from ..configuration.schema import TextClassificationConfig
from ..data.rows import Splits, assembled, check_columns, check_labels, check_texts, class_names, class_numbers, raw_splits, shown_names
from ..data.synthetic import synthetic_splits
from ..data.tokenizer import build_tokenizer, load_tokenizer
from .task import Classification, Collator, Fields
from .text import check_positions, encoder_sizes

COLUMNS = ("text_column", "text_pair_column", "label_column")


class TextClassification(Classification[PreTrainedTokenizerBase]):
    """BERT with a classifier over its first token."""

    config: TextClassificationConfig
    auto_class = AutoModelForSequenceClassification
    peft_task = "SEQ_CLS"

    def splits(self) -> Splits:
        """Rows with `text`, `label` (a number below the number of names) and, for pairs, `text_pair`."""
        config = self.config
        raw = raw_splits(config, self._synthetic)
        for split, rows in raw.items():
            check_columns(split, rows, config, COLUMNS)
            for key in COLUMNS[:2]:
                if getattr(config, key) is not None:
                    check_texts(split, rows, config, key)
            check_labels(split, rows, config)
        names = class_names(raw["train"], config.label_column)
        return assembled(config, {split: self._table(split, rows, names) for split, rows in raw.items()}, shown_names(config, names))

    def processor(self, splits: Splits) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, or one built from the training texts."""
        config = self.config
        if config.model_name_or_path is not None:
            return load_tokenizer(config.model_name_or_path)
        texts = [*splits.train["text"], *(splits.train["text_pair"] if config.text_pair_column else [])]
        return build_tokenizer(texts, vocabulary_size=config.vocabulary_size, max_length=config.max_length)

    def sizes(self, processor: PreTrainedTokenizerBase, splits: Splits) -> Fields:
        """Of a small BERT."""
        return encoder_sizes(self.config, processor)

    def check_checkpoint(self, name: str, found: PreTrainedConfig) -> None:
        """Refuse texts that are longer than its positions."""
        check_positions(self.config, name, found)

    def examples(self, rows: Dataset, processor: PreTrainedTokenizerBase, *, training: bool) -> Dataset:
        """`input_ids` (not padded: batches are), other inputs of the model, and `labels`."""

        def encode(batch: dict[str, list[str]]) -> dict[str, object]:
            encoded = processor(batch["text"], batch.get("text_pair"), truncation=True, max_length=self.config.max_length)
            return {**encoded, "labels": batch["label"]}

        options = {"desc": "tokens", "load_from_cache_file": False, "keep_in_memory": True}
        return rows.map(encode, batched=True, remove_columns=rows.column_names, **options)

    def collator(self, processor: PreTrainedTokenizerBase, *, training: bool) -> Collator:
        """Pads a batch to its longest row."""
        return DataCollatorWithPadding(processor)

    def _synthetic(self) -> dict[str, Dataset]:
        config = self.config
        made = synthetic_splits(config.synthetic_documents, config.synthetic_vocabulary, config.synthetic_polar)
        return {split: Dataset.from_dict(rows) for split, rows in made.items()}

    def _table(self, split: str, rows: Dataset, names: list[str]) -> Dataset:
        columns = {"text": list(rows[self.config.text_column]), "label": class_numbers(split, rows, self.config.label_column, names)}
        if self.config.text_pair_column is not None:
            columns["text_pair"] = list(rows[self.config.text_pair_column])
        return Dataset.from_dict(columns)
