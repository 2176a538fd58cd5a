"""What a run leaves behind: one JSON file with its numbers and all that they hang on, and a table of several such files."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from filelock import FileLock

from ..errors import RecipeError
from .checkpoints import write_json
from .configuration.recipe import Recipe
from .configuration.schema import ROOT

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "peft", "hf-tanhmax")
PARTS = {"recipe", "variant", "metrics", "attention_health", "seed"}


def results_of(recipe: Recipe, measured: dict[str, Any], *, data: dict[str, Any], seconds: float) -> dict[str, Any]:
    """All that is known about a run.

    Args:
        recipe: what was run.
        measured: what the run found: `model`, `metrics`, `main_metric` and so on.
        data: the fingerprint of the rows.
        seconds: from start to end.
    """
    config = recipe.config
    return {
        "recipe": recipe.name,
        "variant": recipe.variant,
        "attention": attention_in_words(config.identity()),
        "seed": config.seed,
        **measured,
        "config": portable(config.identity())
        | {"num_train_epochs": config.resolved_epochs, "learning_rate": config.resolved_learning_rate},
        "data": data,
        "versions": versions(),
        "git": git_commit(),
        "hardware": hardware(),
        "wall_time_s": round(seconds, 2),
    }


def gather(folder: Path, recipe: Recipe, result: dict[str, Any]) -> Path:
    """Put a result among those of its variant, in `<folder>/<family>--<task>--<variant>.json`, in place of the same run's older one."""
    path = folder / f"{recipe.name}--{recipe.variant}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{path.name}.lock"):
        runs = [run for run in (read_runs(path) if path.is_file() else []) if identity_of(run) != identity_of(result)]
        write_json(path, {"runs": sorted([*runs, result], key=lambda run: (str(settings_of(run)), run["seed"]))})
    return path


def settings_of(result: dict[str, Any]) -> str:
    """What must agree for two runs to count as the same with other seeds: all keys but the seed, and the data."""
    kept = {key: value for key, value in result.get("config", {}).items() if key != "seed"}
    data = {key: value for key, value in result.get("data", {}).items() if key != "rows"}
    return repr((sorted(kept.items()), sorted(data.items())))


def identity_of(result: dict[str, Any]) -> tuple[str, int]:
    """What makes a run the same run."""
    return settings_of(result), result["seed"]


def versions() -> dict[str, str]:
    """Of Python and of the packages that bear on the numbers."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration, where a path of this machine keeps its last two parts: the data's digests say which files they were."""

    def _short(value: Any) -> Any:
        is_path = isinstance(value, str) and Path(value).is_absolute()
        return "/".join(Path(value).parts[-2:]) if is_path else value

    return {key: _short(value) for key, value in config.items()}


def attention_in_words(config: dict[str, Any]) -> str:
    """Which attention a configuration trains, in a few words."""
    if config["attention"] == "softmax":
        return "softmax" + (f", LoRA of rank {config['lora_rank']}" if config.get("lora_rank") else "")
    if config["polarity"] == "learned":
        words = f"TanhMax, learned from c = {config['score_bias']:g}"
    elif config["polarity_schedule"]:
        words = f"TanhMax, {config['polarity_schedule']} from {config['polarity_start']:g} to {config['polarity']:g}"
    else:
        words = f"TanhMax, polarity {config['polarity']:g}"
    for key in ("layers", "heads"):
        words += f", {key} {', '.join(map(str, config[key]))}" if config[key] else ""
    return words + (f", LoRA of rank {config['lora_rank']}" if config.get("lora_rank") else "")


def git_commit() -> dict[str, Any] | None:
    """Commit of the working tree that the recipe runs from, and whether it differs from it; None outside one."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """The machine, as far as it bears on the numbers."""
    state = PartialState()
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if state.device.type == "cuda" else None,
        "device": state.device.type,
        "num_processes": state.num_processes,
        "distributed_type": state.distributed_type.value,
    }


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The runs in a result file, of one variant or of one run.

    Raises:
        RecipeError: no such file, or not a result of a recipe.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RecipeError(f"{path} is not JSON: {error}") from error
    runs = found.get("runs", [found]) if isinstance(found, dict) else None
    if not runs or not all(isinstance(run, dict) and set(run) >= PARTS for run in runs):
        raise RecipeError(f"{path} is not a result of recipes.train")
    return runs


def read_results(path: Path) -> dict[str, Any]:
    """The result of one run.

    Raises:
        RecipeError: as `read_runs`, or several runs.
    """
    runs = read_runs(path)
    if len(runs) > 1:
        raise RecipeError(f"{path} holds {len(runs)} runs, but one was wanted")
    return runs[0]


def numbers_of(result: dict[str, Any]) -> dict[str, float | None]:
    """The columns of a table: name and value."""
    metrics, health = result["metrics"], result["attention_health"]["overall"]
    main = result.get("main_metric", "accuracy")
    reported = [name for name in result.get("reported", ["accuracy", "f1"]) if name not in (main, "cross_entropy")]
    return {
        "train loss": metrics["train_loss"],
        f"val. {main}": metrics.get(f"validation_{main}"),
        f"test {main}": metrics.get(f"test_{main}"),
        **{f"test {name.replace('_', ' ')}": metrics.get(f"test_{name}") for name in reported},
        "negative mass": health["negative_mass"],
        "weight sum": health["weight_sum"],
        **({"seconds": result["wall_time_s"]} if result["hardware"]["gpu"] else {}),  # on shared processors a time tells nothing
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Aligned columns of text: the first to the left, the others to the right."""
    widths = [max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    if markdown:
        rule = "|".join("-" * (width + 2) if index == 0 else "-" * (width + 1) + ":" for index, width in enumerate(widths))
        return "\n".join([line(header), f"|{rule}|", *map(line, rows)])
    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def formatted(name: str, value: float | None, spread: float | None = None) -> str:
    """A number of a column, with its standard deviation if there is one."""
    if value is None:
        return "-"
    digits = 1 if name == "seconds" else 4
    return f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")
