"""Inputs from files of every kind that is read, and sentences for the others."""

import json

import pytest
from PIL import Image

from hf_tanhmax.cli.input_files import read_inputs, read_picture

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
    with pytest.raises(FileNotFoundError):
        read_inputs(tmp_path / "gone.csv")
