"""What a run prints: a header, one line for each logged step, and nothing twice."""

import re
import sys
import warnings

import datasets
import pytest
import transformers
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_tanhmax.training.progress import ProgressLines, log_line, number, without_known_notices, without_loading_report

HEALTH = {"health/overall/negative_mass": 0.25, "health/overall/weight_sum": 0.5, "health/layer_0/negative_mass": 0.125}


@pytest.mark.parametrize(
    ("value", "text"), [(0.53125, "0.5312"), (3.9e-05, "3.9e-05"), (12.3456, "12.35"), (0.0, "0.0000"), (7, "7"), ("learned", "learned")]
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("logged", "health", "line"),
    [
        ({"loss": 0.5, "learning_rate": 1e-5, "epoch": 0.1}, {}, "step 3/9  loss 0.5000  learning rate 1.0e-05"),
        (
            {"eval_loss": 0.5, "eval_accuracy": 0.75, "eval_cross_entropy": 0.5, "eval_runtime": 1.0, "polarity": 1.0},
            {},
            "step 3/9  validation loss 0.5000  accuracy 0.7500  polarity 1",
        ),
        ({"loss": 0.5}, {"weight_sum": 0.25}, "step 3/9  loss 0.5000  | attention: weight sum 0.250"),
        ({}, {"weight_sum": 0.25}, "step 3/9  attention: weight sum 0.250"),
        ({"conversion/converted_loss": 2.5, "conversion/checked_rows": 7}, {}, "step 3/9  converted loss 2.5"),
        ({"conversion/calibration_rows": 7, "epoch": 0}, {}, None),
        ({"train_runtime": 2.0, "train_loss": 0.5}, {}, "trained 9 steps in 2.0 s"),
    ],
)
def test_a_line_of_the_log(logged, health, line):
    assert log_line(3, 9, logged, health) == line


@pytest.fixture
def lines(tmp_path, capsys):
    """What is printed of records, each a step and what is logged there."""

    def printed(*records, main=True):
        shown, state = ProgressLines(), TrainerState(max_steps=9, is_world_process_zero=main)
        arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        for step, logs in records:
            state.global_step = step
            shown.on_log(arguments, state, TrainerControl(), logs=logs)
        shown.on_train_end(arguments, state, TrainerControl())
        return capsys.readouterr().out.splitlines()

    return printed


def test_health_stands_on_the_line_of_the_next_loss(lines):
    assert lines((2, HEALTH), (3, {"loss": 0.5}), (4, {"loss": 0.25})) == [
        "step 3/9  loss 0.5000  | attention: negative mass 0.250, weight sum 0.500",
        "step 4/9  loss 0.2500",
    ]


def test_health_before_the_first_step_and_after_the_last_line_is_not_lost(lines):
    assert [line.split("  ")[0] for line in lines((0, HEALTH), (9, {"loss": 0.5}), (9, HEALTH))] == ["step 0/9", "step 9/9", "step 9/9"]


def test_one_process_prints(lines):
    assert lines((3, {"loss": 0.5}), main=False) == []


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_for_a_terminal(terminal, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    shown, state, control = ProgressLines(), TrainerState(max_steps=2), TrainerControl()
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    shown.on_train_begin(arguments, state, control)
    for state.global_step in (1, 2):
        shown.on_step_end(arguments, state, control)
    shown.on_train_end(arguments, state, control)
    said = capsys.readouterr().err
    assert ("100%" in said) == terminal
    assert control.should_log, "the last step is logged, whatever logging_steps is"


def test_bars_and_verbosity_are_as_before_afterwards(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    before = transformers.logging.get_verbosity()
    with warnings.catch_warnings(record=True) as seen, without_known_notices(), without_loading_report():
        warnings.simplefilter("always", UserWarning)
        warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed", FutureWarning, stacklevel=1)
        warnings.warn("anything else", UserWarning, stacklevel=1)
        assert datasets.are_progress_bars_disabled()
        assert transformers.logging.get_verbosity() == transformers.logging.ERROR
    assert [str(each.message) for each in seen] == ["anything else"]
    assert not datasets.are_progress_bars_disabled()
    assert transformers.logging.is_progress_bar_enabled()
    assert transformers.logging.get_verbosity() == before


@pytest.mark.slow
def test_a_short_run_of_two_variants_is_read_from_top_to_bottom(train, checkpoint, tmp_path):
    """Fewer steps than `logging_steps`, from a checkpoint without a head."""
    flags = ("--model_name_or_path", checkpoint, "--max_steps", "3", "--logging_steps", "20", "--save_steps", "20")
    code, said, results = train("annealed", *flags, "--compare_with", "softmax")
    assert code == 0, said
    heads = re.findall(r"^bert--text_classification, variant (\w+) \((\d) of 2\): (.*)", said, re.MULTILINE)
    assert heads == [("annealed", "1", "TanhMax, linear from 0 to 1"), ("softmax", "2", "softmax")]
    assert said.count("  rows: 139 train, 15 validation, 66 test") == 2
    assert len(re.findall(r"^step 3/3  loss \d\.\d{4}  ", said, re.MULTILINE)) == 2
    assert results["metrics"]["train_loss"] is not None
    assert re.search(r"^step \d/3 .*attention: negative mass \d\.\d{3}, weight sum \d\.\d{3}", said, re.MULTILINE)
    for noise in ("LOAD REPORT", "it/s", "{'", "is_gradient_checkpointing", "layer_0"):
        assert noise not in said, noise
    assert not (tmp_path / "run" / "training_args.bin").exists()
    card = (tmp_path / "run" / "README.md").read_text()
    assert re.search(r"\*\*Test accuracy 0\.\d{3}, against 0\.\d{3} of softmax at the same budget\.", card), "the other run came later"
    assert '>>> pipeline("text-classification", model=".")("Text to look at.")\n[{' in card
