"""Results of runs: their schema, how they are read, checked, written and merged, mean and spread over seeds, and tables of text.

What a run measured is a JSON object (`Run`), alone in the run's `results.json`, among others in `{"runs": [...]}`, or a line of `.jsonl`.
"""

import json
import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict, TypeGuard, cast

from filelock import BaseFileLock, FileLock

from .errors import RecipeError
from .provenance import Commit, Machine, git_commit, hardware, versions

# Keys of a recipe that had other names before; results that were written then are read with the new ones.
RENAMED_KEYS = {
    "epochs": "num_train_epochs",
    "hub_private": "hub_private_repo",
    "learning_rate_schedule": "lr_scheduler_type",
    "max_gradient_norm": "max_grad_norm",
    "warmup_share": "warmup_steps",
}
NAMED = {"recipe", "variant", "seed", "metrics"}
NUMBERS = re.compile(r"\[\s*((?:-?[\d.]+(?:e[+-]?\d+)?,?\s*)+)\]")  # lists of numbers, which are written on one line


class RunConfig(TypedDict, total=False):
    """The keys of a recipe by which results are distinguished; there are others beside them."""

    attention: str
    polarity: float | str
    polarity_schedule: str | None
    polarity_start: float
    polarity_share: float
    score_bias: float
    layers: list[int] | None
    heads: list[int] | None
    shift: str | None
    calibrate: int
    balance: float
    lora_rank: int | None
    seed: int


class Data(TypedDict, total=False):
    """The rows of a run: where they came from, the digest of each file, and how many each split has."""

    source: str
    config: str | None
    dataset: str  # the name on the Hub of what files hold
    sha256: dict[str, str]
    rows: dict[str, int]


class Health(TypedDict, total=False):
    """Measures of the attention of a trained model, paths of layers of several kinds, and the polarity of each head if it was learned."""

    overall: dict[str, float]
    layers: list[dict[str, float]]
    names: list[str]
    polarity_per_head: list[list[float]]


class HealthPoint(TypedDict):
    """The attention health at one step of the training."""

    step: int
    overall: dict[str, float]
    layers: list[dict[str, float]]


class Conversion(TypedDict, total=False):
    """What came before training: calibration; of language models also losses (nats per token, on a few validation rows) and warnings."""

    calibration_rows: int
    calibration_seconds: float
    checked_rows: int
    softmax_loss: float
    converted_loss: float
    trained_loss: float
    warnings: list[str]


class Model(TypedDict, total=False):
    """The trained model."""

    base_model: str | None
    base_is_folder: bool
    parameters: int
    trained_parameters: int


class Named(TypedDict):
    """What every result has: the recipe, its variant, the seed, and the metrics."""

    recipe: str
    variant: str
    seed: int
    metrics: dict[str, object]


class Run(Named, total=False):
    """All of a run. `outcomes` holds a number for every test row, in one text; `example` the input, options and output of a pipeline."""

    attention: str
    model: Model
    main_metric: str
    higher_is_better: bool
    reported: list[str]
    attention_health: Health | None
    conversion: Conversion
    polarity_curve: list[list[float]]
    health_curve: list[HealthPoint]
    outcomes: dict[str, str]
    example: dict[str, str]
    config: RunConfig
    data: Data
    versions: dict[str, str]
    git: Commit | None
    hardware: Machine
    wall_time_s: float


def results_of(
    recipe: str, variant: str, config: Mapping[str, object], measured: Mapping[str, object], *, data: Mapping[str, object], seconds: float
) -> Run:
    """All that is known about a run.

    Args:
        recipe: name of what was run.
        variant: of the recipe.
        config: the recipe's keys and their values.
        measured: what the run found: `model`, `metrics`, `main_metric` and so on.
        data: the fingerprint of the rows.
        seconds: from start to end.
    """
    result = {
        "recipe": recipe,
        "variant": variant,
        "attention": attention_in_words(cast(RunConfig, config)),
        "seed": config["seed"],
        **measured,
        "config": portable(renamed(config)),
        "data": data,
        "versions": versions(),
        "git": git_commit(),
        "hardware": hardware(),
        "wall_time_s": round(seconds, 2),
    }
    return cast(Run, result)


def gather(folder: Path, result: Run) -> Path:
    """Put a result among those of its variant, in `<folder>/<family>--<task>--<variant>.json`, in place of the same run's older one."""
    path = folder / f"{result['recipe']}--{result['variant']}.json"
    with locked(path):
        runs = [run for run in (read_runs(path) if path.is_file() else []) if identity_of(run) != identity_of(result)]
        write_json(path, {"runs": sorted([*runs, result], key=identity_of)})
    return path


def read_runs(path: Path) -> list[Run]:
    """The runs in a result file (of one run, of a variant, or a `.jsonl` file of one run per line), with the current names of keys.

    Raises:
        RecipeError: no such file, or not results of a recipe.
    """
    try:
        found = read_lines(path) if path.suffix == ".jsonl" else json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RecipeError(f"{path} is not JSON: {error}") from error
    values: object = found if path.suffix == ".jsonl" else found.get("runs", [found]) if isinstance(found, dict) else []
    if not isinstance(values, list):
        raise RecipeError(f"{path} is not a result of recipes.train")
    runs = [_with_new_names(value) for value in values if _is_run(value) and "attention_health" in value]
    if not runs or len(runs) < len(values):
        raise RecipeError(f"{path} is not a result of recipes.train")
    return runs


def read_run(path: Path) -> Run:
    """The result of one run.

    Raises:
        RecipeError: as `read_runs`, or several runs.
    """
    runs = read_runs(path)
    if len(runs) > 1:
        raise RecipeError(f"{path} holds {len(runs)} runs, but one was wanted")
    return runs[0]


def check_runs(runs: object) -> list[Run]:
    """Runs of one model, with the current names of keys.

    Raises:
        ValueError: not results of recipes.train, runs of different settings or data, or one seed twice.
    """
    values = runs if isinstance(runs, Sequence) else []
    checked = [_with_new_names(value) for value in values if _is_run(value)]
    if not checked or len(checked) < len(values):
        raise ValueError("results must be a list of what recipes.train writes to results.json, one per seed, or None")
    first = _settings(checked[0])
    for run in checked[1:]:
        other = _settings(run)
        differing = sorted(key for key in {*first, *other} if first.get(key) != other.get(key))
        if differing:
            names = ", ".join(differing)
            raise ValueError(f"the results are not of one model: they differ in {names}; give those of one variant and its seeds")
    twice = seed_twice(checked)
    if twice is not None:
        raise ValueError(f"seed {twice} is given twice; a run counts once")
    return checked


def seed_twice(runs: Sequence[Run]) -> int | None:
    """The first seed that several of the runs have; None if there is none."""
    seeds = [run["seed"] for run in runs]
    return next((seed for seed in seeds if seeds.count(seed) > 1), None)


def settings_of(run: Run) -> str:
    """What must agree for two runs to count as the same with other seeds: recipe, variant, all keys but the seed, and the data."""
    return repr(sorted(_settings(run).items()))


def identity_of(run: Run) -> tuple[str, int]:
    """What makes a run the same run."""
    return settings_of(run), run["seed"]


def renamed(config: Mapping[str, object]) -> dict[str, object]:
    """A recipe's keys, older names replaced by the current ones."""
    return {RENAMED_KEYS.get(key, key): value for key, value in config.items()}


def portable(config: Mapping[str, object]) -> dict[str, object]:
    """The same configuration, where a path of this machine keeps its last two parts: the data's digests say which files they were."""
    return {
        key: "/".join(Path(value).parts[-2:]) if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in config.items()
    }


def _is_run(run: object) -> TypeGuard[Run]:
    return isinstance(run, dict) and run.keys() >= NAMED and isinstance(run.get("config", {}), dict)


def _with_new_names(run: Run) -> Run:
    return cast(Run, {**run, "config": renamed(run["config"])}) if "config" in run else run


def _settings(run: Run) -> dict[str, object]:
    data = {key: value for key, value in run.get("data", {}).items() if key != "rows"}
    kept = {key: value for key, value in run.get("config", {}).items() if key != "seed"}
    return {**kept, "recipe": run["recipe"], "variant": run["variant"], "data": data}


# Files


def read_lines(path: Path) -> list[object]:
    """The values of a file that holds one JSON value per line.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is not JSON; which one.
    """
    values = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            values += [json.loads(line)] if line else []
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return values


def write_lines(path: Path, values: Iterable[object]) -> None:
    """Write one JSON value per line, in one step as `write_json` does."""
    _replace(path, "".join(json.dumps(value, separators=(",", ":")) + "\n" for value in values))


def write_json(path: Path, value: object) -> None:
    """Write a file in one step: a reader sees the old contents or the new, never half."""
    _replace(path, NUMBERS.sub(lambda found: f"[{' '.join(found.group(1).split())}]", json.dumps(value, indent=2)) + "\n")


def locked(path: Path) -> BaseFileLock:
    """A lock for the time between reading a file and writing it again, which other processes wait for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.parent / f".{path.name}.lock")


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def attention_in_words(config: RunConfig) -> str:
    """Which attention a configuration trains, in a few words."""
    adapters = f", LoRA of rank {config['lora_rank']}" if config.get("lora_rank") else ""
    if config["attention"] == "softmax":
        return f"softmax{adapters}"
    kind = f"{config['shift']} TanhMax" if config.get("shift") else "TanhMax"
    if config["polarity"] == "learned":
        words = f"{kind}, learned from c = {config['score_bias']:g}"
    elif config["polarity_schedule"]:
        words = f"{kind}, {config['polarity_schedule']} from {config['polarity_start']:g} to {config['polarity']:g}"
    else:
        words = f"{kind}, polarity {config['polarity']:g}"
    words += "" if not config.get("calibrate") else ", calibrated" if config.get("shift") else f", aligned at balance {config['balance']:g}"
    for name, places in (("layers", config["layers"]), ("heads", config["heads"])):
        words += f", {name} {', '.join(map(str, places))}" if places else ""
    return words + adapters


# Numbers and tables


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of a result file is a number that a mean can be taken of."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def metric_of(run: Run, name: str) -> float | None:
    """A metric of a run; None where it has none or no number."""
    return value if is_number(value := run["metrics"].get(name)) else None


def main_metric(run: Run) -> str:
    """The metric by which models of this task are compared."""
    return run.get("main_metric", "accuracy")


def numbers_of(run: Run) -> dict[str, float | None]:
    """The numbers of a run that a comparison shows: name and value."""
    main, health = main_metric(run), (run["attention_health"] or {})["overall"]
    reported = [name for name in run.get("reported", ["accuracy", "f1"]) if name not in (main, "cross_entropy")]
    return {
        "train loss": metric_of(run, "train_loss"),
        f"val. {main}": metric_of(run, f"validation_{main}"),
        f"test {main}": metric_of(run, f"test_{main}"),
        **{f"test {name.replace('_', ' ')}": metric_of(run, f"test_{name}") for name in reported},
        "negative mass": health["negative_mass"],
        "weight sum": health["weight_sum"],
        **({"seconds": run["wall_time_s"]} if run["hardware"]["gpu"] else {}),  # on shared processors a time tells nothing
    }


def mean_and_deviation(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation over seeds: no deviation of one value, and neither where a value is not known."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def spread(values: Sequence[float | None], *, digits: int = 4) -> str:
    """Mean and, of several values, standard deviation in words; a dash where a value is not known."""
    mean, deviation = mean_and_deviation(values)
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation is not None else "")


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False, align: Literal["right", "left", "none"] = "right"
) -> str:
    """A table as text.

    Args:
        header: of the columns.
        rows: the cells of each line.
        markdown: for a document rather than a terminal.
        align: "right" aligns the columns after the first to the right, as numbers are, "left" all to the left; "none" does not pad.
    """
    widths = [0 if align == "none" else max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]
    right = [align == "right" and column > 0 for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        columns = zip(cells, widths, right, strict=True)
        padded = [cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in columns]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    if not markdown:
        return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])
    rules = ["-" * (width + 1) + (":" if to_right else "-") for width, to_right in zip(widths, right, strict=True)]
    rule = "|".join(["---"] * len(header) if align == "none" else rules)
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])
