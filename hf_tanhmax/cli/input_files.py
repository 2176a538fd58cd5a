"""Inputs from files: a column of texts, lines of a text file, an image, or a folder of images."""

import csv
import json
import random
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files[:limit]:
            raise ValueError(f"{path} holds no picture")
        return [read_picture(file) for file in (draw(files, limit) if drawn else files[:limit])]
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


def read_picture(path: Path) -> "Image":
    """An image file as PIL's RGB image; transparency is laid on white.

    Raises:
        ValueError: the file is no image.
        OSError: it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGBA")
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no picture that PIL can read") from error
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _texts(path: Path, column: str) -> Iterator[str]:
    suffix = path.suffix.lower()
    if suffix == ".txt":
        yield from path.read_text(encoding="utf-8").splitlines()
    elif suffix in DELIMITERS:
        with path.open(newline="", encoding="utf-8") as file:
            yield from _column(path, csv.DictReader(file, delimiter=DELIMITERS[suffix]), column)
    elif suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines()
        yield from _column(path, (_parse_json(path, line) for line in lines if line.strip()), column)
    elif suffix == ".json":
        rows = _parse_json(path, path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ValueError(f"{path} must hold a list of objects, but there is {json.dumps(rows)[:60]}")
        yield from _column(path, rows, column)
    else:
        raise ValueError(f"{path} is of no kind that is read here: give a .csv, .tsv, .json, .jsonl or .txt file, or a folder of pictures")


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
