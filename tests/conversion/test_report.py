"""The report of a conversion: in words, in a file, and back; a file of an earlier version is read, something else is refused."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from made_conversions import ALIGNED, ALIGNMENT, IN_WORDS, MEASURED, QUALITY, REFIT, REFITTED, REPORT, TRANSFERRED
from safetensors.torch import load_file

from hf_tanhmax.conversion.report import CONVERSION, ORIGINALS, ConversionReport, read_report


def test_in_words():
    assert REPORT.describe() == IN_WORDS
    assert REFITTED.describe() == f"{ALIGNED}; it {TRANSFERRED}; it {REFIT.describe()}; {MEASURED}"


def test_what_was_measured_in_words():
    without_head = replace(QUALITY, held_out=False, kl_after=None, cosine_before=0.5, cosine_after=0.9, perplexity_after=None)
    assert replace(without_head, negative_mass_by_length=((128, 255, 0.09),)).describe() == (
        "on 700 outputs that it was fitted to, hidden states have cosine 0.900 to those of softmax (0.500 before), and 9 % of the "
        "attention weight is negative"
    )
    assert "(5 % where a query sees 1 key, " in replace(QUALITY, negative_mass_by_length=((1, 1, 0.05), (2, 3, 0.1))).describe()
    assert "14 % where a query sees 128 keys)" in replace(QUALITY, negative_mass_by_length=((1, 1, 0.05), (128, 128, 0.14))).describe()


SHIFTED = ConversionReport(0.2, "balanced", 0.2, 700, 5.5, quality=QUALITY, not_refitted="the layers of T5Model are in two lists")


def test_the_shift_alone_in_words():
    assert SHIFTED.describe() == (
        f"has a balanced shift and its output projections as they were (the layers of T5Model are in two lists); {MEASURED}"
    )


@pytest.mark.parametrize("report", [REPORT, REFITTED, SHIFTED], ids=["aligned", "all", "shifted"])
def test_written_and_read(report, tmp_path):
    assert read_report(tmp_path) is None
    report.save(tmp_path)
    assert read_report(tmp_path) == report
    assert (tmp_path / ORIGINALS).exists() == (report is REFITTED)
    assert "NaN" not in (tmp_path / CONVERSION).read_text()


def test_originals_of_all_parts_are_one_file(tmp_path):
    REFITTED.save(tmp_path)
    found = load_file(tmp_path / ORIGINALS)
    torch.testing.assert_close(found, {"query": torch.ones(2), "output": torch.zeros(3)})
    assert read_report(tmp_path).originals == {}


def test_a_file_of_an_earlier_version(tmp_path):
    (tmp_path / CONVERSION).write_text(json.dumps(asdict(ALIGNMENT)))
    found = read_report(tmp_path)
    assert found == ConversionReport(1.0, None, 0.2, 6636, 4.5, ALIGNMENT)
    assert found.describe() == ALIGNED


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"balance": 1}', "3", '{"residual": 1}', '{"refit": {}}', '{"quality": {"rows": 3}}'])
def test_something_else(content, tmp_path):
    (tmp_path / CONVERSION).write_text(content)
    with pytest.raises(ValueError, match=r"conversion\.json is no report of a conversion; convert the model again, or delete the file"):
        read_report(tmp_path)
