"""Inputs from files: a column of texts or images with their labels, lines of a text file, an image, or a folder of images."""

import csv
import json
import random
from collections.abc import Iterable, Iterator
from importlib import import_module
from io import BytesIO
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from PIL.Image import Image

Row = TypeVar("Row")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_inputs(path: Path, *, column: str = "text", limit: int | None = None, drawn: bool = False) -> "list[str] | list[Image]":
    """Texts of a file, or the images of a folder in the order of their names.

    Args:
        path: a CSV, TSV, JSON (a list of objects), JSONL or text file, or a folder.
        column: of a table; empty texts are passed over.
        limit: how many to read at most.
        drawn: whether these are drawn from all of them, the same in every run, instead of being the first.

    Raises:
        ValueError: another kind of file, no such column, or nothing in it.
        OSError: a file that cannot be read.
    """
    if path.is_dir():
        files = _pictures(path, None if drawn else limit)
        return [read_picture(file) for file in (draw(files, limit) if drawn else files)]
    found = (text for text in _texts(path, column) if text.strip())
    texts = draw(list(found), limit) if drawn else list(islice(found, limit))
    if not texts:
        raise ValueError(f"{path} holds no text")
    return texts


def draw(rows: list[Row], count: int | None) -> list[Row]:
    """So many of the rows, or all, in an order that is the same in every run."""
    return random.Random(0).sample(rows, len(rows) if count is None else min(count, len(rows)))


def excerpts(path: Path, texts: list[str], characters: int, size: int) -> list[str]:
    """Text of so many characters in all, from everywhere in a file: parts of a text file, and whole rows of a table.

    Args:
        path: the file.
        texts: what `read_inputs` read from it.
        characters: how many are wanted.
        size: of one part.
    """
    if path.suffix.lower() == ".txt":
        whole = path.read_text(encoding="utf-8")
        if len(whole) <= characters:
            return [whole]
        parts = max(1, characters // size)
        stride, generator = len(whole) / parts, random.Random(0)
        starts = [int(part * stride + generator.random() * max(0.0, stride - size)) for part in range(parts)]
        return [whole[start : start + size] for start in starts]
    totals = accumulate(len(text) for text in texts)
    return [text for text, total in zip(texts, totals, strict=True) if total - len(text) < characters]


def read_labelled(
    path: Path, *, column: str | None = None, label_column: str = "label", limit: int | None = None
) -> "tuple[list[str] | list[Image], list[int | str] | None]":
    """Texts or images of a file or of a folder, and the label of each, or None where there are no labels.

    Args:
        path: as for `read_inputs`, or a parquet file, of texts or of images as `datasets` writes them; in a folder of images each class has
            a folder of its own.
        column: of a table; None is "text", or "image" where there is no such column. Rows with an empty text are passed over.
        label_column: of a table.
        limit: how many to read at most.

    Raises:
        ValueError: as `read_inputs`, or a row without a label where others have one.
        ImportError: a parquet file where pyarrow is not installed.
        OSError: a file that cannot be read.
    """
    if path.is_dir():
        files = _pictures(path, limit)
        labels: list[int | str] = [file.parent.name for file in files]
        return [read_picture(file) for file in files], None if any(file.parent == path for file in files) else labels
    if path.suffix.lower() == ".txt":
        return [str(text) for text in read_inputs(path, limit=limit)], None
    inputs: list[Any] = []
    found: list[Any] = []
    for row in islice(_labelled(path, column, label_column), limit):
        inputs.append(row[0])
        found.append(row[1])
    if not inputs:
        raise ValueError(f"{path} holds no text and no picture")
    missing = sum(label is None or label == "" for label in found)
    if 0 < missing < len(found):
        raise ValueError(f'{path} has no label in the column "{label_column}" in {missing} of {len(found)} rows')
    return inputs, None if missing else found


def read_picture(path: "Path | BytesIO", name: object = None) -> "Image":
    """An image file as PIL's RGB image; transparency is laid on white.

    Args:
        path: of the file, or its bytes.
        name: what a message calls it; None is its path.

    Raises:
        ValueError: the file is no image, or one of so many pixels that PIL takes it for an attack.
        OSError: it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGBA")
    except (UnidentifiedImageError, SyntaxError, EOFError, BufferError) as error:  # of a broken file PIL says any of them
        raise ValueError(f"{name or path} is no picture that PIL can read") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name or path} has more pixels than are read here: {error}") from error
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _pictures(folder: Path, limit: int | None) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)[:limit]
    if not files:
        raise ValueError(f"{folder} holds no picture")
    return files


def _labelled(path: Path, column: str | None, label_column: str) -> "Iterator[tuple[str | Image, object]]":
    for row in _rows(path):
        if not isinstance(row, dict):
            raise ValueError(f"{path} must hold a list of objects, but there is {json.dumps(row)[:60]}")
        chosen = column or ("image" if "text" not in row and "image" in row else "text")
        cell, label = row.get(chosen), row.get(label_column)
        if isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes):
            yield read_picture(BytesIO(cell["bytes"]), f"{cell.get('path') or 'an image'} in {path}"), label
        elif not isinstance(cell, str):
            raise ValueError(f'{path} has no texts in a column "{chosen}"; its columns are {", ".join(map(str, row))}')
        elif cell.strip():
            yield cell, label


def _texts(path: Path, column: str) -> Iterator[str]:
    if path.suffix.lower() == ".txt":
        yield from path.read_text(encoding="utf-8").splitlines()
    else:
        yield from _column(path, _rows(path), column)


def _rows(path: Path) -> Iterator[object]:
    """The rows of a table."""
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file, delimiter=DELIMITERS[suffix])
    elif suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines()
        yield from (_parse_json(path, line) for line in lines if line.strip())
    elif suffix == ".json":
        rows = _parse_json(path, path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ValueError(f"{path} must hold a list of objects, but there is {json.dumps(rows)[:60]}")
        yield from rows
    elif suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        raise ValueError(f"{path} is of no kind that is read here: give a .csv, .tsv, .json, .jsonl or .txt file, or a folder of pictures")


def _parquet_rows(path: Path) -> Iterator[object]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError("parquet files need pyarrow, which is not installed: pip install hf-tanhmax[recipes]") from error
    with path.open("rb") as file:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=256):
            yield from batch.to_pylist()


def _parse_json(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def _column(path: Path, rows: Iterable[object], column: str) -> Iterator[str]:
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{path} must hold a list of objects, but there is {json.dumps(row)[:60]}")
        if not isinstance(row.get(column), str):
            columns = ", ".join(str(name) for name in row)
            raise ValueError(f'{path} has no texts in a column "{column}"; its columns are {columns}')
        yield row[column]
