"""Small BERTs from scratch, and whether it matters to them which attention weights are negative: a line per model in `pattern.jsonl`.

    python -m recipes.conversion pattern --data DIR [--tasks ...] [--settings ...] [--seeds ...] [--split validation]
    python -m recipes.conversion pattern --table

All settings of a task have the same first weights, rows and number of steps; softmax is one of them. Settings are compared on validation
rows; with `--split test` models that are there are read once more, on the test rows. `--table` prints means over seeds with their standard
errors: accuracy, accuracy less that of softmax with the same seeds, negative mass, and what interventions change, in points.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed

import hf_tanhmax
from hf_tanhmax.errors import RecipeError
from hf_tanhmax.interpret import ablate_negatives
from hf_tanhmax.provenance import git_commit, hardware, versions
from hf_tanhmax.results import read_lines, table
from hf_tanhmax.training.data.synthetic import synthetic_splits
from hf_tanhmax.training.data.tokenizer import build_tokenizer

from ..command_line import Parser, exit_codes
from .plan import RESULTS, ClassifierTask, Way, read_plan
from .rows import EVALUATION_BATCH, Batch, Rows
from .run import add_line
from .training import evaluate, fine_tune

FILE = "pattern.jsonl"
SHOWN = ("negatives_masked", "negatives_spread", "negatives_permuted", "negatives_shuffled", "made_positive")
# What the attention of all layers and heads computes; `half_of_the_heads` is for two heads, the other one stays softmax.
SETTINGS: dict[str, dict[str, Any]] = {
    "softmax": {"tanhmax_polarity": 0.0},
    "tanhmax": {"tanhmax_polarity": 1.0},
    "learned": {"tanhmax_polarity": "learned", "tanhmax_score_bias": 0.5},
    "balanced_20": {"tanhmax_polarity": 0.2, "tanhmax_shift": "balanced"},
    "balanced_50": {"tanhmax_polarity": 0.5, "tanhmax_shift": "balanced"},
    "balanced_100": {"tanhmax_polarity": 1.0, "tanhmax_shift": "balanced"},
    "half_of_the_heads": {"tanhmax_polarity": 1.0, "tanhmax_heads": [0], "tanhmax_shift": "balanced"},
    "balanced_learned": {"tanhmax_polarity": "learned", "tanhmax_score_bias": 0.35, "tanhmax_shift": "balanced"},
}
PASSES = {"sst2": 5, "sst2_tiny": 3, "synthetic": 6, "polar": 3, "votes": 2}
SMALL = {"num_hidden_layers": 2, "hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 384, "max_position_embeddings": 80}
TINY = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 80}
SIZES = {"sst2": SMALL, "sst2_tiny": TINY, "synthetic": SMALL, "polar": TINY, "votes": TINY}
LEARNING_RATES = {"sst2": 1e-3, "sst2_tiny": 3e-3, "synthetic": 1e-3, "polar": 3e-3, "votes": 3e-3}
DROPOUT, VOCABULARY, MAX_LENGTH = 0.1, 8000, 64
VALIDATION = 1000  # documents at the end of the training ones of what is generated
VOTES, VOTES_SEED = {"documents": 7000, "words": 12, "of_each_sign": 20, "neutral": 80}, 5


@exit_codes(resumable=True)
def main(arguments: list[str]) -> int:
    """Train and read what is missing; 0 if it went well, 2 if something given cannot work."""
    parser = Parser(prog="python -m recipes.conversion pattern", description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with sst2/")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    parser.add_argument("--tasks", nargs="+", choices=list(PASSES), default=list(PASSES))
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--work", type=Path, default=Path("runs/pattern"), metavar="DIR", help="where models are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(summary(read_lines(chosen.results / FILE)))
        return 0
    if chosen.data is None:
        raise RecipeError("--data DIR is missing, the folder with sst2/")
    for task in chosen.tasks:
        _run(task, chosen)
    return 0


def summary(lines: list[Any]) -> str:
    """A Markdown table, one line for each task, split and setting."""
    softmax = {(line["task"], line["split"], line["seed"]): line["accuracy"] for line in lines if line["setting"] == "softmax"}
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for line in lines:
        groups.setdefault((line["task"], line["split"], line["setting"]), []).append(line)
    rows = []
    for (task, split, setting), members in sorted(groups.items()):
        paired = [(line, softmax[task, split, line["seed"]]) for line in members if (task, split, line["seed"]) in softmax]
        ablated = [line["ablation"] for line in members if line["ablation"]]
        cells = [
            _mean([line["accuracy"] for line in members]),
            "" if setting == "softmax" else _mean([line["accuracy"] - of for line, of in paired]),
        ]
        cells += [_mean([each["negative_mass"] for each in ablated])]
        cells += [_mean([each["effects"][name]["difference"] for each in ablated]) for name in SHOWN]
        rows.append([f"{task}, {split}, {setting}", str(len(members)), *cells])
    header = ["task, rows, setting", "n", "accuracy", "less softmax", "negative mass (%)", *(name.replace("_", " ") for name in SHOWN)]
    return table(header, rows, markdown=True)


def _mean(values: list[float]) -> str:
    """Mean and standard error in percent; empty where there is nothing."""
    if not values:
        return ""
    error = f" ± {100 * statistics.stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{error}"


def read_splits(task: str, data: Path) -> tuple[dict[str, Rows], int]:
    """The rows of a task for `train`, `validation` and `test`, and the size of its vocabulary.

    `synthetic` is the paper's task and `polar` the same with few words; in `votes` words of two signs vote on the class of a document.
    """
    tables: dict[str, dict[str, Any]]
    if task in ("sst2", "sst2_tiny"):
        files = {"train": "train.csv", "validation": "dev.csv", "test": "test.csv"}
        tables = {split: Dataset.from_csv(str(data / "sst2" / name)).to_dict() for split, name in files.items()}
    else:
        made: dict[str, Any] = {"synthetic": synthetic_splits, "polar": lambda: synthetic_splits(7000, 300, 60), "votes": votes}[task]()
        cut = len(made["train"]["text"]) - VALIDATION
        tables = {
            "train": {name: values[:cut] for name, values in made["train"].items()},
            "validation": {name: values[cut:] for name, values in made["train"].items()},
            "test": made["test"],
        }
    tokenizer = build_tokenizer(tables["train"]["text"], vocabulary_size=VOCABULARY, max_length=MAX_LENGTH)
    rows = {}
    for split, columns in tables.items():
        ids = tokenizer(columns["text"], truncation=True, max_length=MAX_LENGTH)["input_ids"]
        rows[split] = Rows([torch.tensor(each) for each in ids], torch.tensor(columns["label"]), tokenizer.pad_token_id)
    return rows, len(tokenizer)


def votes() -> dict[str, dict[str, Any]]:
    """Documents of 12 words, of which 3, 5, 7 or 9 vote for class 1 or for class 0; most votes decide, the other words are neutral."""
    generator = np.random.default_rng(VOTES_SEED)
    texts, labels = [], []
    for _ in range(VOTES["documents"]):
        signs = generator.integers(0, 2, generator.choice([3, 5, 7, 9]))
        words = [f"{'yes' if sign else 'no'}{generator.integers(VOTES['of_each_sign'])}" for sign in signs]
        words += [f"word{generator.integers(VOTES['neutral'])}" for _ in range(VOTES["words"] - len(signs))]
        texts.append(" ".join(generator.permutation(words)))
        labels.append(int(2 * signs.sum() > len(signs)))
    cut = 5 * len(texts) // 7
    return {"train": {"text": texts[:cut], "label": labels[:cut]}, "test": {"text": texts[cut:], "label": labels[cut:]}}


def _run(task: str, chosen: argparse.Namespace) -> None:
    path = chosen.results / FILE
    rows, vocabulary = read_splits(task, chosen.data)
    for seed in chosen.seeds:
        for setting in chosen.settings:
            if [task, setting, seed, chosen.split] in _done(path):
                continue
            line = _read(task, setting, seed, rows, vocabulary, chosen)
            add_line(path, line)
            verdict = line["ablation"]["verdict"] if line["ablation"] else ""
            print(f"{task}, {setting}, seed {seed}: {100 * line['accuracy']:.2f} %. {verdict}", flush=True)


def _read(task: str, setting: str, seed: int, rows: dict[str, Rows], vocabulary: int, chosen: argparse.Namespace) -> dict[str, Any]:
    folder = chosen.work / task / setting / str(seed)
    if folder.is_dir():
        model = hf_tanhmax.TanhMaxBertForSequenceClassification.from_pretrained(folder)
        training = None
    else:
        if chosen.split == "test":
            raise RecipeError(f"{folder} is not there: train it first, with --split validation")
        model, training = _trained(task, setting, seed, rows["train"], vocabulary)
        model.save_pretrained(folder)
    found = evaluate(model, rows[chosen.split])
    ablation = None
    if setting != "softmax":
        ablation = ablate_negatives(model, list(_labelled(rows[chosen.split])), seed=seed, progress=False).to_dict()
    return {
        "task": task,
        "setting": setting,
        "seed": seed,
        "split": chosen.split,
        **found,
        "ablation": ablation,
        "training": training,
        "settings": {
            **SETTINGS[setting],
            **SIZES[task],
            "passes": PASSES[task],
            "learning_rate": LEARNING_RATES[task],
            "dropout": DROPOUT,
        },
        "versions": versions(),
        "git": git_commit(),
        "hardware": hardware(),
    }


def _trained(task: str, setting: str, seed: int, rows: Rows, vocabulary: int) -> tuple[Any, dict[str, float]]:
    set_seed(seed)
    values: dict[str, Any] = {**SIZES[task], **SETTINGS[setting], "hidden_dropout_prob": DROPOUT, "attention_probs_dropout_prob": DROPOUT}
    config = hf_tanhmax.TanhMaxBertConfig(vocab_size=vocabulary, pad_token_id=rows.padding, **values)
    model = hf_tanhmax.TanhMaxBertForSequenceClassification(config)
    schedule = ClassifierTask(task, task, "", "", None, "", 32, PASSES[task], LEARNING_RATES[task], DROPOUT, 1)
    return model, fine_tune(model, rows, schedule, Way(setting, setting), replace(read_plan(), bfloat16=False), seed)


def _labelled(rows: Rows) -> Iterator[Batch]:
    for first in range(0, len(rows), EVALUATION_BATCH):
        indices = list(range(first, min(first + EVALUATION_BATCH, len(rows))))
        yield {**rows.batch(indices), "labels": rows.labels[indices]}


def _done(path: Path) -> list[list[object]]:
    lines: list[Any] = read_lines(path) if path.is_file() else []
    return [[line["task"], line["setting"], line["seed"], line["split"]] for line in lines]
