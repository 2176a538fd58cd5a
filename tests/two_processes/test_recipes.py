"""Whole recipes with the launchers of `recipes/accelerate_configs` that share parameters out: what one process trains, two train.

On the CPU, on which accelerate does so once it is told that there are GPUs (`as_on_gpus`).
"""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from processes import ROOT
from thorough import thorough_only
from tiny_runs import launched, tiny, train, variant  # noqa: F401, fixtures

CONFIGS = ROOT / "recipes" / "accelerate_configs"
SCRIPT = str(Path(__file__).parents[1] / "helpers" / "as_on_gpus.py")
CASES = [
    ("fsdp2", "bert/text_classification", "learned"),
    ("fsdp2", "llama/causal_lm", "annealed"),
    ("fsdp2", "vit/image_classification", "learned"),
    ("zero2", "bert/text_classification", "learned"),
    ("zero3", "bert/text_classification", "learned"),
    ("zero3", "llama/causal_lm", "annealed"),
]
KINDS = {"fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}


def curve(folder, name):
    history = json.loads((folder / "checkpoint-9" / "trainer_state.json").read_text())["log_history"]
    return torch.tensor([record[name] for record in history if name in record])


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "task", "name"), CASES)
def test_a_recipe_trains_as_in_one_process_and_resumes(launcher, task, name, launched, train, tmp_path, monkeypatch):  # noqa: F811
    if task.startswith("vit"):
        thorough_only("texts are trained so")
    if KINDS[launcher] == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: see the group client-deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    # What is random in each process in its own way.
    flags = {"bert": ("--dropout", "0"), "vit": ("--dropout", "0", "--augmentation", "false"), "llama": ()}[task.split("/")[0]]
    command = ("-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{launcher}.yaml"), "--main_process_port", "0", SCRIPT)
    done, two = launched(name, *flags, folder="two", launcher=command, task=task)
    assert done.returncode == 0, done.stderr[-5000:]
    assert two["hardware"]["num_processes"] == 2
    assert two["hardware"]["distributed_type"] == KINDS[launcher]
    code, said, one = train(name, *flags, folder="one", task=task)
    assert code == 0, said
    for number in ("loss", "grad_norm"):
        torch.testing.assert_close(*(curve(tmp_path / folder, number) for folder in ("one", "two")), rtol=0, atol=1e-4)
    assert two["model"] == one["model"]
    polarities = [torch.tensor(result["attention_health"].get("polarity_per_head", [])) for result in (one, two)]
    assert (len(polarities[0]) > 0) == (name == "learned")
    torch.testing.assert_close(*polarities, rtol=0, atol=2e-5)
    assert two["metrics"]["reload_difference"] == 0.0
    manifest = json.loads((tmp_path / "two" / "checkpoint-8" / "whole.json").read_text())
    assert KINDS[launcher] == "FSDP" or [path for path in manifest if path.startswith("global_step8/")]
    (tmp_path / "two" / "results.json").unlink()
    shutil.rmtree(tmp_path / "two" / "checkpoint-9")
    done, resumed = launched(name, *flags, "--resume", "true", folder="two", launcher=command, task=task)
    assert done.returncode == 0, done.stderr[-5000:]
    assert f"resuming from {tmp_path / 'two' / 'checkpoint-8'}" in done.stderr
    assert resumed["metrics"] == two["metrics"]
