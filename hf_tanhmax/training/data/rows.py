"""Rows by split from the embedded data, files or the Hub; each task says which columns it needs."""

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, load_dataset
from datasets.exceptions import DatasetsError

from ...errors import RecipeError, one_line
from ..configuration.schema import DATA_FILES, FILE_TYPES, CausalLMConfig, Config, ImageClassificationConfig, TextClassificationConfig

Rows = dict[str, Dataset]
CHOICE_SEED = 42  # of the rows that max_train_rows and max_test_rows keep, the same in every run


@dataclass(frozen=True)
class Splits:
    """The rows of a run, in the columns of its task.

    Attributes:
        train: rows to learn from.
        validation: rows to watch while learning.
        test: rows to read once at the end; None where there are none.
        names: the classes; empty for a task without them.
        fingerprint: where the rows came from, with digests of files or settings of the generator, and how many there are.
    """

    train: Dataset
    validation: Dataset
    test: Dataset | None
    names: list[str]
    fingerprint: dict[str, object]

    def present(self) -> Rows:
        """The splits that there are, by name."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: rows for name, rows in splits.items() if rows is not None}


def raw_splits(config: Config, embedded: Callable[[], Rows]) -> Rows:
    """Rows as they come, by split, `train` among them and none of them empty.

    Args:
        config: the recipe.
        embedded: makes the embedded data set.

    Raises:
        RecipeError: a file or a data set that cannot be read, that has no `train` split, or a split without rows.
    """
    if config.train_file:
        found = {key.removesuffix("_file"): _read_file(key, getattr(config, key), config) for key in DATA_FILES if getattr(config, key)}
    elif config.is_synthetic:
        found = embedded()
    elif config.dataset in config.packaged:
        found = {path.stem: _read_packaged(path) for path in _packaged_files(config)}
    else:
        found = _from_hub(config)
    for split, rows in found.items():
        if len(rows) == 0:
            raise RecipeError(f"the {split} data has no rows")
    return found


def assembled(config: Config, tables: Rows, names: list[str] | None = None) -> Splits:
    """The splits of a run from checked tables: a part of the train rows for validation if there is none, and no more rows than asked for.

    Raises:
        RecipeError: too few rows to divide.
    """
    tables = dict(tables)
    limits = {"train": config.max_train_rows, "validation": config.max_test_rows, "test": config.max_test_rows}
    for split, rows in tables.items():
        limit = limits[split]
        if limit is not None and limit < len(rows):
            tables[split] = rows.select(np.random.default_rng(CHOICE_SEED).permutation(len(rows))[:limit])
    if "validation" not in tables:
        tables["train"], tables["validation"] = _divided(tables["train"], config)
    fingerprint = source_fingerprint(config) | {"rows": {split: len(rows) for split, rows in tables.items()}}
    return Splits(tables["train"], tables["validation"], tables.get("test"), names or [], fingerprint)


def source_fingerprint(config: Config) -> dict[str, object]:
    """What identifies the data of a run before it is read: digests of its files, or the name and settings of its source."""
    if config.train_file:
        files = {key: Path(getattr(config, key)) for key in DATA_FILES if getattr(config, key)}
        named = {"dataset": config.files_dataset} if config.files_dataset else {}
        return {"source": "files", **named, "sha256": {key: _digest(path) for key, path in files.items()}}
    if config.dataset in config.packaged:
        return {"source": config.dataset, "sha256": {path.stem: _digest(path) for path in _packaged_files(config)}}
    if not config.is_synthetic:
        return {"source": config.dataset, "config": config.dataset_config}
    settings = {key: value for key, value in config if key.startswith("synthetic_")}
    return {"source": config.synthetic, **settings}


def check_columns(split: str, rows: Dataset, config: Config, keys: tuple[str, ...]) -> None:
    """Refuse rows that lack a column which one of these keys names.

    Raises:
        RecipeError: naming the column, the key, and the columns that there are.
    """
    for key in keys:
        column = getattr(config, key)
        if column is not None and column not in rows.column_names:
            raise RecipeError(f"the {split} data has no column {column!r} ({key}); it has {', '.join(map(repr, rows.column_names))}")


def check_texts(split: str, rows: Dataset, config: Config, key: str) -> None:
    """Refuse rows whose text is none.

    Raises:
        RecipeError: naming the first such row, and what it holds.
    """
    column = getattr(config, key)
    for number, text in enumerate(rows[column], start=1):
        if not isinstance(text, str):
            shown = repr(text) if len(repr(text)) < 80 else f"a {type(text).__name__}"
            raise RecipeError(f"row {number} of the {split} data holds {shown} in {column!r} ({key}), but must hold text")


def check_labels(split: str, rows: Dataset, config: TextClassificationConfig | ImageClassificationConfig) -> None:
    """Refuse rows whose label is neither a number nor a name.

    Raises:
        RecipeError: naming the first such row, and what it holds.
    """
    for number, label in enumerate(rows[config.label_column], start=1):
        if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
            raise RecipeError(
                f"row {number} of the {split} data holds {label!r} in {config.label_column!r} (label_column), but must hold a whole "
                "number or a name"
            )


def class_names(train: Dataset, label_column: str) -> list[str]:
    """The classes of the train rows, numbers by size and names by the alphabet; or those that the data set names.

    Raises:
        RecipeError: one class only.
    """
    feature = train.features[label_column]
    found = set(train[label_column])
    names = list(feature.names) if isinstance(feature, ClassLabel) else [str(label) for label in sorted(found, key=_order)]
    if len(found) < 2:
        raise RecipeError(f"the train data has one class only, {names[0]!r}; a classifier needs at least two")
    return names


def shown_names(config: Config, names: list[str]) -> list[str]:
    """What classes are called, of which the data has the numbers; those of the data where the recipe names none.

    Raises:
        RecipeError: the data has names, or another number of classes, or one name is there twice.
    """
    chosen = list(getattr(config, "label_names", None) or names)
    there = ", ".join(names[:20])
    if chosen != names and not all(name.lstrip("-").isdecimal() for name in names):
        raise RecipeError(f"label_names are for data whose classes are numbers, but it names them: {there}")
    if len(chosen) != len(names) or len(set(chosen)) != len(chosen):
        raise RecipeError(f"label_names must be {len(names)} different names, for the classes {there}, but are {', '.join(chosen)}")
    return chosen


def class_numbers(split: str, rows: Dataset, label_column: str, names: list[str]) -> list[int]:
    """The label of every row as the number of its class.

    Raises:
        RecipeError: a label that the train data never has.
    """
    feature = rows.features[label_column]
    numbers = {name: number for number, name in enumerate(names)}
    labels = []
    for row, label in enumerate(rows[label_column], start=1):
        name = feature.names[label] if isinstance(feature, ClassLabel) and label >= 0 else str(label)
        if name not in numbers:
            raise RecipeError(
                f"row {row} of the {split} data has the label {label!r}, which the train data never has; it has "
                f"{', '.join(map(repr, names[:20]))}"
            )
        labels.append(numbers[name])
    return labels


def _packaged_files(config: Config) -> list[Path]:
    """The tables of a data set that lies beside this module, one for each split."""
    return sorted((Path(__file__).parent / config.dataset).glob("*.csv"))


def _read_packaged(path: Path) -> Dataset:
    with path.open(encoding="utf-8", newline="") as file:
        return Dataset.from_list(list(csv.DictReader(file)))


def _from_hub(config: Config) -> Rows:
    try:
        found = load_dataset(config.dataset, config.dataset_config)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise RecipeError(f"cannot load the dataset {config.dataset!r}: {one_line(error, 300)}") from error
    if "train" not in found:
        raise RecipeError(f"the dataset {config.dataset!r} has no split 'train', only {', '.join(found)}")
    return {
        split: rows for split in ("train", "validation", "test") if (rows := found.get(split)) is not None and not _hidden(rows, config)
    }


def _read_file(key: str, name: str, config: Config) -> Dataset:
    path = Path(name)
    kind = "imagefolder" if path.is_dir() else FILE_TYPES[path.suffix]
    options: dict[str, Any] = {"keep_default_na": False} if kind == "csv" else {}
    if kind == "text" and isinstance(config, CausalLMConfig):
        options["sample_by"] = config.sample_by
    source = {"data_dir": name} if kind == "imagefolder" else {"data_files": name}
    try:
        return load_dataset(kind, split="train", **source, **options)
    except (DatasetsError, OSError, ValueError) as error:
        if "corresponds to no data" in str(error):  # a file that ends after its header
            return Dataset.from_dict({})
        raise RecipeError(f"{key}: cannot read {name} as {kind}: {one_line(error.__cause__ or error, 300)}") from error


def _hidden(rows: Dataset, config: Config) -> bool:
    """Whether a split has no labels, as test data of a benchmark that keeps them to itself: all are -1."""
    column = getattr(config, "label_column", None)
    return column in rows.column_names and set(rows.unique(column)) == {-1}


def _order(label: int | str) -> tuple[bool, int, str]:
    text = str(label)
    number = text.removeprefix("-").isdecimal()
    return (not number, int(text) if number else 0, text)


def _divided(train: Dataset, config: Config) -> tuple[Dataset, Dataset]:
    if len(train) < 2:
        raise RecipeError("the train data has one row, which cannot be divided into train and validation; give a validation_file")
    size = min(max(1, round(len(train) * config.validation_share)), len(train) - 1)
    order = np.random.default_rng(config.seed).permutation(len(train))
    return train.select(order[size:]), train.select(order[:size])


def _digest(path: Path) -> str:
    """Of a file's bytes; of a folder, of the names and bytes of all its files."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.relative_to(path).as_posix().encode() if path.is_dir() else b"")
            digest.update(file.read_bytes())
    return digest.hexdigest()
