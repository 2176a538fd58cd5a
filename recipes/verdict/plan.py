"""The plan: what the YAML at the end of `PLAN.md` says, checked; the digest of the whole file; and what `AMENDMENTS.md` changes."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_tanhmax.errors import RecipeError

from .maps.registry import MAPS

PLAN = Path(__file__).with_name("PLAN.md")
AMENDMENTS = "AMENDMENTS.md"  # beside the plan
RESULTS = Path(__file__).parents[1] / "results" / "verdict"
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SYNTHETIC, CLASSIFIED, IMAGES, MASKED, CAUSAL = "synthetic", "text_classification", "images", "masked_text", "causal_text"
KINDS = (SYNTHETIC, CLASSIFIED, IMAGES, MASKED, CAUSAL)


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        layers: of attention and MLP.
        width: of hidden states.
        heads: per layer.
        mlp: width of the MLPs of softmax; other maps have what is left for the same number of parameters.
    """

    layers: int
    width: int
    heads: int
    mlp: int


@dataclass(frozen=True)
class Task:
    """A model from scratch and its data.

    Attributes:
        name: of the task, and of its file of results.
        kind: of `KINDS`.
        model: its size.
        steps: of training.
        batch_size: rows per step.
        length: tokens per row; of texts that are classified, the most.
        distractors: of generated rows: the most that training rows have and how many test rows have; the second are for the test alone.
        vocabulary: the most words.
        image_size, patch_size: pixels.
    """

    name: str
    kind: str
    model: Size
    steps: int
    batch_size: int
    length: int = 0
    distractors: tuple[int, ...] = ()
    vocabulary: int = 0
    image_size: int = 0
    patch_size: int = 0

    @property
    def classifies(self) -> bool:
        """Whether accuracy is measured, and not loss."""
        return self.kind in (SYNTHETIC, CLASSIFIED, IMAGES)


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        digest: SHA-256 of the file, which every result carries.
        maps: names, of `MAPS`; the first is the baseline.
        seeds: of the models that are compared.
        sweep_seed: of those that choose the learning rate.
        learning_rates: the grid, the same for all maps and tasks.
        weight_decay, warmup, max_grad_norm, dropout: of training.
        level: of tests.
        curve_points: how often validation loss is measured in a training.
        measured_rows: validation rows for measurements of attention and hidden states.
        tasks: by name, in the order in which they are run.
        by_accuracy: names of tasks whose learning rate is that of the highest validation accuracy instead of the smallest loss, and whose
            time is that to softmax's smallest validation loss instead of its last; of `AMENDMENTS.md`.
    """

    digest: str
    maps: tuple[str, ...]
    seeds: tuple[int, ...]
    sweep_seed: int
    learning_rates: tuple[float, ...]
    weight_decay: float
    warmup: float
    max_grad_norm: float
    dropout: float
    level: float
    curve_points: int
    measured_rows: int
    tasks: dict[str, Task]
    by_accuracy: tuple[str, ...] = ()

    @property
    def baseline(self) -> str:
        """The map that the others are compared with."""
        return self.maps[0]


def read_plan(path: Path = PLAN) -> Plan:
    """The plan in a file, with what a file of amendments beside it changes, if there is one.

    Raises:
        RecipeError: the file is not there, or its YAML is no plan; what is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot read the plan {path}: {error.strerror}") from error
    block, amended = _block(text, path.name), _amended(path.with_name(AMENDMENTS))
    try:
        found: dict[str, Any] = yaml.safe_load(block)
        tasks = {name: _task(name, values) for name, values in found.pop("tasks").items()}
        lists: dict[str, Any] = {name: tuple(found.pop(name)) for name in ("maps", "seeds", "learning_rates")}
        plan = Plan(digest=hashlib.sha256(text.encode()).hexdigest(), tasks=tasks, by_accuracy=amended, **lists, **found)
    except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RecipeError(f"the YAML of {path.name} is no plan: {type(error).__name__} {' '.join(str(error).split())}") from error
    _check(plan, path.name)
    return plan


def _block(text: str, name: str) -> str:
    blocks: list[str] = BLOCK.findall(text)
    if len(blocks) != 1:
        raise RecipeError(f"{name} must hold one block of YAML, which is the plan, but holds {len(blocks)}")
    return blocks[0]


def _amended(path: Path) -> tuple[str, ...]:
    """The tasks of `by_accuracy`, the one thing that can be amended."""
    if not path.is_file():
        return ()
    try:
        found = yaml.safe_load(_block(path.read_text(encoding="utf-8"), path.name))
    except yaml.YAMLError as error:
        raise RecipeError(f"the YAML of {path.name} cannot be read: {' '.join(str(error).split())}") from error
    tasks = found.get("by_accuracy") if isinstance(found, dict) and len(found) == 1 else None
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise RecipeError(f"the YAML of {path.name} must be by_accuracy: [task, ...], but is {found}")
    return tuple(tasks)


def _task(name: str, values: dict[str, Any]) -> Task:
    given = dict(values)
    size, distractors = Size(**given.pop("model")), tuple(given.pop("distractors", ()))
    return Task(name=name, model=size, distractors=distractors, **given)


def _check(plan: Plan, name: str) -> None:
    unknown = [each for each in plan.maps if each not in MAPS]
    if unknown or not plan.maps or len(set(plan.maps)) < len(plan.maps):
        what = f"there is no map {unknown[0]!r}" if unknown else "maps must be different names"
        raise RecipeError(f"{name}: {what}; choose from {', '.join(MAPS)}")
    if plan.sweep_seed in plan.seeds:
        raise RecipeError(f"{name}: sweep_seed {plan.sweep_seed} is also one of the seeds that are compared")
    wrong = [each for each in plan.by_accuracy if each not in plan.tasks or not plan.tasks[each].classifies]
    if wrong:
        raise RecipeError(f"{AMENDMENTS}: {wrong[0]} is no task of the plan that has an accuracy")
    for task in plan.tasks.values():
        if task.kind not in KINDS:
            raise RecipeError(f"{name}: {task.name} is of kind {task.kind!r}, but must be one of {', '.join(KINDS)}")
        if task.steps < 1 or task.model.width % task.model.heads:
            raise RecipeError(f"{name}: {task.name} needs at least one step, and a width that its heads divide")
