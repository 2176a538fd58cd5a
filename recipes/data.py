"""Rows of text and label from the synthetic task, files or the Hub, checked and numbered; then as tokens."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, load_dataset
from datasets.exceptions import DatasetsError
from transformers import PreTrainedTokenizerBase

from .config import DATA_FILES, FILE_TYPES, Config
from .errors import RecipeError
from .synthetic import synthetic_splits


@dataclass(frozen=True)
class Splits:
    """The rows of a run, with columns `text`, `label` (a number below the number of names) and, for pairs, `text_pair`.

    Attributes:
        train: rows to learn from.
        validation: rows to watch while learning.
        test: rows to read once at the end; None where there are none.
        names: the classes.
        fingerprint: where the rows came from, with digests of files or settings of the generator, and how many there are.
    """

    train: Dataset
    validation: Dataset
    test: Dataset | None
    names: list[str]
    fingerprint: dict[str, Any]


def load_splits(config: Config) -> Splits:
    """Read, check and number the rows of a run.

    Raises:
        RecipeError: a file that cannot be read, a column that is not there, rows without text or label, or labels of an evaluation
            split that training never saw.
    """
    raw = _raw_splits(config)
    for split, rows in raw.items():
        _check_rows(split, rows, config)
    names = _class_names(raw["train"], config)
    tables = {split: _table(split, rows, names, config) for split, rows in raw.items()}
    if "validation" not in tables:
        tables["train"], tables["validation"] = _divided(tables["train"], config)
    fingerprint = source_fingerprint(config) | {"rows": {split: len(rows) for split, rows in tables.items()}}
    return Splits(tables["train"], tables["validation"], tables.get("test"), names, fingerprint)


def source_fingerprint(config: Config) -> dict[str, Any]:
    """What identifies the data of a run before it is read: digests of its files, or the name and settings of its source."""
    if config.train_file:
        files = {key: Path(getattr(config, key)) for key in DATA_FILES if getattr(config, key)}
        return {"source": "files", "sha256": {key: _digest(path) for key, path in files.items()}}
    if config.dataset != "synthetic":
        return {"source": config.dataset, "config": config.dataset_config}
    settings = {key: getattr(config, key) for key in ("synthetic_documents", "synthetic_vocabulary", "synthetic_polar")}
    return {"source": "synthetic", **settings}


def tokenized(rows: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Dataset:
    """The rows as `input_ids` (not padded: batches are), other inputs of the model, and `labels`."""

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(batch["text"], batch.get("text_pair"), truncation=True, max_length=max_length)
        return {**encoded, "labels": batch["label"]}

    return rows.map(encode, batched=True, remove_columns=rows.column_names, desc="tokens", load_from_cache_file=False, keep_in_memory=True)


def _raw_splits(config: Config) -> dict[str, Dataset]:
    if config.train_file:
        return {key.removesuffix("_file"): _read_file(key, getattr(config, key)) for key in DATA_FILES if getattr(config, key)}
    if config.dataset == "synthetic":
        made = synthetic_splits(config.synthetic_documents, config.synthetic_vocabulary, config.synthetic_polar)
        return {split: Dataset.from_dict(rows) for split, rows in made.items()}
    try:
        found = load_dataset(config.dataset, config.dataset_config)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise RecipeError(f"cannot load the dataset {config.dataset!r}: {_sentence(error)}") from error
    if "train" not in found:
        raise RecipeError(f"the dataset {config.dataset!r} has no split 'train', only {', '.join(found)}")
    return {
        split: rows for split in ("train", "validation", "test") if (rows := found.get(split)) is not None and not _hidden(rows, config)
    }


def _read_file(key: str, name: str) -> Dataset:
    kind = FILE_TYPES[Path(name).suffix]
    options: dict[str, Any] = {"keep_default_na": False} if kind == "csv" else {}
    try:
        return load_dataset(kind, data_files=name, split="train", **options)
    except (DatasetsError, OSError, ValueError) as error:
        if "corresponds to no data" in str(error):  # a file that ends after its header
            return Dataset.from_dict({})
        raise RecipeError(f"{key}: cannot read {name} as {kind}: {_sentence(error.__cause__ or error)}") from error


def _hidden(rows: Dataset, config: Config) -> bool:
    """Whether a split has no labels, as test data of a benchmark that keeps them to itself: all are -1."""
    return config.label_column in rows.column_names and set(rows.unique(config.label_column)) == {-1}


def _check_rows(split: str, rows: Dataset, config: Config) -> None:
    if len(rows) == 0:
        raise RecipeError(f"the {split} data has no rows")
    for key in ("text_column", "text_pair_column", "label_column"):
        column = getattr(config, key)
        if column is not None and column not in rows.column_names:
            raise RecipeError(f"the {split} data has no column {column!r} ({key}); it has {', '.join(map(repr, rows.column_names))}")
    for key in ("text_column", "text_pair_column"):
        column = getattr(config, key)
        if column is None:
            continue
        for number, text in enumerate(rows[column], start=1):
            if not isinstance(text, str):
                raise RecipeError(f"row {number} of the {split} data holds {text!r} in {column!r} ({key}), but must hold text")
    for number, label in enumerate(rows[config.label_column], start=1):
        if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
            raise RecipeError(
                f"row {number} of the {split} data holds {label!r} in {config.label_column!r} (label_column), but must hold a whole "
                "number or a name"
            )


def _class_names(train: Dataset, config: Config) -> list[str]:
    feature = train.features[config.label_column]
    found = set(train[config.label_column])
    names = list(feature.names) if isinstance(feature, ClassLabel) else [str(label) for label in sorted(found, key=_order)]
    if len(found) < 2:
        raise RecipeError(f"the train data has one class only, {names[0]!r}; a classifier needs at least two")
    return names


def _order(label: int | str) -> tuple[bool, int, str]:
    text = str(label)
    number = text.removeprefix("-").isdecimal()
    return (not number, int(text) if number else 0, text)


def _table(split: str, rows: Dataset, names: list[str], config: Config) -> Dataset:
    feature = rows.features[config.label_column]
    numbers = {name: number for number, name in enumerate(names)}
    labels = []
    for row, label in enumerate(rows[config.label_column], start=1):
        name = feature.names[label] if isinstance(feature, ClassLabel) and label >= 0 else str(label)
        if name not in numbers:
            raise RecipeError(
                f"row {row} of the {split} data has the label {label!r}, which the train data never has; it has "
                f"{', '.join(map(repr, names[:20]))}"
            )
        labels.append(numbers[name])
    columns = {"text": list(rows[config.text_column]), "label": labels}
    if config.text_pair_column is not None:
        columns["text_pair"] = list(rows[config.text_pair_column])
    return Dataset.from_dict(columns)


def _divided(train: Dataset, config: Config) -> tuple[Dataset, Dataset]:
    if len(train) < 2:
        raise RecipeError("the train data has one row, which cannot be divided into train and validation; give a validation_file")
    size = min(max(1, round(len(train) * config.validation_share)), len(train) - 1)
    parts = train.train_test_split(test_size=size, seed=config.seed, load_from_cache_file=False, keep_in_memory=True)
    return parts["train"], parts["test"]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read()).hexdigest()
        )


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
