"""A recipe: a YAML file that names what is run, the flags that change it, and the variant to compare with.

Every name is known, every value is of its type, and a sentence tells the first that is not.
"""

import difflib
import sys
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ...errors import RecipeError, one_line
from ...results import RENAMED_KEYS
from .schema import ATTENTION, BASE, CONFIGS, LARGEST, ROOT, Config, check_given

USAGE = """\
usage: accelerate launch -m recipes.train RECIPE.yaml [--key value ...]

RECIPE.yaml is recipes/<family>/<task>/<variant>.yaml or one of yours that names its task. It holds the keys that differ from the task's
base.yaml, which changes recipes/base.yaml; `--key value` overrides them all. `RECIPE.yaml --help` shows the keys of its task.
`python -m recipes.train` runs the same without accelerate's launcher. Exit codes: 0 done, 2 something given cannot work, 130 stopped by
Ctrl-C with a checkpoint saved.

examples:
  accelerate launch -m recipes.train recipes/bert/text_classification/aligned.yaml --model_name_or_path google-bert/bert-base-uncased \\
      --train_file train.csv --test_file test.csv --compare_with softmax
  accelerate launch -m recipes.train recipes/llama/causal_lm/balanced_lora.yaml --model_name_or_path HuggingFaceTB/SmolLM2-135M \\
      --train_file book.txt --push_to_hub you/tanhmax-smollm2
  accelerate launch -m recipes.train recipes/bert/text_classification/tanhmax.yaml --compare_with softmax
  accelerate launch --config_file recipes/accelerate_configs/ddp.yaml -m recipes.train recipes/bert/text_classification/tanhmax.yaml \\
      --num_processes 2

tasks: {tasks}

variants, those first that keep most of what a trained softmax checkpoint can do:

{variants}

keys and defaults:

"""
# In the order in which somebody with a trained checkpoint should look at them.
VARIANTS = {
    "aligned": "a trained checkpoint, calibrated with unlabelled training rows: BERT and ViT have their biases aligned and polarity 1 from "
    "the first step; LLaMA has a balanced shift at polarity 0.2, and its output projections refitted",
    "balanced": "a trained checkpoint, not calibrated: a balanced shift, w = (P - p N) / (1 + p), at polarity 0.2",
    "aligned_lora": "as `aligned`, but only LoRA adapters and a new head are trained",
    "balanced_lora": "as `balanced`, but only LoRA adapters and a new head are trained",
    "learned": "every head learns its own polarity, starting close to softmax",
    "annealed": "polarity grows from 0 to exactly 1 over the first half of the steps",
    "lora": "as `annealed`, but only LoRA adapters and a new head are trained",
    "tanhmax": "a model from scratch: polarity 1 from the first step",
    "softmax": "the baseline",
}
Values = dict[str, object]
Layer = tuple[str, Values]  # keys, and what to put before one in a sentence that refuses it: its file, or the dashes of a flag
Schema = dict[str, Any]  # JSON schema of one key
WORDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text", "null": "null"}


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, object]:
        """A mapping whose keys are all different."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise RecipeError(f"{key} is given twice")
        return super().construct_mapping(node, deep=deep)


@dataclass(frozen=True)
class Recipe:
    """What one run is.

    Attributes:
        name: the folders of the YAML file, as in `bert--text_classification`; those of the task for a file elsewhere.
        variant: the stem of the YAML file.
        config: all keys.
    """

    name: str
    variant: str
    config: Config

    @property
    def run_name(self) -> str:
        """The name that its result file and its default output folder have."""
        return f"{self.name}--{self.variant}--seed{self.config.seed}"

    @property
    def output_dir(self) -> Path:
        """Where checkpoints, the model and `results.json` go."""
        return Path(self.config.output_dir or Path("runs") / self.run_name)


def read_recipes(arguments: list[str]) -> list[Recipe]:
    """The recipe that a command line names, and the one to compare with if there is one.

    Raises:
        RecipeError: anything in the files or flags that cannot work.
    """
    if not arguments or arguments[0].startswith("--"):
        raise RecipeError(f"name a recipe first, such as {task_base('bert/text_classification').with_name('tanhmax.yaml')}; see --help")
    path = Path(arguments[0])
    if not path.is_file():
        raise RecipeError(f"there is no file {arguments[0] or repr('')}")
    task = task_of(path)
    layers, flags = read_layers(task, path.with_name("base.yaml"), path), read_flags(arguments[1:], task)
    config = checked(task, *layers, ("--", flags))
    check_given(config, {*flags, *(layers[-1][1] if path.name != "base.yaml" else ())})
    recipe = Recipe(_name_of(path, task), path.stem, config)
    return [recipe] if config.compare_with is None else [recipe, _twin(path, recipe, config.compare_with)]


def task_base(task: str) -> Path:
    """The file with the defaults of a task."""
    return ROOT / task / "base.yaml"


def read_layers(task: str, *files: Path) -> list[Layer]:
    """The keys of a task with their defaults, and of files that change them, as far as they exist.

    Raises:
        RecipeError: as `read_yaml`.
    """
    return [(f"{file}: ", read_yaml(file)) for file in dict.fromkeys([BASE, task_base(task), *files]) if file.is_file()]


def print_help(arguments: list[str]) -> None:
    """Usage, examples, and every key with its default: of the task of the recipe that is named, or those of every recipe."""
    named = [Path(argument) for argument in arguments if argument.endswith(".yaml")]
    files = [BASE, *([task_base(task_of(named[0]))] if named else [])]
    wrapper = textwrap.TextWrapper(width=120, subsequent_indent=" " * 17)
    variants = "\n".join(wrapper.fill(f"  {name:<13}  {sentence}") for name, sentence in VARIANTS.items())
    usage = USAGE.replace("{tasks}", ", ".join(CONFIGS)).replace("{variants}", variants)
    sys.stdout.write(usage + "\n".join(file.read_text(encoding="utf-8") for file in files))


def task_of(path: Path) -> str:
    """The task that a YAML file names, or the base.yaml beside it.

    Raises:
        RecipeError: as `read_yaml`; no task, or one that does not exist.
    """
    for file in (path, path.with_name("base.yaml")):
        task = read_yaml(file).get("task") if file == path or file.is_file() else None
        if task is not None and task not in list(CONFIGS):
            raise RecipeError(f"{file}: unknown task {task!r}; there are {', '.join(CONFIGS)}")
        if task is not None:
            return str(task)
    raise RecipeError(f"{path} names no task; add a line such as `task: bert/text_classification`; there are {', '.join(CONFIGS)}")


def read_yaml(path: Path) -> Values:
    """The keys of one YAML file, not yet checked.

    Raises:
        RecipeError: no such file, not YAML, or a key twice; the sentence names the file.
    """
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


def read_flags(flags: list[str], task: str) -> Values:
    """The keys given as `--key value`, `--key=value`, or `--key` alone for true; their values are not yet checked.

    Raises:
        RecipeError: an unknown key, or one twice, without a value, or not to be changed.
    """
    found: Values = {}
    words = list(flags)
    while words:
        flag, equals, text = words.pop(0).partition("=")
        if not flag.startswith("--"):
            raise RecipeError(f"expected --key value, but got {flag + equals + text!r}")
        if not equals and words and not words[0].startswith("--"):
            text, equals = words.pop(0), "="
        key = flag[2:].replace("-", "_")
        if key not in CONFIGS[task].model_fields:
            raise RecipeError(f"{flag}: {_unknown(key, task)}")
        if key == "task":
            raise RecipeError(f"{flag} cannot be changed: it belongs to the YAML file")
        if key in found:
            raise RecipeError(f"{flag} is given twice")
        kind = _schema(task)[key]
        if not equals and kind.get("type") != "boolean":
            raise RecipeError(f"{flag} needs a value, {_wanted(kind)}")
        found[key] = _parsed(text, kind) if equals else True
    return found


def checked(task: str, *layers: Layer) -> Config:
    """The configuration of a task from layers of its keys, of which later ones change earlier ones.

    Raises:
        RecipeError: an unknown key, naming the nearest one; a wrong value, naming what came and what was wanted; or values that do not go
            together.
    """
    values = {key: value for _, layer in layers for key, value in layer.items()}
    places = {key: place for place, layer in layers for key in layer}
    try:
        return CONFIGS[task].model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            raise RecipeError(f"{places[key]}{_unknown(key, task)}") from error
        kind = _schema(task)[key]
        wanted = (
            _wanted(kind)
            if first["type"].endswith(("_type", "literal_error"))
            else _range(kind, too_large=first["type"].startswith("less_than"))
        )
        raise RecipeError(f"{places[key]}{key} must be {wanted}, but is {values[key]!r}") from error


def _twin(path: Path, recipe: Recipe, variant: str) -> Recipe:
    """The same run with another variant's attention, and with whatever else that variant's file says."""
    other = path.parent / f"{variant}.yaml"
    if not other.is_file() or variant == "base" or other.parent != path.parent:
        there = sorted(file.stem for file in path.parent.glob("*.yaml") if file.stem not in ("base", path.stem))
        raise RecipeError(f"compare_with: there is no variant {variant!r} beside {path.name}; there are {', '.join(there) or 'none'}")
    if variant == path.stem:
        raise RecipeError(f"compare_with: {variant!r} is the variant itself")
    *bases, given = read_layers(recipe.config.task, path.with_name("base.yaml"), other)
    attention = [(place, {key: value for key, value in layer.items() if key in ATTENTION}) for place, layer in bases]
    output_dir = f"{recipe.config.output_dir}--{variant}" if recipe.config.output_dir else None
    own: Values = {"output_dir": output_dir, "compare_with": None, "push_to_hub": None}
    return Recipe(recipe.name, variant, checked(recipe.config.task, ("", dict(recipe.config)), *attention, given, ("", own)))


def _name_of(path: Path, task: str) -> str:
    try:
        return "--".join(path.resolve().parent.relative_to(ROOT.resolve()).parts) or task.replace("/", "--")
    except ValueError:
        return task.replace("/", "--")


def _unknown(key: str, task: str) -> str:
    others = [other for other, config in CONFIGS.items() if key in config.model_fields]
    near = difflib.get_close_matches(key, CONFIGS[task].model_fields, n=1, cutoff=0.4)
    if key in RENAMED_KEYS:
        hint = f", which is called {RENAMED_KEYS[key]!r} now"
    elif others:
        hint = f", which belongs to {', '.join(others)} and not to {task}"
    else:
        hint = f"; did you mean {near[0]!r}?" if near else "; see --help"
    return f"unknown key {key!r}{hint}"


def _parsed(text: str, kind: Schema) -> object:
    branches = kind.get("anyOf", [kind])
    if not ({"type": "null"} in branches and text in ("null", "~", "")):
        if any(branch["type"] == "string" and not _choices(branch) for branch in branches):
            return text
        if any(branch["type"] == "array" for branch in branches) and not text.startswith("["):
            text = f"[{text}]"
    try:
        return yaml.load(text, Loader=StrictLoader)
    except yaml.YAMLError:
        return text


@cache
def _schema(task: str) -> dict[str, Schema]:
    return CONFIGS[task].model_json_schema()["properties"]


def _wanted(kind: Schema) -> str:
    """A type in words."""
    if "anyOf" in kind:
        return " or ".join(map(_wanted, kind["anyOf"]))
    if kind["type"] == "array":
        return "a list of whole numbers" if kind["items"]["type"] == "integer" else "a list of words"
    return " or ".join(f'"{choice}"' for choice in _choices(kind)) or WORDS[kind["type"]]


def _choices(kind: Schema) -> list[str]:
    return kind.get("enum", [kind["const"]] if "const" in kind else [])


def _range(kind: Schema, *, too_large: bool) -> str:
    """A range in words; of one that is open for all that is reasonable the end in question."""
    number = next(branch for branch in kind.get("anyOf", [kind]) if branch["type"] in ("integer", "number"))
    low, high = number.get("minimum"), number.get("maximum")
    if high is None or (high >= LARGEST and not too_large):
        return "positive" if low is None else f"at least {low}"
    if high >= LARGEST:
        return f"at most {high:g}" if isinstance(high, float) else f"at most {high}"
    return f"positive and at most {high}" if low is None else f"between {low} and {high}"
