"""Inputs from files of every kind that is read, and sentences for the others."""

import json
import struct
import sys
import zlib

import datasets
import pytest
from PIL import Image

from hf_tanhmax.cli.input_files import read_inputs, read_labelled, read_picture

ROWS = [{"text": "a film, really", "label": 1}, {"text": " ", "label": 0}, {"text": "dull", "label": 0}]
FILES = {
    "rows.csv": 'text,label\n"a film, really",1\n ,0\ndull,0\n',
    "rows.tsv": "text\tlabel\na film, really\t1\n \t0\ndull\t0\n",
    "rows.json": json.dumps(ROWS),
    "rows.jsonl": "\n".join(json.dumps(row) for row in ROWS) + "\n\n",
    "rows.txt": "a film, really\n\ndull\n",
}


@pytest.mark.parametrize("name", FILES)
def test_texts(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    assert read_inputs(tmp_path / name) == ["a film, really", "dull"]
    assert read_inputs(tmp_path / name, limit=1) == ["a film, really"]


def test_pictures(tmp_path):
    Image.new("RGBA", (3, 2), (255, 0, 0, 0)).save(tmp_path / "b.png")
    Image.new("L", (3, 2), 7).save(tmp_path / "a.png")
    (tmp_path / "notes.md").write_text("no picture")
    first, second = read_inputs(tmp_path)
    assert (first.mode, first.getpixel((0, 0))) == ("RGB", (7, 7, 7))
    assert second.getpixel((0, 0)) == (255, 255, 255)  # transparent
    assert len(read_inputs(tmp_path, limit=1)) == 1


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.csv", "words,label\na,1\n", r'has no texts in a column "text"; its columns are words, label'),
        ("rows.jsonl", '{"text": 3}', r'has no texts in a column "text"; its columns are text'),
        ("rows.json", '["a"]', r'must hold a list of objects, but there is "a"'),
        ("rows.json", "3", r"must hold a list of objects, but there is 3"),
        ("rows.json", "{", r"is no JSON: "),
        ("rows.jsonl", "{}\n{", r"has no texts in a column"),
        ("rows.csv", "text\n", r"holds no text"),
        ("rows.txt", "\n", r"holds no text"),
        ("rows.xlsx", "", r"is of no kind that is read here: give a \.csv"),
    ],
)
def test_files_that_cannot_be_read(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read_inputs(tmp_path / name)


def test_no_picture(tmp_path):
    with pytest.raises(ValueError, match=r"holds no picture"):
        read_inputs(tmp_path)
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(ValueError, match=r"a\.png is no picture that PIL can read"):
        read_picture(tmp_path / "a.png")
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    parts = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    (tmp_path / "bomb.png").write_bytes(b"".join([b"\x89PNG\r\n\x1a\n", *parts]))
    with pytest.raises(ValueError, match=r"bomb\.png has more pixels than are read here: .*400000000 pixels"):
        read_picture(tmp_path / "bomb.png")
    with pytest.raises(FileNotFoundError):
        read_inputs(tmp_path / "gone.csv")


# With labels


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("txt")])
def test_labelled_texts(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    labels = ["1", "0"] if name.endswith("sv") else [1, 0]
    assert read_labelled(tmp_path / name) == (["a film, really", "dull"], labels)
    assert read_labelled(tmp_path / name, limit=1) == (["a film, really"], labels[:1])
    assert read_labelled(tmp_path / name, label_column="class") == (["a film, really", "dull"], None)


def test_texts_without_labels(tmp_path):
    (tmp_path / "rows.txt").write_text(FILES["rows.txt"])
    assert read_labelled(tmp_path / "rows.txt") == (["a film, really", "dull"], None)


def test_another_column(tmp_path):
    (tmp_path / "rows.csv").write_text("sentence,class\na film,good\n")
    assert read_labelled(tmp_path / "rows.csv", column="sentence", label_column="class") == (["a film"], ["good"])


def test_labelled_pictures(tmp_path):
    for name in ("cat", "ant"):
        (tmp_path / name).mkdir()
        Image.new("L", (3, 2), len(name)).save(tmp_path / name / "a.png")
    pictures, labels = read_labelled(tmp_path)
    assert ([picture.mode for picture in pictures], labels) == (["RGB", "RGB"], ["ant", "cat"])
    Image.new("L", (3, 2)).save(tmp_path / "b.png")
    assert read_labelled(tmp_path)[1] is None


def test_parquet_of_pictures_and_of_texts(tmp_path):
    rows = {"image": [Image.new("RGB", (3, 2), (7, 8, 9))] * 3, "label": [0, 2, 1]}
    datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})).to_parquet(
        tmp_path / "a.parquet"
    )
    pictures, labels = read_labelled(tmp_path / "a.parquet", limit=2)
    assert (pictures[0].getpixel((0, 0)), len(pictures), labels) == ((7, 8, 9), 2, [0, 2])
    datasets.Dataset.from_dict({"text": ["a film"], "label": [1]}).to_parquet(tmp_path / "b.parquet")
    assert read_labelled(tmp_path / "b.parquet") == (["a film"], [1])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.csv", "words,label\na,1\n", r'has no texts in a column "text"; its columns are words, label'),
        ("rows.csv", "text,label\na,1\nb,\nc,0\n", r'rows\.csv has no label in the column "label" in 1 of 3 rows'),
        ("rows.json", "[3]", r"must hold a list of objects, but there is 3"),
        ("rows.csv", "text,label\n", r"holds no text and no picture"),
        ("rows.xlsx", "", r"is of no kind that is read here: give a \.csv"),
        ("rows.parquet", "text", r"Parquet"),
    ],
)
def test_labelled_files_that_are_none(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read_labelled(tmp_path / name)


def test_a_picture_that_is_broken(tmp_path):
    """Of a chunk without a name PIL says a SyntaxError."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)
    parts = (b"\x89PNG\r\n\x1a\n", struct.pack(">I", 13), head, struct.pack(">I", zlib.crc32(head)), bytes(12))
    (tmp_path / "a.png").write_bytes(b"".join(parts))
    with pytest.raises(ValueError, match=r"a\.png is no picture that PIL can read"):
        read_picture(tmp_path / "a.png")


def test_a_picture_in_a_table_that_is_none(tmp_path):
    rows = {"image": [{"bytes": b"text", "path": "a.png"}], "label": [0]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.png in .*a\.parquet is no picture that PIL can read"):
        read_labelled(tmp_path / "a.parquet")


def test_parquet_needs_a_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"parquet files need pyarrow, which is not installed: pip install hf-tanhmax\[recipes\]"):
        read_labelled(tmp_path / "a.parquet")
