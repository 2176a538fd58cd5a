"""A run small enough for a test: one layer, forty rows of each class, a handful of steps."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from hf_tanhmax.training.configuration.recipe import task_base
from hf_tanhmax.training.train import main

ROOT = Path(__file__).parents[2]
TEXT = "bert/text_classification"
SIZES = {"--num_layers": "1", "--hidden_size": "10", "--num_heads": "2"}
ROWS = {"--synthetic_documents": "220", "--synthetic_vocabulary": "43", "--synthetic_polar": "14"}
STEPS = {"--batch_size": "14", "--max_steps": "9", "--logging_steps": "1", "--save_steps": "4", "--health_rows": "5", "--use_cpu": "true"}
# What a run of a task needs to be tiny beside that: its lengths; its rows, where they are not files; its size, where it is no checkpoint.
LENGTHS = {task: {"--max_length": "17"} for task in (TEXT, "bert/masked_lm", "llama/causal_lm")} | {"llama/sft": {"--max_length": "41"}}
EMBEDDED = dict.fromkeys((TEXT, "bert/masked_lm", "llama/causal_lm"), ROWS) | {"vit/image_classification": {"--max_train_rows": "140"}}
SCRATCH = {"llama/causal_lm": {"--vocabulary_size": "300"}, "llama/sft": {"--vocabulary_size": "300"}}
EVEN = {"--hidden_size": "16"}  # positions of LLaMA turn pairs of numbers


def tiny(*flags, task=TEXT):
    """Flags of a tiny run, changed by those given: no sizes for a checkpoint, no embedded rows where there are files."""
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    chosen = STEPS | LENGTHS.get(task, {})
    if "--model_name_or_path" not in given:
        chosen |= SIZES | SCRATCH.get(task, {}) | (EVEN if task.startswith("llama") else {})
    if "--train_file" not in given:
        chosen |= EMBEDDED.get(task, {})
    return [word for pair in (chosen | given).items() for word in pair]


@pytest.fixture
def variant():
    """Path of a variant's YAML file."""
    return lambda name, task=TEXT: str(task_base(task).with_name(f"{name}.yaml"))


@pytest.fixture
def train(variant, tmp_path, capsys):
    """Run a tiny recipe in this process; returns exit code, output, and results if it wrote any."""

    def run(name, *flags, folder="run", task=TEXT):
        output = tmp_path / folder
        places = ("--output_dir", str(output), "--results_dir", str(tmp_path / "results"))
        code = main([variant(name, task), *tiny(*places, *flags, task=task)])
        results = output / "results.json"
        printed = capsys.readouterr()
        return code, printed.out + printed.err, json.loads(results.read_text()) if results.is_file() else None

    return run


@pytest.fixture(scope="session")
def softmax_start(tmp_path_factory):
    """Folder of a softmax checkpoint of a task, trained for two steps, which tests share and leave as it is."""
    made = {}

    def start(task=TEXT):
        if task not in made:
            folder = tmp_path_factory.mktemp("start")
            flags = tiny("--output_dir", str(folder / "run"), "--results_dir", str(folder), "--max_steps", "2", task=task)
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
                code = main([str(task_base(task).with_name("softmax.yaml")), *flags])
            assert code == 0, said.getvalue()
            made[task] = str(folder / "run")
        return made[task]

    return start


@pytest.fixture
def tiny_flags():
    """The flags that `train` adds, for a test that needs a recipe and not a run."""
    return tiny


@pytest.fixture
def launched(variant, tmp_path):
    """Run a tiny recipe in processes of its own; returns the completed process and the results."""

    def run(name, *flags, folder="run", launcher=("-m", "recipes.train"), task=TEXT):
        output = tmp_path / folder
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "TMPDIR": str(tmp_path)}
        command = [sys.executable, *launcher, variant(name, task), *tiny("--output_dir", str(output), *flags, task=task)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
        results = output / "results.json"
        return done, json.loads(results.read_text()) if results.is_file() else None

    return run
