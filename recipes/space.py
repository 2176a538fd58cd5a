"""A full disk, said in one sentence whichever library meets it first."""

import errno
import shutil
from pathlib import Path
from types import TracebackType

from .checkpoints import whole_checkpoints
from .errors import RecipeError

FULL = 1 << 12  # bytes; a file system with less left than this is full


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
