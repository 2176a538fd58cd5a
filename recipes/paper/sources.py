"""Where the documents come from: generated, files in folders that the user names, or the Hub."""

from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from hf_tanhmax.errors import RecipeError, one_line

from . import corpus
from .corpus import Corpus
from .settings import DataSet

Tables = dict[str, tuple[list[str], list[int]]]


def load(data_set: DataSet, folders: list[Path], *, hub: bool, most: int | None = None) -> Corpus | None:
    """A data set, or None where it is not at hand.

    Args:
        data_set: which.
        folders: that may hold a folder of its name.
        hub: whether the Hub is asked where no folder has it.
        most: documents kept of each split; None keeps all.

    Raises:
        RecipeError: files that cannot be used, or a Hub that does not answer.
    """
    if data_set.folder is None:
        return corpus.synthetic() if most is None else corpus.synthetic(documents=2 * most, vocabulary=most // 2, polar=most // 20)
    place = next((folder / data_set.folder for folder in folders if (folder / data_set.folder).is_dir()), None)
    if place is not None:
        tables, fingerprint = _from_files(data_set, place)
    elif hub:
        tables, fingerprint = _from_hub(data_set)
    else:
        return None
    if most is not None:
        tables = {split: (texts[:most], labels[:most]) for split, (texts, labels) in tables.items()}
    return corpus.from_texts(tables, data_set, fingerprint)


def _from_files(data_set: DataSet, folder: Path) -> tuple[Tables, dict[str, Any]]:
    files = data_set.files or {}
    for split, name in files.items():
        if not (folder / name).is_file() and split != "validation":
            raise RecipeError(f"{data_set.name}: {folder} has no {name}, which holds the {split} split")
    paths = {split: folder / name for split, name in files.items() if (folder / name).is_file()}
    tables = {}
    for split, path in paths.items():
        options = {"keep_default_na": False} if path.suffix == ".csv" else {}
        kind = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}[path.suffix]
        try:
            rows = load_dataset(kind, split="train", data_files=str(path), **options)
        except (DatasetsError, OSError, ValueError) as error:
            if "corresponds to no data" in str(error):  # a file that ends after its header
                raise RecipeError(f"{data_set.name}: the {split} data has no rows") from error
            raise RecipeError(f"{data_set.name}: cannot read {path}: {one_line(error, 200)}") from error
        tables[split] = _columns(data_set, split, rows, (0, 1))
    return tables, {"source": data_set.folder, "sha256": {split: corpus.file_digest(path) for split, path in paths.items()}}


def _from_hub(data_set: DataSet) -> tuple[Tables, dict[str, Any]]:
    try:
        found = load_dataset(data_set.hub, data_set.hub_config)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise RecipeError(f"cannot load {data_set.hub}: {one_line(error, 200)}") from error
    splits = data_set.hub_splits or {}
    tables = {split: _columns(data_set, split, found[name], data_set.hub_labels) for split, name in splits.items()}
    return tables, {"source": data_set.hub}


def _columns(data_set: DataSet, split: str, rows: Dataset, labels: tuple[int, ...]) -> tuple[list[str], list[int]]:
    for column in (data_set.text_column, data_set.label_column):
        if column not in rows.column_names:
            raise RecipeError(
                f"{data_set.name}: the {split} data has no column {column!r}; it has {', '.join(map(repr, rows.column_names)) or 'none'}"
            )
    if not len(rows):
        raise RecipeError(f"{data_set.name}: the {split} data has no rows")
    texts, found = list(rows[data_set.text_column]), list(rows[data_set.label_column])
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None or any(not isinstance(text, str) for text in texts):
        raise RecipeError(f"{data_set.name}: the {split} data holds {wrong!r} in {data_set.text_column!r}, but must hold text")
    if labels == (0, 1):
        return texts, found
    chosen = [(text, labels.index(label)) for text, label in zip(texts, found, strict=True) if label in labels]
    return [text for text, _ in chosen], [label for _, label in chosen]
