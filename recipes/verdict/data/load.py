"""The data of a task, by its kind."""

from pathlib import Path

from hf_tanhmax.errors import RecipeError

from ..plan import CLASSIFIED, IMAGES, SYNTHETIC, Task
from .batches import TaskData
from .generated import GENERATORS, generated
from .images import cifar10, digits
from .texts import running_text, sentences

DIGITS = "vit_digits"


def needs_files(task: Task) -> bool:
    """Whether a folder of data is needed."""
    return task.kind != SYNTHETIC and task.name != DIGITS


def load(task: Task, folder: Path | None) -> TaskData:
    """Training, validation and test rows.

    Args:
        task: of the plan.
        folder: with `sst2/`, `cifar10/` and `text/`.

    Raises:
        RecipeError: the task needs a folder that is not given, or a file that is not there; or there is no generator of its name.
    """
    if task.kind == SYNTHETIC:
        if task.name not in GENERATORS:
            raise RecipeError(f"there is no generator {task.name!r}; there are {', '.join(GENERATORS)}")
        return generated(task)
    if folder is None and needs_files(task):
        raise RecipeError(f"{task.name} needs data: --data DIR, a folder with sst2/, cifar10/ and text/")
    if folder is None:
        return digits(task)
    if task.kind == CLASSIFIED:
        return sentences(task, folder)
    if task.kind == IMAGES:
        return digits(task) if task.name == DIGITS else cifar10(task, folder)
    return running_text(task, folder)
