"""A recipe: a YAML file that names what is run, the flags that change it, and the variant to compare with."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import RecipeError
from .config import ATTENTION, BASE, ROOT, Config, check_given
from .keys import read_flags, read_yaml, task_of
from .task_configs import CONFIGS

USAGE = """\
usage: accelerate launch -m recipes.train RECIPE.yaml [--key value ...]

RECIPE.yaml is recipes/<family>/<task>/<variant>.yaml or one of yours that names its task. It holds the keys that differ from the task's
base.yaml, which changes recipes/base.yaml; `--key value` overrides them all. `RECIPE.yaml --help` shows the keys of its task.
`python -m recipes.train` runs the same without accelerate's launcher. Exit codes: 0 done, 2 something given cannot work, 130 stopped by
Ctrl-C with a checkpoint saved.

examples:
  accelerate launch -m recipes.train recipes/bert/text_classification/tanhmax.yaml --compare_with softmax
  accelerate launch --config_file recipes/accelerate_configs/ddp.yaml -m recipes.train recipes/bert/text_classification/annealed.yaml \\
      --num_processes 2
  accelerate launch -m recipes.train recipes/bert/text_classification/annealed.yaml --model_name_or_path google-bert/bert-base-uncased \\
      --train_file train.csv --test_file test.csv
  accelerate launch -m recipes.train recipes/llama/causal_lm/lora.yaml --model_name_or_path HuggingFaceTB/SmolLM2-135M \
      --train_file book.txt --push_to_hub you/tanhmax-smollm2

tasks: {tasks}

keys and defaults:

"""


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
    task = _task(path)
    values, given = _merged(path, task)
    flags = read_flags(arguments[1:], task)
    config = _config(task, {**values, **flags})
    check_given(config, given | set(flags))
    recipe = Recipe(_name_of(path, task), path.stem, config)
    return [recipe] if config.compare_with is None else [recipe, _twin(path, recipe, config.compare_with)]


def task_base(task: str) -> Path:
    """The file with the defaults of a task."""
    return ROOT / task / "base.yaml"


def print_help(arguments: list[str]) -> None:
    """Usage, examples, and every key with its default: of the task of the recipe that is named, or those of every recipe."""
    named = [Path(argument) for argument in arguments if argument.endswith(".yaml")]
    files = [BASE, *([task_base(_task(named[0]))] if named else [])]
    sys.stdout.write(USAGE.replace("{tasks}", ", ".join(CONFIGS)) + "\n".join(file.read_text(encoding="utf-8") for file in files))


def _task(path: Path) -> str:
    task, base = task_of(path), path.with_name("base.yaml")
    if task is None and base.is_file():
        task = task_of(base)
    if task is None:
        raise RecipeError(f"{path} names no task; add a line such as `task: bert/text_classification`; there are {', '.join(CONFIGS)}")
    return task


def _merged(path: Path, task: str) -> tuple[dict[str, object], set[str]]:
    base = path.with_name("base.yaml")
    values = {**read_yaml(BASE, task), **read_yaml(task_base(task), task), **(read_yaml(base, task) if base.is_file() else {})}
    given = {} if path.name == "base.yaml" else read_yaml(path, task)
    return {**values, **given}, set(given)


def _config(task: str, values: dict[str, object]) -> Config:
    return CONFIGS[task](**values)  # type: ignore[arg-type]


def _twin(path: Path, recipe: Recipe, variant: str) -> Recipe:
    """The same run with another variant's attention, and with whatever else that variant's file says."""
    other = path.with_name(f"{variant}.yaml")
    if not other.is_file() or variant == "base":
        there = sorted(file.stem for file in path.parent.glob("*.yaml") if file.stem not in ("base", path.stem))
        raise RecipeError(f"compare_with: there is no variant {variant!r} beside {path.name}; there are {', '.join(there) or 'none'}")
    if variant == path.stem:
        raise RecipeError(f"compare_with: {variant!r} is the variant itself")
    values, given = _merged(other, recipe.config.task)
    attention = {key: values[key] for key in {*ATTENTION, *given}}
    output_dir = f"{recipe.config.output_dir}--{variant}" if recipe.config.output_dir else None
    config = replace(recipe.config, **attention, output_dir=output_dir, compare_with=None, push_to_hub=None)  # type: ignore[arg-type]
    return Recipe(recipe.name, variant, config)


def _name_of(path: Path, task: str) -> str:
    try:
        return "--".join(path.resolve().parent.relative_to(ROOT.resolve()).parts) or task.replace("/", "--")
    except ValueError:
        return task.replace("/", "--")
