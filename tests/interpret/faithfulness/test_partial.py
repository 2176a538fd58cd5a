"""The file of a comparison that is not finished: what was written is read again, also after a line that was cut off."""

import math

import pytest
from families import tiny_model

import hf_tanhmax
from hf_tanhmax.interpret.faithfulness.partial import PartialValues, fingerprint

KEY = ("model", "weights", 1, 0)
VALUES = {"mask_tau": {3: 0.25, 5: math.nan}}


def test_what_was_kept_is_read_again(tmp_path):
    file = tmp_path / "part"
    first = PartialValues(file, "f")
    first.add({KEY: VALUES}, {"model": {3: 1, 5: 0}}, 2.0)
    first.note("heads model", {"layers": [0]}, 0.5)
    again = PartialValues(file, "f")
    for found in (first, again):
        assert found.values[KEY]["mask_tau"][3] == 0.25
        assert math.isnan(found.values[KEY]["mask_tau"][5])
        assert (found.targets, found.notes, found.seconds) == ({"model": {3: 1, 5: 0}}, {"heads model": {"layers": [0]}}, 2.5)
    again.remove()
    assert not file.exists()


def test_a_line_that_was_cut_off_takes_no_other_with_it(tmp_path):
    file = tmp_path / "part"
    PartialValues(file, "f").note("one", 1)
    with file.open("a") as cut:
        cut.write('{"note": "two", "wh')
    again = PartialValues(file, "f")
    assert again.notes == {"one": 1}
    again.note("three", 3)
    assert PartialValues(file, "f").notes == {"one": 1, "three": 3}


def test_the_file_of_another_run_is_refused_and_stays(tmp_path):
    file = tmp_path / "part"
    PartialValues(file, "f").note("one", 1)
    before = file.read_text()
    with pytest.raises(ValueError, match="holds a part of another comparison"):
        PartialValues(file, "g")
    assert file.read_text() == before
    PartialValues(None, "g").remove()  # nothing is written where there is no file


def test_the_fingerprint_is_about_texts_weights_and_settings():
    model, other = (tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification) for _ in range(2))
    found = fingerprint({"a": model}, ["text"], {"steps": 2})
    assert found == fingerprint({"a": other}, ["text"], {"steps": 2})
    other.classifier.bias.data += 1
    different = [
        fingerprint({"a": other}, ["text"], {"steps": 2}),
        fingerprint({"b": model}, ["text"], {"steps": 2}),
        fingerprint({"a": model}, ["texts"], {"steps": 2}),
        fingerprint({"a": model}, ["text"], {"steps": 3}),
    ]
    assert len({found, *different}) == 5
