"""The report of an alignment: in words, in a file, and back; a file that holds something else is refused."""

import pytest

from hf_tanhmax.conversion.report import CONVERSION, AlignmentReport, read_report

REPORT = AlignmentReport(0.2, 1e-3, 6636, 8, 4.5, (0.5, 0.25), (0.4, 0.6), (0.125, 0.25), 0.4961, 0.9342)


def test_in_words():
    assert REPORT.describe() == (
        "was aligned for polarity 1 at balance 0.2 on 6,636 rows: hidden states there have cosine 0.934 to those of softmax (0.496 "
        "before), and 19 % of the attention weight is negative (50 % before)"
    )


def test_written_and_read(tmp_path):
    assert read_report(tmp_path) is None
    REPORT.save(tmp_path)
    assert read_report(tmp_path) == REPORT


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"balance": 1}', "3"])
def test_something_else(content, tmp_path):
    (tmp_path / CONVERSION).write_text(content)
    with pytest.raises(ValueError, match=r"conversion\.json is no report of a conversion; convert the model again, or delete the file"):
        read_report(tmp_path)
