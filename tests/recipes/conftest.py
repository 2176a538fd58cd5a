"""A run small enough for a test: one layer, forty rows of each class, a handful of steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.config import BASE
from recipes.train import main

ROOT = Path(__file__).parents[2]
SIZES = {"--num_layers": "1", "--hidden_size": "10", "--num_heads": "2"}
SYNTHETIC = {"--synthetic_documents": "220", "--synthetic_vocabulary": "43", "--synthetic_polar": "14"}
STEPS = {"--batch_size": "14", "--max_steps": "9", "--logging_steps": "1", "--save_steps": "4", "--max_length": "17", "--use_cpu": "true"}


def tiny(*flags):
    """Flags of a tiny run, changed by those given: no sizes for a checkpoint, no synthetic rows where there are files."""
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    chosen = STEPS | ({} if "--model_name_or_path" in given else SIZES) | ({} if "--train_file" in given else SYNTHETIC) | given
    return [word for pair in chosen.items() for word in pair]


@pytest.fixture
def variant():
    """Path of a variant's YAML file."""
    return lambda name: str(BASE.with_name(f"{name}.yaml"))


@pytest.fixture
def train(variant, tmp_path, capsys):
    """Run a tiny recipe in this process; returns exit code, output, and results if it wrote any."""

    def run(name, *flags, folder="run"):
        output = tmp_path / folder
        code = main([variant(name), *tiny("--output_dir", str(output), *flags)])
        results = output / "results.json"
        printed = capsys.readouterr()
        return code, printed.out + printed.err, json.loads(results.read_text()) if results.is_file() else None

    return run


@pytest.fixture
def tiny_flags():
    """The flags that `train` adds, for a test that needs a recipe and not a run."""
    return tiny


@pytest.fixture
def launched(variant, tmp_path):
    """Run a tiny recipe in processes of its own; returns the completed process and the results."""

    def run(name, *flags, folder="run", launcher=("-m", "recipes.train")):
        output = tmp_path / folder
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        command = [sys.executable, *launcher, variant(name), *tiny("--output_dir", str(output), *flags)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
        results = output / "results.json"
        return done, json.loads(results.read_text()) if results.is_file() else None

    return run
