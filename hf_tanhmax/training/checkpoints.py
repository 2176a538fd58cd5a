"""Checks of output folders and checkpoints, and one message for a full disk, whichever library meets it first.

A checkpoint counts once `whole.json` lies in it: a list of its files and their sizes, written last and in one step. A process that is
killed while saving leaves a checkpoint without it, which is named, skipped and later overwritten.
"""

import errno
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import PartialState
from filelock import FileLock, Timeout
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoint import BASE
from ..conversion.report import CONVERSION, ORIGINALS
from ..errors import RecipeError
from ..results import RENAMED_KEYS, write_json

MANIFEST, IDENTITY, RESULTS = "whole.json", "recipe.json", "results.json"
LOCK = ".lock"  # held by the process that trains in the folder
BEFORE_TRAINING = {IDENTITY, CONVERSION, ORIGINALS, BASE}  # what a run may have written when its first step begins
FULL = 1 << 12  # bytes; a file system with less left than this is full
Identity = dict[str, dict[str, object]]  # the configuration of a run, and what identifies its data


class ManifestCallback(TrainerCallback):
    """Marks every checkpoint of a Trainer as complete after all processes have written their part."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the list of files, once all are there."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            mark_whole(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


@dataclass(frozen=True)
class Start:
    """What a run does with its output folder.

    Attributes:
        finished: the run is there already.
        checkpoint: where to continue; None begins anew.
        said: sentences for the user.
    """

    finished: bool = False
    checkpoint: str | None = None
    said: tuple[str, ...] = ()


def mark_whole(checkpoint: Path) -> None:
    """Write the list of a checkpoint's files, those in its folders included, where FSDP and DeepSpeed keep each process's part."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
    write_json(checkpoint / MANIFEST, {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files})


def whole(checkpoint: Path) -> bool:
    """Whether a checkpoint holds all that was saved, each file at its size."""
    try:
        sizes = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def read_identity(folder: Path) -> Identity:
    """What a run wrote about itself when it began, with the names that its keys have now.

    Raises:
        OSError, ValueError: no run wrote into the folder.
    """
    found = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    return found | {"config": {RENAMED_KEYS.get(key, key): value for key, value in found.get("config", {}).items()}}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep an output folder from other processes; the system frees it with the end of this one, however that comes.

    Raises:
        RecipeError: a run is going on there, or nothing can be written.
    """
    names = _names(folder)
    if folder.is_file() or (names and IDENTITY not in names):  # which `claim` refuses, and in which nothing is to be written
        yield
        return
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RecipeError(f"another run is going on in output_dir {folder}; wait until it ends, or choose another output_dir") from None
    except OSError as error:
        raise RecipeError(_cannot_write(folder, error)) from error
    try:
        yield
    finally:
        with suppress(OSError):  # where a file that is open cannot be removed
            (folder / LOCK).unlink()
        lock.release()


def claim(folder: Path, identity: Identity, *, resume: bool) -> Start:
    """Decide what to do with an output folder, and write the run's identity into a new one.

    A folder in which a run ended before it saved anything, as one does that cannot read its data, is as good as new.

    Raises:
        RecipeError: it holds another run, an unfinished one and `resume` was not asked for, or files of something else.
    """
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"output_dir {folder} is a file")
    names = _names(folder)
    if not names:
        return _begun(folder, identity, resume=resume)
    try:
        found = read_identity(folder)
    except (OSError, ValueError):
        raise RecipeError(f"output_dir {folder} holds files that no recipe wrote; choose another output_dir") from None
    if names <= BEFORE_TRAINING:
        return _begun(folder, identity, resume=resume)
    if found != identity:
        raise RecipeError(
            f"output_dir {folder} holds another run, which differs in {_differences(found, identity)}; choose another output_dir, or "
            "continue that run with its own settings and --resume"
        )
    if (folder / RESULTS).is_file():
        return Start(finished=True, said=(f"this run is finished already; its results are in {folder / RESULTS}",))
    if not resume:
        raise RecipeError(f"output_dir {folder} holds this run unfinished; add --resume to continue it, or choose another output_dir")
    return _last_whole(folder)


def _begun(folder: Path, identity: Identity, *, resume: bool) -> Start:
    """Make a folder this run's own, and remove what one that saved nothing has left in it."""
    try:
        for name in BEFORE_TRAINING - {IDENTITY}:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        write_json(folder / IDENTITY, identity)
    except OSError as error:
        raise RecipeError(_cannot_write(folder, error)) from error
    said = f"there is nothing to resume in {folder}: no checkpoint was saved; starting from the beginning"
    return Start(said=(said,) if resume else ())


def whole_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, the oldest first."""
    return [path for path in _numbered(folder) if whole(path)]


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {LOCK} if folder.is_dir() else set()


def _cannot_write(folder: Path, error: OSError) -> str:
    return f"cannot write to output_dir {folder}: {error.strerror}"


def _numbered(folder: Path) -> list[Path]:
    numbered = [(int(match.group(1)), path) for path in folder.iterdir() if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))]
    return [path for _, path in sorted(numbered)]


def _last_whole(folder: Path) -> Start:
    said = []
    for path in reversed(_numbered(folder)):
        if whole(path):
            said.append(f"resuming from {path}")
            return Start(checkpoint=str(path), said=tuple(said))
        (path / MANIFEST).unlink(missing_ok=True)
        said.append(f"skipping {path}, which is incomplete: the run ended while saving it")
    said.append(f"there is no whole checkpoint in {folder}; starting from the beginning")
    return Start(said=tuple(said))


def _differences(found: Identity, wanted: Identity) -> str:
    parts = []
    for group in sorted({*found, *wanted}):
        old, new = found.get(group), wanted.get(group)
        if isinstance(old, dict) and isinstance(new, dict):
            parts += [f"{key} ({old.get(key)!r}, now {new.get(key)!r})" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        elif old != new:
            parts.append(f"{group} ({old!r}, now {new!r})")
    return ", ".join(parts)


class space_left:  # noqa: N801, it reads as the function it stands for
    """Within the block, turn the failure to write to a full disk into an error of the user's. Some libraries raise a bare Exception.

    Args:
        folder: on the disk in question.

    Raises:
        RecipeError: the disk is full; which checkpoint is whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Look at why the block failed, if it did."""
        if error is None or not _is_full(self.folder, error):
            return
        saved = whole_checkpoints(self.folder)
        after = f"the last whole checkpoint is {saved[-1]}; free some space and add --resume" if saved else "nothing was saved yet"
        raise RecipeError(f"there is no space left on the disk of {self.folder}; {after}") from error


def _is_full(folder: Path, error: BaseException) -> bool:
    said = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    return said or (isinstance(error, Exception) and shutil.disk_usage(folder).free < FULL)
