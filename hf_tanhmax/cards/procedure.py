"""The training procedure for the model card: data, polarity schedule, settings, machine and versions, as the run recorded them."""

import json

import yaml

from ..package_data import data_folder
from ..results import Commit, Data, Machine, Model, Run, RunConfig, is_number
from .text import code, escaped

EMBEDDED = {
    "synthetic": "the synthetic task of the paper",
    "digits": "the handwritten digits of scikit-learn",
    "film_reviews": "1,600 sentences of film reviews (Pang and Lee 2005) with the ratings of Hutto and Gilbert (2014)",
}
FILES = "files"  # what a run calls data that came from files of its user
SCHEDULES = {"linear": "linearly", "cosine": "along a cosine", "geometric": "geometrically"}
# Keys of a recipe that deserve a line of their own.
SHOWN = {
    "Epochs": "num_train_epochs",
    "Batch size": "batch_size",
    "Learning rate": "learning_rate",
    "Longest input": "max_length",
    "LoRA rank": "lora_rank",
}


def schedule(config: RunConfig) -> str | None:
    """How the polarity changed during training, and the shift if there was one; None if the configuration does not say."""
    if config.get("attention") != "tanhmax" or "polarity" not in config:
        return None
    shift = f" The scores had a {escaped(config['shift'])} shift." if config.get("shift") else ""
    if config["polarity"] == "learned":
        return f"Every head learned its own polarity exp(-2c), from c = {config['score_bias']:g} on.{shift}"
    end = f"{config['polarity']:g}"
    kind = config.get("polarity_schedule")
    if not kind:
        return f"The polarity was {end} from the first step to the last.{shift}"
    way = SCHEDULES.get(kind, escaped(kind))
    start, share = f"{config['polarity_start']:g}", f"{100 * config['polarity_share']:g} %"
    return f"The polarity went {way} from {start} to {end} during the first {share} of the steps, and stayed {end} until the end.{shift}"


def procedure(run: Run) -> list[tuple[str, str]]:
    """Names and short texts, one for each thing that the run recorded."""
    config, metrics = run.get("config", {}), run["metrics"]
    items = [
        ("Recipe", f"{code(run['recipe'])}, variant {code(run['variant'])}"),
        ("Data", data_in_words(run.get("data", {}))),
        ("Calibration", _calibration(run)),
        ("Parameters", _parameters(run.get("model", {}))),
        ("Optimiser steps", _value(metrics.get("steps"))),
        *((name, _value(config.get(key))) for name, key in SHOWN.items()),
        ("Hardware", _machine(run.get("hardware"))),
        ("Versions", ", ".join(escaped(f"{name} {version}") for name, version in run.get("versions", {}).items())),
        ("Code", _commit(run.get("git"))),
    ]
    return [(name, text) for name, text in items if text]


def data_in_words(data: Data) -> str:
    """Where the rows came from, how many there were, and for files which they were."""
    source = data.get("source")
    if source is None:
        return ""
    held = f" that hold {code(data['dataset'])}" if "dataset" in data else ""
    words = f"files of the author{held}" if source == FILES else EMBEDDED.get(source) or code(source)
    rows = ", ".join(f"{count:,} {escaped(split)} rows" for split, count in data.get("rows", {}).items())
    digests = ", ".join(f"{escaped(name)} {code(value)}" for name, value in data.get("sha256", {}).items())
    return words + (f": {rows}" if rows else "") + (f" (SHA-256: {digests})" if digests else "")


def configuration(run: Run) -> str:
    """The keys of the recipe that differ from the defaults of its task, without the seed, as JSON."""
    defaults = _defaults(run["recipe"])
    missing = object()
    kept = {key: value for key, value in run.get("config", {}).items() if key != "seed" and value != defaults.get(key, missing)}
    return json.dumps(kept, indent=1) if kept else ""


def _defaults(recipe: str) -> dict[str, object]:
    """The keys of all recipes and those of a task's base.yaml with their values; none of a recipe that this package does not have."""
    recipes = data_folder("recipes")
    base = recipes.joinpath(*recipe.split("--"), "base.yaml")
    if ".." in recipe or not base.is_file():
        return {}
    return {key: value for file in (recipes / "base.yaml", base) for key, value in yaml.safe_load(file.read_text(encoding="utf-8")).items()}


def _value(value: object) -> str:
    if value is None:
        return ""
    return f"{value:g}" if is_number(value) else escaped(value)


def _calibration(run: Run) -> str:
    found = run.get("conversion", {})
    if "calibration_rows" not in found:
        return ""
    seconds = f"{found['calibration_seconds']:.1f} s"
    return f"{found['calibration_rows']:,} training rows without their labels, in {seconds}, before training"


def _parameters(model: Model) -> str:
    count = model.get("parameters")
    if count is None:
        return ""
    trained = model.get("trained_parameters", count)
    return f"{count:,}, all trained" if trained == count else f"{count:,}, of which {trained:,} were trained"


def _machine(machine: Machine | None) -> str:
    if not machine:
        return ""
    device = machine.get("gpu") or f"{machine.get('cpus', 'unknown')} CPU cores"
    count = machine.get("num_processes", 1)
    return escaped(", ".join([device, *([f"{count} processes"] if count != 1 else []), machine.get("platform", "unknown platform")]))


def _commit(commit: Commit | None) -> str:
    if not commit:
        return ""
    return f"commit {code(commit['commit'])}" + (", with changes" if commit.get("changed") else "")
