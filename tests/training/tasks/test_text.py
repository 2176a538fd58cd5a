"""Text as rows: documents, lines and paragraphs."""

import pytest

from hf_tanhmax.errors import RecipeError


def test_a_single_document_is_divided_at_a_line(tmp_path, task_of):
    text = "\n".join(f"line {number}" for number in range(100))
    (tmp_path / "book.txt").write_text(text)
    splits = task_of("llama/causal_lm", "--train_file", str(tmp_path / "book.txt")).splits()
    assert splits.train[0]["text"] + splits.validation[0]["text"] == text
    assert splits.validation[0]["text"].startswith("line ")
    assert len(splits.validation[0]["text"]) == pytest.approx(len(text) / 10, abs=8)


@pytest.mark.parametrize(
    ("contents", "message"),
    [("short", "is one short document, which cannot be divided"), (" \n \n", "the train data has no text")],
)
def test_a_file_without_enough_text_is_refused(contents, message, tmp_path, task_of):
    (tmp_path / "book.txt").write_text(contents)
    with pytest.raises(RecipeError, match=message):
        task_of("llama/causal_lm", "--train_file", str(tmp_path / "book.txt")).splits()


def test_lines_and_paragraphs_can_be_rows(tmp_path, task_of):
    (tmp_path / "lines.txt").write_text("a\nb\n\nc\nd\n")
    flags = ["--train_file", str(tmp_path / "lines.txt"), "--validation_file", str(tmp_path / "lines.txt")]
    assert len(task_of("bert/masked_lm", *flags, "--sample_by", "line").splits().train) == 4
    assert len(task_of("bert/masked_lm", *flags).splits().train) == 2
