"""Cells are run once, grid first, by as many processes as there are; what cannot work is said in one sentence."""

import json
from dataclasses import replace

import pytest
import torch

from recipes.verdict import __main__ as door
from recipes.verdict import run
from recipes.verdict.results import cells_of, chosen_rate, compared, planned_rate, read_task


@pytest.fixture
def command(plan_file, tmp_path):
    def _run(*flags, name="run"):
        return door.main([name, "--plan", str(plan_file), "--results", str(tmp_path / "results"), *map(str, flags)])

    return _run


def test_cells_come_grid_first_and_are_not_run_again(command, plan, tmp_path, capsys):
    task = plan.tasks["vit_digits"]
    assert command("--tasks", "vit_digits", "--most", 1) == 0
    assert capsys.readouterr().out.startswith("vit_digits, softmax, learning rate 0.001, seed 1000: validation loss ")
    assert command("--tasks", "vit_digits", "--maps", "softmax", "differential", "--seeds", 0) == 0
    lines = read_task(tmp_path / "results", "vit_digits")
    done = [(line["map"], line["seed"], "test" in line) for line in lines]
    assert done == [(name, 1000, False) for name in ("softmax", "softmax", "differential", "differential")] + [
        (name, 0, True) for name in ("softmax", "differential")
    ]
    capsys.readouterr()
    assert command("--tasks", "vit_digits", "--maps", "softmax", "differential", "--seeds", 0) == 0
    assert capsys.readouterr().out == ""
    assert read_task(tmp_path / "results", "vit_digits") == lines
    for line in lines[-2:]:
        assert line["plan"] == plan.digest
        assert line["learning_rate"] == chosen_rate(lines, line["map"], plan)
        assert len(line["test"]["test"]["right"]) == 400
        assert [step for step, _ in line["training"]["curve"]] == [2, 4]
        assert set(line["measured"]) == {"attention", "signs", "kurtosis", "quantised", "collapse"}
        assert bool(line["measured"]["signs"]) == (line["map"] == "differential")
    assert command(name="status") == 0
    assert "4 of 6" in (printed := capsys.readouterr().out)
    assert "6 of 24 cells are done." in printed
    assert len(cells_of(plan, task)) == 12


def test_the_same_seed_gives_the_same_line(command, tmp_path, plan):
    lines = []
    for _ in range(2):
        assert command("--tasks", "negation", "--maps", "sign_softmax", "--seeds", 1) == 0
        path = tmp_path / "results" / "negation.jsonl"
        lines.append([json.loads(line) for line in path.read_text().splitlines()])
        path.unlink()
    for first, second in zip(*lines, strict=True):
        assert first["validation"] == second["validation"]
        assert first.get("test") == second.get("test")
        assert first.get("measured") == second.get("measured")
    assert set(lines[0][-1]["test"]) == {"2", "4"}
    assert lines[0][-1]["measured"]["faithfulness"]["texts"] > 0
    assert compared(lines[0], plan)["sign_softmax"].keys() == {1}


def test_a_cell_that_another_process_has_is_left_to_it(command, plan, tmp_path, capsys):
    first, second, *_ = cells_of(plan, plan.tasks["vit_digits"])
    with run._taken(first, tmp_path / "results") as mine, run._taken(first, tmp_path / "results") as theirs:
        assert (mine, theirs) == (True, False)
        assert command("--tasks", "vit_digits", "--maps", "softmax", "--most", 1) == 0
    assert capsys.readouterr().out.startswith(f"{second}: ")
    assert second.learning_rate == 0.003


def test_cells_wait_for_the_grid(command, plan, tmp_path, monkeypatch):
    """While another process has one cell of the grid, no rate is chosen."""
    first = cells_of(plan, plan.tasks["vit_digits"])[0]
    with run._taken(first, tmp_path / "results"):
        assert command("--tasks", "vit_digits", "--maps", "softmax") == 0
    assert [line["seed"] for line in read_task(tmp_path / "results", "vit_digits")] == [1000]


def test_the_rate_with_the_smallest_validation_loss(plan, write):
    losses = {("softmax", 0.003): {"loss": 0.1}, ("sign_softmax", 0.003): {"loss": 0.498}, ("differential", 0.001): {"loss": float("nan")}}
    folder = write(lambda cell: losses.get((cell.map_name, cell.learning_rate), {}))
    lines = read_task(folder, "negation")
    assert [chosen_rate(lines, name, plan) for name in plan.maps] == [0.003, 0.001, 0.003]  # the second is a tie
    assert chosen_rate([line for line in lines if line["learning_rate"] == 0.001], "softmax", plan) is None


def test_the_rate_with_the_highest_accuracy_where_the_plan_is_amended(plan, write):
    """A model that learned and then became too sure, and one that guesses: the loss prefers the second."""
    found = {0.001: {"loss": 0.9, "accuracy": 0.8}, 0.003: {"loss": 0.69, "accuracy": 0.5}}
    lines = read_task(write(), "vit_digits")
    for line in lines:
        line["validation"] = found[line["learning_rate"]]
    amended = replace(plan, by_accuracy=("vit_digits",))
    assert chosen_rate(lines, "softmax", plan) == planned_rate(lines, "softmax", amended) == 0.003
    assert chosen_rate(lines, "softmax", amended) == 0.001
    found[0.003]["accuracy"] = 0.8
    assert chosen_rate(lines, "softmax", amended) == 0.001
    assert chosen_rate(lines, "softmax", replace(plan, by_accuracy=("negation",))) == 0.003
    found[0.001].update(loss=float("nan"), accuracy=0.9)  # of logits that are no numbers
    assert chosen_rate(lines, "softmax", amended) == 0.003


def test_a_training_that_diverges_is_kept(command, plan, tmp_path, monkeypatch):
    def _diverged(model, *_, **__):
        with torch.no_grad():
            model.classifier.weight.fill_(float("nan"))
        return {"steps": 4, "train_loss": float("nan"), "curve": [[4, float("nan")]], "seconds": 1.0, "step_seconds": 0.1}

    monkeypatch.setattr(run, "train", _diverged)
    assert command("--tasks", "vit_digits", "--maps", "softmax", "--seeds", 0) == 0
    *_, line = read_task(tmp_path / "results", "vit_digits")
    assert line["measured"] is None
    assert line["learning_rate"] == 0.001  # the first of two that are equally bad
    assert command("--output", tmp_path / "REPORT.md", name="report") == 0


def test_it_can_be_stopped(command, monkeypatch, capsys):
    def _stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_cell", _stopped)
    assert command("--tasks", "vit_digits") == 130
    assert "stopped: what is finished is kept; the same command goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--data", "nowhere"], "--data nowhere: there is no such folder"),
        (["--tasks", "poems"], "--tasks poems: the plan has none of that name; it has negation, vit_digits"),
        (["--maps", "tanhmax"], "--maps tanhmax: the plan has none of that name; it has softmax, sign_softmax, differential"),
        (["--seeds", "7"], "--seeds 7: the plan has none of that name; it has 0, 1"),
        (["--most", "0"], "--most must be at least 1, but is 0"),
        (["--plan", "nowhere.md"], "cannot read the plan nowhere.md: No such file or directory"),
    ],
)
def test_what_cannot_work(command, flags, sentence, capsys):
    assert command(*flags) == 2
    assert sentence in capsys.readouterr().err


def test_results_that_are_none(command, tmp_path, capsys):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "negation.jsonl").write_text('{"task": "negation"}\n')
    assert command(name="status") == 2
    assert "negation.jsonl holds a line that is no result of this recipe" in capsys.readouterr().err
    (tmp_path / "results" / "negation.jsonl").write_text("{\n")
    assert command(name="report") == 2
    assert "negation.jsonl is not JSON: line 1: " in capsys.readouterr().err


def test_commands(capsys):
    assert door.main([]) == 2
    assert "commands: run, pace, status, report" in capsys.readouterr().err
