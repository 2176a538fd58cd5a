"""The report of an alignment: in words, in a file, and back; a file that holds something else is refused."""

import pytest
from made_conversions import IN_WORDS, REPORT

from hf_tanhmax.conversion.report import CONVERSION, read_report


def test_in_words():
    assert REPORT.describe() == IN_WORDS


def test_written_and_read(tmp_path):
    assert read_report(tmp_path) is None
    REPORT.save(tmp_path)
    assert read_report(tmp_path) == REPORT


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"balance": 1}', "3"])
def test_something_else(content, tmp_path):
    (tmp_path / CONVERSION).write_text(content)
    with pytest.raises(ValueError, match=r"conversion\.json is no report of a conversion; convert the model again, or delete the file"):
        read_report(tmp_path)
