"""Keys from YAML files and command lines: every name known, every value of its type, and a sentence about the first that is not."""

import difflib
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import yaml

from ...errors import RecipeError, one_line
from .task_configs import CONFIGS

TYPES: dict[str, dict[str, Any]] = {
    task: {key: kind for key, kind in get_type_hints(config).items() if get_origin(kind) is not ClassVar and kind is not ClassVar}
    for task, config in CONFIGS.items()
}
EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")  # 5e-5, which YAML reads as text for want of a point


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are all different."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise RecipeError(f"{key} is given twice")
        return super().construct_mapping(node, deep=deep)


def task_of(path: Path) -> str | None:
    """The task that a YAML file names; None if it names none.

    Raises:
        RecipeError: as `read_yaml`, or a task that does not exist.
    """
    task = _read(path).get("task")
    if task is not None and task not in TYPES:
        raise RecipeError(f"{path}: unknown task {task!r}; there are {', '.join(TYPES)}")
    return task


def read_yaml(path: Path, task: str) -> dict[str, Any]:
    """The keys of one YAML file, known to the task and of the right type.

    Raises:
        RecipeError: no such file, not YAML, an unknown key or a wrong type; the sentence names the file.
    """
    return {key: checked(key, value, task, f"{path}: ") for key, value in _read(path).items()}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"there is no file {path}")
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {one_line(error)}") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"{path} must hold lines of `key: value`, but holds {found!r}")
    return {str(key): value for key, value in found.items()}


def read_flags(flags: list[str], task: str) -> dict[str, Any]:
    """The keys given as `--key value`, `--key=value`, or `--key` alone for true.

    Raises:
        RecipeError: as `read_yaml`.
    """
    found: dict[str, Any] = {}
    position = 0
    while position < len(flags):
        flag = flags[position]
        if not flag.startswith("--"):
            raise RecipeError(f"expected --key value, but got {flag!r}")
        name, equals, text = flag[2:].partition("=")
        key = name.replace("-", "_")
        position += 1
        if not equals and position < len(flags) and not flags[position].startswith("--"):
            text, equals = flags[position], "="
            position += 1
        _known(key, task, f"--{name}: ")
        if key == "task":
            raise RecipeError(f"--{name} cannot be changed: it belongs to the YAML file")
        if key in found:
            raise RecipeError(f"--{name} is given twice")
        kind = TYPES[task][key]
        if not equals and kind is not bool:
            raise RecipeError(f"--{name} needs a value, {wanted(kind)}")
        found[key] = checked(key, _parse(kind, text) if equals else True, task, "--")
    return found


def checked(key: str, value: Any, task: str, where: str) -> Any:
    """The value of a key if its type is right, with lists as tuples and `5e-5`, which YAML reads as text, as a number.

    Raises:
        RecipeError: the key is unknown, naming the nearest one; or the type is wrong, naming what came and what was wanted.
    """
    _known(key, task, where)
    kind = TYPES[task][key]
    if isinstance(value, str) and EXPONENT.fullmatch(value) and not _fits(value, kind):
        value = float(value)
    if isinstance(value, list):
        value = tuple(value)
    if not _fits(value, kind):
        shown = list(value) if isinstance(value, tuple) else value
        raise RecipeError(f"{where}{key} must be {wanted(kind)}, but is {shown!r}")
    return value


def wanted(kind: Any) -> str:
    """A type in words."""
    if isinstance(kind, UnionType) or get_origin(kind) not in (None, tuple, Literal):
        return " or ".join(wanted(one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return " or ".join(f'"{one}"' for one in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of whole numbers" if int in get_args(kind) else "a list of words"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}[kind]


def _known(key: str, task: str, where: str) -> None:
    if key in TYPES[task]:
        return
    others = [other for other, kinds in TYPES.items() if key in kinds]
    near = difflib.get_close_matches(key, TYPES[task], n=1, cutoff=0.4)
    if others:
        hint = f", which belongs to {', '.join(others)} and not to {task}"
    else:
        hint = f"; did you mean {near[0]!r}?" if near else "; see --help"
    raise RecipeError(f"{where.removesuffix('--')}unknown key {key!r}{hint}")


def _parse(kind: Any, text: str) -> Any:
    empty = text in ("null", "~", "")
    if kind is str or (str in get_args(kind) and not empty):
        return text
    if any(get_origin(one) is tuple for one in get_args(kind)) and not empty and not text.startswith("["):
        text = f"[{text}]"
    try:
        return yaml.load(text, Loader=StrictLoader)
    except yaml.YAMLError:
        return text


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType) or get_origin(kind) not in (None, tuple, Literal):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(one, get_args(kind)[0]) for one in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)
