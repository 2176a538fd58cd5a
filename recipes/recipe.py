"""A recipe: a YAML file that names what is run, the flags that change it, and the variant to compare with."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from .config import ATTENTION, BASE, ROOT, Config, check_given
from .errors import RecipeError
from .keys import read_flags, read_yaml

USAGE = """\
usage: accelerate launch -m recipes.train RECIPE.yaml [--key value ...]

RECIPE.yaml holds the keys that differ from the base.yaml beside it; `--key value` overrides both. `python -m recipes.train` runs the
same without accelerate's launcher.

examples:
  accelerate launch -m recipes.train recipes/bert/text_classification/tanhmax.yaml --compare_with softmax
  accelerate launch --config_file recipes/accelerate_configs/ddp.yaml -m recipes.train recipes/bert/text_classification/annealed.yaml \\
      --num_processes 2
  accelerate launch -m recipes.train recipes/bert/text_classification/annealed.yaml --model_name_or_path google-bert/bert-base-uncased \\
      --train_file train.csv --test_file test.csv

keys and defaults:

"""


@dataclass(frozen=True)
class Recipe:
    """What one run is.

    Attributes:
        name: the folders of the YAML file, as in `bert--text_classification`; `custom` for a file elsewhere.
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
        raise RecipeError(f"name a recipe first, such as {BASE.with_name('tanhmax.yaml')}; --help shows all keys")
    path = Path(arguments[0])
    values, given = _merged(path)
    flags = read_flags(arguments[1:])
    config = _config({**values, **flags})
    check_given(config, given | set(flags))
    recipe = Recipe(_name_of(path), path.stem, config)
    return [recipe] if config.compare_with is None else [recipe, _twin(path, recipe, config.compare_with)]


def print_help() -> None:
    """Usage, examples, and every key with its default."""
    sys.stdout.write(USAGE + BASE.read_text(encoding="utf-8"))


def _merged(path: Path) -> tuple[dict[str, object], set[str]]:
    base = path.with_name("base.yaml")
    values = {**read_yaml(BASE), **(read_yaml(base) if base.is_file() else {})}
    given = {} if path.name == "base.yaml" and path.is_file() else read_yaml(path)
    return {**values, **given}, set(given)


def _config(values: dict[str, object]) -> Config:
    return Config(**values)  # type: ignore[arg-type]


def _twin(path: Path, recipe: Recipe, variant: str) -> Recipe:
    """The same run with another variant's attention."""
    other = path.with_name(f"{variant}.yaml")
    if not other.is_file() or variant == "base":
        there = sorted(file.stem for file in path.parent.glob("*.yaml") if file.stem not in ("base", path.stem))
        raise RecipeError(f"compare_with: there is no variant {variant!r} beside {path.name}; there are {', '.join(there) or 'none'}")
    if variant == path.stem:
        raise RecipeError(f"compare_with: {variant!r} is the variant itself")
    values, _ = _merged(other)
    attention = {key: values[key] for key in ATTENTION}
    output_dir = f"{recipe.config.output_dir}--{variant}" if recipe.config.output_dir else None
    config = replace(recipe.config, **attention, output_dir=output_dir, compare_with=None)  # type: ignore[arg-type]
    return Recipe(recipe.name, variant, config)


def _name_of(path: Path) -> str:
    try:
        return "--".join(path.resolve().parent.relative_to(ROOT.resolve()).parts) or "custom"
    except ValueError:
        return "custom"
