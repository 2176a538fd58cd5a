"""A full disk, said in one sentence whichever library meets it first."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .checkpoints import whole_checkpoints
from .errors import RecipeError

FULL = 1 << 20  # bytes; a file system with less left than this is full


@contextmanager
def space_left(folder: Path) -> Iterator[None]:
    """Turn the failure to write to a full disk, within the block, into an error of the user's.

    Raises:
        RecipeError: the disk of the folder is full; which checkpoint is whole.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error) or shutil.disk_usage(folder).free < FULL
        if not full:
            raise
        saved = whole_checkpoints(folder)
        after = f"the last whole checkpoint is {saved[-1]}; free some space and add --resume" if saved else "nothing was saved yet"
        raise RecipeError(f"there is no space left on the disk of {folder}; {after}") from error
