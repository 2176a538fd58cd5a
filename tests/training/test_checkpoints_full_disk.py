"""A full disk: on a real file system of a few pages, the checkpoint before stays whole and the sentence names it."""

import errno
import shutil
import subprocess

import pytest

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.checkpoints import mark_whole, space_left, whole_checkpoints


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a tmpfs of so many bytes."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_while_saving_leaves_the_checkpoint_before_whole(small_disk, train, tmp_path):
    train("tanhmax", "--save_steps", "3", folder="enough")
    one = sum(file.stat().st_size for file in (tmp_path / "enough" / "checkpoint-6").iterdir())
    disk = small_disk(int(2.6 * one))
    code, said, _ = train("tanhmax", "--output_dir", str(disk / "run"), "--save_steps", "3")
    saved = whole_checkpoints(disk / "run")
    assert code == 2, said
    assert len(saved) >= 1
    assert "there is no space left on the disk of" in said
    assert f"the last whole checkpoint is {saved[-1]}; free some space and add --resume" in said
    assert "Traceback" not in said


def test_every_library_says_it_differently(tmp_path):
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    with pytest.raises(RecipeError, match=r"no space left on the disk .* nothing was saved yet"), space_left(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    mark_whole(checkpoint)
    with pytest.raises(RecipeError, match="checkpoint-3; free some space"), space_left(tmp_path):
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")


def test_other_errors_pass(tmp_path):
    with pytest.raises(RuntimeError, match="something else"), space_left(tmp_path):
        raise RuntimeError("something else")
