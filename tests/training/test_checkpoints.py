"""Which folders are taken, which are refused, and which checkpoints count as whole."""

import json
import subprocess
import sys

import pytest

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.checkpoints import alone, claim, mark_whole, whole, write_json

IDENTITY = {"config": {"seed": 0, "layers": [0, 1]}, "data": {"source": "synthetic"}}


@pytest.fixture
def folder(tmp_path):
    """A folder that this run has begun in, and saved something."""
    claim(tmp_path / "run", IDENTITY, resume=False)
    (tmp_path / "run" / "checkpoint-1").mkdir()
    return tmp_path / "run"


def save(folder, step, *, complete=True):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    (checkpoint / "optimizer.pt").write_bytes(b"state")
    if complete:
        mark_whole(checkpoint)
    return checkpoint


def test_a_new_folder_is_taken_and_marked(tmp_path):
    assert claim(tmp_path / "a" / "b", IDENTITY, resume=False).said == ()
    assert json.loads((tmp_path / "a" / "b" / "recipe.json").read_text()) == IDENTITY
    said = f"there is nothing to resume in {tmp_path / 'c'}: no checkpoint was saved; starting from the beginning"
    assert claim(tmp_path / "c", IDENTITY, resume=True).said == (said,)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("identity", [IDENTITY, {"config": {"seed": 1}, "data": {"source": "files"}}])
def test_a_folder_in_which_a_run_ended_before_it_saved_anything_is_free(tmp_path, identity, resume):
    folder = tmp_path / "run"
    claim(folder, IDENTITY, resume=False)
    write_json(folder / "conversion.json", {"balance": 0.2})  # of a run that ended after calibration
    (folder / "base").mkdir()
    (folder / "base" / "config.json").touch()
    start = claim(folder, identity, resume=resume)
    assert (start.checkpoint, start.finished) == (None, False)
    said = f"there is nothing to resume in {folder}: no checkpoint was saved; starting from the beginning"
    assert start.said == ((said,) if resume else ())
    assert json.loads((folder / "recipe.json").read_text()) == identity
    assert sorted(path.name for path in folder.iterdir()) == ["recipe.json"]  # what the other run left would be taken for this one's


@pytest.mark.parametrize("left", ["checkpoint-3", "model.safetensors", "notes.txt"])
def test_a_folder_that_holds_more_than_a_run_begins_with_is_not_free(tmp_path, left):
    claim(tmp_path / "run", IDENTITY, resume=False)
    (tmp_path / "run" / left).mkdir()
    with pytest.raises(RecipeError, match=r"holds another run, which differs in seed \(0, now 1\)"):
        claim(tmp_path / "run", {**IDENTITY, "config": {"seed": 1, "layers": [0, 1]}}, resume=False)


def test_a_folder_is_not_free_while_a_process_trains_in_it(tmp_path):
    folder = tmp_path / "a" / "run"
    script = f"""
from pathlib import Path
from hf_tanhmax.training.checkpoints import alone, claim
with alone(Path({str(folder)!r})):
    claim(Path({str(folder)!r}), {IDENTITY!r}, resume=False)
    print("begun", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(RecipeError, match=f"another run is going on in output_dir {folder}; wait until it ends"), alone(folder):
            pass
        process.kill()
    with alone(folder):  # it could not tidy up, but is gone
        assert claim(folder, IDENTITY, resume=False).said == ()
    assert [path.name for path in folder.iterdir()] == ["recipe.json"]


def test_nothing_is_written_where_a_run_cannot_be(tmp_path):
    (tmp_path / "thesis.tex").touch()
    for folder in (tmp_path, tmp_path / "thesis.tex"):
        with alone(folder):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RecipeError, match="cannot write to output_dir"), alone(tmp_path / "thesis.tex" / "run"):
        pass


def test_an_unfinished_run_is_continued_only_when_asked(folder):
    with pytest.raises(RecipeError, match="holds this run unfinished; add --resume to continue it, or choose another output_dir"):
        claim(folder, IDENTITY, resume=False)
    start = claim(folder, IDENTITY, resume=True)
    assert (start.checkpoint, start.finished) == (None, False)
    assert "there is no whole checkpoint" in start.said[-1]


def test_a_finished_run_is_found(folder):
    write_json(folder / "results.json", {})
    start = claim(folder, IDENTITY, resume=False)
    assert start.finished
    assert "finished already" in start.said[0]


def test_a_run_from_before_its_keys_were_renamed_is_the_same_run(tmp_path):
    before = {"config": {"seed": 0, "epochs": 2, "warmup_share": 0.1}, "data": {"source": "synthetic"}}
    now = {"config": {"seed": 0, "num_train_epochs": 2, "warmup_steps": 0.1}, "data": {"source": "synthetic"}}
    write_json(tmp_path / "recipe.json", before)
    save(tmp_path, 5)
    assert claim(tmp_path, now, resume=True).checkpoint == str(tmp_path / "checkpoint-5")
    with pytest.raises(RecipeError, match=r"differs in num_train_epochs \(2, now 3\); choose"):
        claim(tmp_path, {**now, "config": {**now["config"], "num_train_epochs": 3}}, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_another_run_is_refused_and_the_difference_named(folder, resume):
    other = {"config": {"seed": 1, "layers": [0, 1]}, "data": {"source": "files"}}
    with pytest.raises(RecipeError, match=r"differs in seed \(0, now 1\), source \('synthetic', now 'files'\)"):
        claim(folder, other, resume=resume)


def test_files_of_something_else_are_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RecipeError, match="holds files that no recipe wrote"):
        claim(tmp_path, IDENTITY, resume=True)
    with pytest.raises(RecipeError, match="is a file"):
        claim(tmp_path / "thesis.tex", IDENTITY, resume=False)
    with pytest.raises(RecipeError, match="cannot write to output_dir"):
        claim(tmp_path / "thesis.tex" / "run", IDENTITY, resume=False)


def test_the_last_whole_checkpoint_is_chosen_by_number(folder):
    for step in (80, 90, 100):
        save(folder, step)
    assert claim(folder, IDENTITY, resume=True).checkpoint == str(folder / "checkpoint-100")


@pytest.mark.parametrize("damage", ["unmarked", "missing", "short", "half a list"])
def test_an_incomplete_checkpoint_is_named_and_skipped(folder, damage):
    save(folder, 5)
    last = save(folder, 10, complete=damage != "unmarked")
    if damage == "missing":
        (last / "optimizer.pt").unlink()
    elif damage == "short":
        (last / "optimizer.pt").write_bytes(b"st")
    elif damage == "half a list":
        (last / "whole.json").write_text('{"model')
    assert not whole(last)
    start = claim(folder, IDENTITY, resume=True)
    assert start.checkpoint == str(folder / "checkpoint-5")
    assert start.said == (
        f"skipping {last}, which is incomplete: the run ended while saving it",
        f"resuming from {folder / 'checkpoint-5'}",
    )
    assert not (last / "whole.json").exists()


def test_a_file_is_replaced_in_one_step(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
