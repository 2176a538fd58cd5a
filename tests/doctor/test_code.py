"""Code beside a checkpoint: the file that it brings, what its auto_map names, and anything else; none of it is ever imported."""

import json
import os
import sys

import pytest
from saved_models import change_json, save_model

import hf_tanhmax
from hf_tanhmax.doctor.checkpoint import check_code
from hf_tanhmax.models.bundle import digest
from hf_tanhmax.models.remote_code import CODE_FILE, auto_map, source

TRAP = "import os\nos.putenv('HF_TANHMAX_TRAP', 'sprung')\nos.environ['HF_TANHMAX_TRAP'] = 'sprung'\n"


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path, processor=False)
    return tmp_path


def findings(folder):
    return [(found.level, found.subject, found.sentence) for found in check_code(folder, json.loads((folder / "config.json").read_text()))]


def test_what_is_written_is_right(folder):
    assert findings(folder) == [("ok", CODE_FILE, "is exactly what this version writes")]


def test_altered(folder):
    (folder / CODE_FILE).write_text(source() + "\n" + TRAP)
    ((level, subject, sentence),) = findings(folder)
    assert (level, subject) == ("error", CODE_FILE)
    assert sentence.startswith(f"was altered after hf_tanhmax {hf_tanhmax.__version__} wrote it")
    assert "HF_TANHMAX_TRAP" not in os.environ


def test_not_ours(folder):
    (folder / CODE_FILE).write_text(TRAP)
    ((level, _, sentence),) = findings(folder)
    assert level == "error"
    assert sentence.startswith("is not a file that hf_tanhmax wrote")


def test_altered_with_a_digest_to_match(folder):
    """A digest can be computed by anybody; of its own version the doctor knows what the file must be."""
    body = source()
    start = body.index("\n", body.index("\nDIGEST = ") + 1) + 1
    altered = body[start:] + TRAP
    (folder / CODE_FILE).write_text(body[:start].replace(digest(body[start:]), digest(altered)) + altered)
    ((level, _, sentence),) = findings(folder)
    assert level == "error"
    assert "is not what this" in sentence


def test_another_version(folder):
    old, new = f'VERSION = "{hf_tanhmax.__version__}"', 'VERSION = "0.0.9"'
    assert old in source()
    (folder / CODE_FILE).write_text(source().replace(old, new))
    ((level, _, sentence),) = findings(folder)
    assert level == "warning"
    assert sentence.startswith(f"says that hf_tanhmax 0.0.9 wrote it, and this is {hf_tanhmax.__version__}")


def test_a_map_that_dangles(folder):
    (folder / CODE_FILE).unlink()
    said = f"has an auto_map that names {CODE_FILE}, which is not there; save the model again"
    assert findings(folder) == [("error", "config.json", said)]


def test_no_map(folder):
    change_json(folder / "config.json", auto_map=None)
    (level, subject, sentence), code = findings(folder)
    assert (level, subject) == ("warning", "config.json")
    assert sentence == "has no auto_map, so the model loads only where hf_tanhmax is imported; save it again with this version"
    assert code[0] == "ok"


def test_a_map_to_another_repository(folder):
    mapped = {auto: f"someone/else--{target}" for auto, target in auto_map("tanhmax_bert").items()}
    change_json(folder / "config.json", auto_map=mapped)
    (level, subject, sentence), code = findings(folder)
    assert (level, subject) == ("warning", "config.json")
    assert sentence.startswith("has an auto_map that takes code from another repository (someone/else), whoever may write there")
    assert code[0] == "ok"


def test_a_map_that_differs(folder):
    mapped = auto_map("tanhmax_bert")
    del mapped["AutoModelForMaskedLM"]
    change_json(folder / "config.json", auto_map=mapped)
    assert findings(folder)[0] == (
        "warning",
        "config.json",
        "has an auto_map that differs from its family's in AutoModelForMaskedLM; save it again",
    )


def test_other_code(folder):
    (folder / "handler.py").write_text(TRAP)
    found = findings(folder)
    assert found[-1] == ("warning", "handler.py", "is code that hf_tanhmax did not write; read it before anybody runs it, or delete it")
    assert "HF_TANHMAX_TRAP" not in os.environ
    assert "handler" not in sys.modules


def test_a_map_to_other_code(folder):
    (folder / "other.py").write_text(TRAP)
    change_json(folder / "config.json", auto_map={**auto_map("tanhmax_bert"), "AutoModel": "other.Model", "AutoConfig": "gone.Config"})
    levels = {subject: level for level, subject, _ in findings(folder)}
    assert levels == {"config.json": "error", CODE_FILE: "ok", "other.py": "warning"}
    assert "HF_TANHMAX_TRAP" not in os.environ
