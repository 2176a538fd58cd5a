"""Calibration in a recipe: with which rows, once, alike in all processes; and every recipe that calibrates, from end to end."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from thorough import thorough_only

from hf_tanhmax.conversion.report import read_report
from hf_tanhmax.errors import Interrupted
from hf_tanhmax.training import checkpoints
from hf_tanhmax.training.checkpoints import mark_whole
from hf_tanhmax.training.configuration.recipe import read_recipes
from hf_tanhmax.training.conversion.calibration import NOT_INPUTS, calibration_batches
from hf_tanhmax.training.tasks import task_for

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT
TASKS = ("bert/text_classification", "bert/masked_lm", "vit/image_classification", "llama/causal_lm", "llama/sft")
LANGUAGE = ("bert/masked_lm", "llama/causal_lm", "llama/sft")
# Where adapters are trained too; in the other tasks when it is asked for.
ADAPTED = {"aligned": ("bert/text_classification", "llama/causal_lm"), "balanced": ("vit/image_classification", "llama/sft")}
MORE = {"vit/image_classification": ("--max_train_rows", "140")}  # digits are embedded whatever the model is


def rows_of(task, results):
    """Training rows, which for a causal model are packed anew."""
    return 1000 if task == "llama/causal_lm" else results["data"]["rows"]["train"]


@pytest.fixture
def batches(variant, tiny_flags):
    """What a tiny recipe of a task would calibrate with, from rows as they come."""

    def make(task, *flags):
        config = read_recipes([variant("tanhmax", task), *tiny_flags(*flags, task=task)])[0].config
        made = task_for(config.model_copy(update={"calibrate": 19}))
        splits = made.splits()
        processor = made.processor(splits)
        return calibration_batches(made, made.examples(splits.train, processor, training=True), processor), processor

    return make


@pytest.mark.parametrize("task", TASKS)
def test_as_many_rows_as_the_recipe_says_chosen_by_the_seed(task, batches):
    found, _ = batches(task, "--seed", "3")
    inputs = "pixel_values" if task.startswith("vit") else "input_ids"
    assert [len(batch[inputs]) for batch in found] == [14, 5]
    assert not {key for batch in found for key in batch} & set(NOT_INPUTS)
    again, _ = batches(task, "--seed", "3")
    other, _ = batches(task, "--seed", "4")
    same, different = ([_equal(one[inputs], two[inputs]) for one, two in zip(found, seen, strict=True)] for seen in (again, other))
    assert all(same)
    assert not all(different)


def shortened(name, task):
    """Skip the training of adapters in most tasks."""
    method, _, adapters = name.partition("_")
    if adapters and task not in ADAPTED[method]:
        thorough_only("adapters of other tasks are calibrated and trained")


def _equal(one, other):
    return one.shape == other.shape and torch.equal(one, other)


def test_no_token_is_masked(batches):
    found, tokenizer = batches("bert/masked_lm")
    assert not any((batch["input_ids"] == tokenizer.mask_token_id).any() for batch in found)


def test_rows_that_are_too_few_are_refused(train, checkpoint):
    code, said, results = train("aligned", "--model_name_or_path", checkpoint, "--calibrate", "1", "--max_length", "3")
    assert code == 2
    assert "error: calibrate: the batches have 3 rows (tokens or patches, without padding), but 5 are needed" in said
    assert results is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aligned", "aligned_lora"])
@pytest.mark.parametrize("task", TASKS)
def test_a_softmax_checkpoint_is_aligned_and_trained(name, task, train, softmax_start, tmp_path):
    shortened(name, task)
    start = softmax_start(task)
    code, said, results = train(name, "--model_name_or_path", start, *MORE.get(task, ()), task=task)
    assert code == 0, said
    report, conversion = read_report(tmp_path / "run"), results["conversion"]
    assert conversion["calibration_rows"] == min(rows_of(task, results), results["config"]["calibrate"])
    assert conversion["calibration_seconds"] > 0
    assert f"calibrated with {conversion['calibration_rows']} training rows in " in said
    assert f" s: the model {report.describe()}" in said
    decoder = task.startswith("llama")
    words = "balanced TanhMax, polarity 0.2, calibrated" if decoder else "TanhMax, polarity 1, aligned at balance 0.2"
    assert results["attention"].startswith(words)
    assert (results["config"]["calibrate"], results["config"]["balance"]) == (128 if decoder else 256, 0.2)
    assert ("converted_loss" in conversion) == (task in LANGUAGE)
    assert (report.alignment is None) == decoder
    assert report.refit is not None
    card = " ".join((tmp_path / "run" / "README.md").read_text().split())
    assert f"* Calibration: {conversion['calibration_rows']} training rows without their labels" in card
    assert f"Before any training it {report.describe()}" in card
    assert not (tmp_path / "run" / "softmax_projections.safetensors").exists()
    if name == "aligned_lora" and not decoder:  # whose base is aligned, and not trained
        before, after = (load_file(Path(place) / "model.safetensors") for place in (start, tmp_path / "run" / "base"))
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert changed
        assert all(key.endswith("bias") or "output" in key for key in changed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["balanced", "balanced_lora"])
@pytest.mark.parametrize("task", TASKS)
def test_a_softmax_checkpoint_is_balanced_and_trained(name, task, train, softmax_start):
    shortened(name, task)
    code, said, results = train(name, "--model_name_or_path", softmax_start(task), *MORE.get(task, ()), task=task)
    assert code == 0, said
    assert results["attention"].startswith("balanced TanhMax, polarity 0.2")
    assert "calibrate" not in results["config"]
    assert ("conversion" in results) == (task in LANGUAGE)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), [("aligned", "bert/text_classification"), ("aligned_lora", "llama/causal_lm")])
def test_a_resumed_run_does_not_calibrate_again(name, task, train, softmax_start, tmp_path, monkeypatch):
    flags = ("--model_name_or_path", softmax_start(task), "--save_steps", "3")
    _, _, whole = train(name, *flags, folder="whole", task=task)

    def stop(folder):
        mark_whole(folder)
        if folder.name == "checkpoint-6":
            raise Interrupted("in the middle")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "mark_whole", stop)
        code, said, _ = train(name, *flags, task=task)
        assert code == 130, said
    monkeypatch.setattr("hf_tanhmax.training.conversion.prepare.calibrate", None)  # which cannot be called
    code, said, resumed = train(name, *flags, "--resume", "true", task=task)
    assert code == 0, said
    assert "checkpoint-6" in said
    assert "calibrated with" not in said
    assert resumed["metrics"] == whole["metrics"]
    assert {**resumed["conversion"], "calibration_seconds": 0} == {**whole["conversion"], "calibration_seconds": 0}
    assert (tmp_path / "run" / "conversion.json").is_file()


@pytest.mark.slow
def test_a_refitted_checkpoint_is_trained_further(train, softmax_start, tmp_path):
    train("aligned", "--model_name_or_path", softmax_start("llama/causal_lm"), task="llama/causal_lm", folder="first")
    code, said, results = train("balanced", "--model_name_or_path", str(tmp_path / "first"), task="llama/causal_lm")
    assert code == 0, said
    assert "softmax_loss" not in results["conversion"]
    code, said, _ = train(
        "annealed", "--model_name_or_path", str(tmp_path / "first"), "--shift", "balanced", task="llama/causal_lm", folder="x"
    )
    assert code == 2
    assert "were refitted to polarity 0.2" in said


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--transfer_steps", "3"), ("--refit", "true"), ("--shift", "balanced", "--polarity", "0.2")])
def test_whatever_convert_can_do_is_passed_on(more, train, checkpoint, tmp_path):
    flags = ("--calibrate", "100", "--model_name_or_path", checkpoint)
    code, said, _ = train("tanhmax", *flags, *more)
    assert code == 0, said
    report = read_report(tmp_path / "run")
    assert (report.transfer is not None, report.refit is not None) == (more[0] == "--transfer_steps", more[0] != "--transfer_steps")
    assert report.shift == ("balanced" if more[0] == "--shift" else None)


@pytest.mark.slow
def test_two_processes_calibrate_as_one(launched, train, checkpoint, tmp_path):
    flags = ("--model_name_or_path", checkpoint, "--dropout", "0", "--max_steps", "3")
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
    done, two = launched("aligned", *flags, folder="two", launcher=(*launcher, "-m", "recipes.train"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("calibrated with") == 1
    _, _, one = train("aligned", *flags, folder="one")
    reports = [json.loads((tmp_path / folder / "conversion.json").read_text()) for folder in ("one", "two")]
    assert reports[0]["alignment"]["residual"] == reports[1]["alignment"]["residual"]
    assert one["metrics"]["test_cross_entropy"] == pytest.approx(two["metrics"]["test_cross_entropy"], abs=1e-4)
