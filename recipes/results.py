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

from .config import ROOT
from .errors import RecipeError
from .recipe import Recipe

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "hf-tanhmax")


def results_of(recipe: Recipe, *, metrics: dict[str, Any], health: dict[str, Any], data: dict[str, Any], seconds: float) -> dict[str, Any]:
    """All that `results.json` holds."""
    config = recipe.config
    return {
        "recipe": recipe.name,
        "variant": recipe.variant,
        "attention": attention_in_words(config.identity()),
        "seed": config.seed,
        "metrics": metrics,
        "attention_health": health,
        "config": portable(config.identity()) | {"epochs": config.resolved_epochs, "learning_rate": config.resolved_learning_rate},
        "data": data,
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}},
        "git": git_commit(),
        "hardware": hardware(),
        "wall_time_s": round(seconds, 2),
    }


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration, where a path of this machine keeps its last two parts: the data's digests say which files they were."""

    def _short(value: Any) -> Any:
        is_path = isinstance(value, str) and Path(value).is_absolute()
        return "/".join(Path(value).parts[-2:]) if is_path else value

    return {key: _short(value) for key, value in config.items()}


def attention_in_words(config: dict[str, Any]) -> str:
    """Which attention a configuration trains, in a few words."""
    if config["attention"] == "softmax":
        return "softmax"
    if config["polarity"] == "learned":
        words = f"TanhMax, learned from c = {config['score_bias']:g}"
    elif config["polarity_schedule"]:
        words = f"TanhMax, {config['polarity_schedule']} from {config['polarity_start']:g} to {config['polarity']:g}"
    else:
        words = f"TanhMax, polarity {config['polarity']:g}"
    for key in ("layers", "heads"):
        words += f", {key} {', '.join(map(str, config[key]))}" if config[key] else ""
    return words


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


def read_results(path: Path) -> dict[str, Any]:
    """One result file.

    Raises:
        RecipeError: no such file, or not a result of a recipe.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RecipeError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict) or not {"recipe", "variant", "metrics", "attention_health", "seed"} <= set(found):
        raise RecipeError(f"{path} is not a result of recipes.train")
    return found


def numbers_of(result: dict[str, Any]) -> dict[str, float | None]:
    """The columns of a table: name and value."""
    metrics, health = result["metrics"], result["attention_health"]["overall"]
    return {
        "train loss": metrics["train_loss"],
        "val. accuracy": metrics["validation_accuracy"],
        "test accuracy": metrics.get("test_accuracy"),
        "test F1": metrics.get("test_f1"),
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
