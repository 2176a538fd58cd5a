"""Single files: pickles by name and by content, half-written files, secrets; and nothing is ever unpickled."""

import json
import os
import pickle
import zipfile

import pytest
import torch

from hf_tanhmax.doctor.files import check_files, checkpoint_files

TOKEN = "hf_" + "aB3" * 12


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.putenv, ("HF_TANHMAX_TRAP", "sprung")


@pytest.fixture
def findings(tmp_path):
    """Write one file and return what is found about it, as (level, sentence)."""

    def of(name, contents):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        found = [(finding.level, finding.sentence) for finding in check_files(tmp_path) if finding.subject == name]
        path.unlink()
        return found

    return of


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "vectors.pkl", "vectors.pickle", "model.ckpt", "a.joblib"])
def test_pickles_by_name(name, findings):
    ((level, sentence),) = findings(name, b"anything")
    assert level == "error"
    assert sentence.startswith("is pickled, so reading it can run any code, and nothing here ever does")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_by_content(protocol, findings):
    ((level, sentence),) = findings("weights", pickle.dumps(Trap(), protocol))
    assert (level, sentence[:10]) == ("error", "is pickled")
    assert "HF_TANHMAX_TRAP" not in os.environ


def test_what_torch_saves_by_content(findings, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "made")
    ((level, sentence),) = findings("made", (tmp_path / "made").read_bytes())
    assert (level, sentence[:10]) == ("error", "is pickled")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("text.txt", "harmless")
    assert findings("data.zip", (tmp_path / "data.zip").read_bytes()) == []


@pytest.mark.parametrize(
    "name", ["training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_3.pth"]
)
def test_state_of_the_trainer_is_a_warning(name, findings):
    assert findings(name, b"\x80\x04anything") == [
        ("warning", "is pickled state of the Trainer, which the model does not need and which is not published; delete it")
    ]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "README.md"])
def test_empty_files(name, findings):
    assert findings(name, b"")[0] == ("error", "is empty, so whatever wrote it did not finish; write or copy it again")


def test_an_empty_module_is_whole(findings):
    assert findings("__init__.py", b"") == []


@pytest.mark.parametrize("contents", ['{"a": 1', "", "\x00", "{'a': 1}"])
def test_json_that_was_cut_off(contents, findings):
    (found,) = findings("tokenizer.json", contents)
    assert found[0] == "error"
    assert findings("tokenizer.json", json.dumps({"a": 1})) == []


@pytest.mark.parametrize("name", ["model.safetensors.partial", "x.incomplete", "y.tmp", "z.lock"])
def test_unfinished_files(name, findings):
    assert findings(name, b"x") == [("warning", "was left by something that did not finish writing; delete it")]


def test_a_link_to_nothing(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    (finding,) = check_files(tmp_path)
    assert (finding.level, finding.sentence) == ("error", "is a link to nothing; copy the file itself")


@pytest.mark.parametrize("name", ["README.md", "results.json", "notes", "figures/caption.txt", "modeling.py"])
@pytest.mark.parametrize("token", [TOKEN, "api_org_" + "x" * 34])
def test_tokens(name, token, findings):
    ((level, sentence),) = findings(name, json.dumps({"a": 1, "token": f"{token}"}, indent=1))
    assert level == "error"
    assert sentence == "holds what looks like an access token in line 3; take it out, and revoke it if anybody saw it"
    assert token not in sentence


@pytest.mark.parametrize(
    "text", ["hf_tanhmax", "import hf_tanhmax.models.remote_code", "xhf_" + "a" * 40, "hf_" + "a" * 20, "hf_" + "a_" * 30]
)
def test_what_is_no_token(text, findings):
    assert findings("README.md", text) == []


def test_images_are_not_read_as_text(findings):
    assert findings("figures/a.png", b"\x89PNG\x00\x00" + TOKEN.encode()) == []


def test_which_files_belong_to_a_checkpoint(tmp_path):
    inside = {"config.json", "base/config.json", "figures/loss.png"}
    outside = {
        "checkpoint-200/optimizer.pt",
        "runs/today/events",
        "logs/a.txt",
        ".git/config",
        ".cache/x",
        "__pycache__/a.pyc",
        "a/b/c.json",
    }
    for name in inside | outside:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert {path.relative_to(tmp_path).as_posix() for path in checkpoint_files(tmp_path)} == inside
