"""What is run on each data set: one YAML file each in `sets/`, read into frozen settings that cannot be wrong."""

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hf_tanhmax.errors import RecipeError, one_line
from hf_tanhmax.training.configuration.recipe import StrictLoader

SETS = Path(__file__).parent / "sets"


@dataclass(frozen=True)
class Arm:
    """One attention's settings in the paper.

    Attributes:
        learning_rate: of Adadelta.
        scale: what dot scores are divided by.
    """

    learning_rate: float
    scale: float


@dataclass(frozen=True)
class DataSet:
    """One column of the paper's table.

    Attributes:
        name: of the YAML file.
        title: for the report.
        folder: of local files, inside one of the folders that `--data` gives; None for the synthetic task.
        files: file names by split, inside that folder.
        hub: name and configuration on the Hub.
        hub_splits: names there of the splits.
        text_column, label_column: of files and of the Hub's rows.
        hub_labels: which of the Hub's labels stand for 0 and 1; other rows are left out. Files hold 0 and 1.
        max_length: words kept of each text.
        vocabulary: most frequent words kept.
        score_function: "dot" or "additive".
        embedding_size, hidden_size: E and H.
        softmax, tanhmax: the paper's settings for the two arms.
        learning_rates, scales: the grid on which both arms are tried for the common settings.
        epochs: of training with the paper's settings.
        batch_size: documents a step.
        loss_factor: of the cross entropy.
        attentions: that are run; tanh is the paper's third activation.
        grid_epochs: of the grid, and the most that it may choose.
        grid_every: epochs between two looks at the validation split.
        grid_seeds: how many try each setting of the grid.
        basin_epochs: of each run of the sweep of settings.
        basin_settings: how many of the sweep's settings are tried.
        seeds_at_once: that are trained together; pays where the classifier is small.
    """

    name: str
    title: str
    score_function: str
    embedding_size: int
    hidden_size: int
    softmax: Arm
    tanhmax: Arm
    learning_rates: tuple[float, ...]
    scales: tuple[float, ...]
    folder: str | None = None
    files: dict[str, str] | None = None
    hub: str | None = None
    hub_config: str | None = None
    hub_splits: dict[str, str] | None = None
    text_column: str = "text"
    label_column: str = "label"
    hub_labels: tuple[int, ...] = (0, 1)
    max_length: int = 30
    vocabulary: int = 8000
    epochs: int = 100
    batch_size: int = 100
    loss_factor: float = 100.0
    attentions: tuple[str, ...] = ("softmax", "tanhmax")
    grid_epochs: int = 100
    grid_every: int = 5
    grid_seeds: int = 1
    basin_epochs: int = 60
    basin_settings: int = 13
    seeds_at_once: int = 1

    def arm(self, attention: str) -> Arm:
        """The paper's settings; tanh has TanhMax's, as the paper gives none."""
        return self.softmax if attention == "softmax" else self.tanhmax


def read_sets(folder: Path = SETS) -> dict[str, DataSet]:
    """All data sets of a folder, by name.

    Raises:
        RecipeError: a file that is not YAML, an unknown or missing key, a value of the wrong type.
    """
    return {path.stem: read_set(path) for path in sorted(folder.glob("*.yaml"))}


def read_set(path: Path) -> DataSet:
    """One data set.

    Raises:
        RecipeError: as `read_sets`.
    """
    import yaml

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"{path} must hold lines of `key: value`, but holds {found!r}")
    return _made(DataSet, {"name": path.stem, **found}, str(path))


def _made(kind: Any, values: dict[str, Any], where: str) -> Any:
    types, defaults = get_type_hints(kind), {field.name: field.default for field in fields(kind)}
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise RecipeError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(types)}")
    missing = [name for name, default in defaults.items() if default is MISSING and name not in values]
    if missing:
        raise RecipeError(f"{where}: {missing[0]} is missing")
    return kind(**{key: _value(key, value, types[key], where) for key, value in values.items()})


def _value(key: str, value: Any, kind: Any, where: str) -> Any:
    if kind is Arm:
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: {key} must hold learning_rate and scale, but is {value!r}")
        return _made(Arm, value, f"{where}: {key}")
    if get_origin(kind) is tuple and isinstance(value, list):
        wanted = get_args(kind)[0]
        return tuple(_value(key, item, wanted, where) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    accepted = {int: int, float: float, str: str}.get(kind)
    too_small = isinstance(value, int | float) and value <= 0 and key != "hub_labels"
    if accepted is not None and (isinstance(value, bool) or not isinstance(value, accepted) or too_small):
        raise RecipeError(f"{where}: {key} must be {'text' if kind is str else 'a positive number'}, but is {value!r}")
    return value
