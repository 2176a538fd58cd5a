"""Recipes, evaluation and benchmarks in processes of their own, which are started, stopped and answered for."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import hf_tanhmax
from hf_tanhmax.cli import processes
from hf_tanhmax.cli.arguments import main
from hf_tanhmax.training.checkpoints import IDENTITY

ROOT = Path(hf_tanhmax.__file__).parents[1]
RECIPE = "bert/text_classification/tanhmax"


@pytest.fixture
def started(monkeypatch):
    """The programs that would be started."""
    commands = []

    def record(command, *, launcher=False):
        commands.append((list(command), launcher))
        return 0

    monkeypatch.setattr(processes, "run", record)
    return commands


def refused(capsys, *arguments):
    """The sentence on stderr about a mistake, which is one line."""
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line.removeprefix("error: ")


# What is started


@pytest.mark.parametrize("name", [f"{RECIPE}.yaml", f"recipes/{RECIPE}.yaml", RECIPE])
@pytest.mark.parametrize("first", [True, False])
def test_training_is_launched_with_everything(name, first, started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there are no recipes but the installed ones
    config = ["--config_file", "recipes/accelerate_configs/cpu.yaml"]
    flags = ["--polarity", "0.5", "--compare_with=softmax", "--resume"]
    assert main(["train", *(config if first else []), name, *flags[:2], *([] if first else config), *flags[2:]]) == 0
    ((command, launcher),) = started
    assert launcher
    assert command == [
        *(sys.executable, "-c", processes.LAUNCHER, "--quiet"),
        *("--config_file", str(ROOT / "recipes/accelerate_configs/cpu.yaml"), "-m", "hf_tanhmax.training.train"),
        *(str(ROOT / f"recipes/{RECIPE}.yaml"), *flags),
    ]


def test_the_launcher_does_not_tell_of_the_values_that_it_takes_itself(tmp_path):
    """The filter names a part of accelerate's sentence: where accelerate words it otherwise, it is printed again."""
    (tmp_path / "said.py").write_text("print('trained')")
    environment = {**os.environ, "HF_HOME": str(tmp_path)}  # where there is no configuration of accelerate
    command = [sys.executable, "-c", processes.LAUNCHER, "--quiet", str(tmp_path / "said.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "trained\n"
    assert done.stderr == ""


def test_a_recipe_of_ones_own(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("task: bert/text_classification\n")
    assert main(["train", "mine.yaml"]) == 0
    assert started[0][0][-1] == "mine.yaml"


def test_evaluate_passes_everything_on(started, tmp_path):
    (tmp_path / IDENTITY).write_text('{"config": {"task": "bert/text_classification"}}')
    assert main(["evaluate", str(tmp_path), "--key", "value", "--help"]) == 0
    assert started == [([sys.executable, "-m", "hf_tanhmax.training.evaluate", str(tmp_path), "--key", "value", "--help"], False)]


def test_bench_passes_everything_on(started):
    assert main(["bench", "attention", "--key", "value", "--help"]) == 0
    assert started == [([sys.executable, "-m", "recipes.benchmarks.attention", "attention", "--key", "value", "--help"], False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "acuracy"], "there is no benchmark acuracy; did you mean accuracy?"),
        (["bench", "zzz"], "there is no benchmark zzz; there are attention, decode, accuracy, tune, join, table"),
        (["bench"], "name a benchmark first: attention, decode, accuracy, tune, join, table; see hf-tanhmax bench --help"),
        (["train", f"{RECIPE}x"], f"there is no recipe {RECIPE}x; did you mean {RECIPE}.yaml?"),
        (["train", "bert/text_clasification/aligned.yaml"], "did you mean bert/text_classification/aligned.yaml?"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(arguments, message, started, capsys):
    assert refused(capsys, *arguments).endswith(message)
    assert started == []


def test_a_task_alone_lists_its_variants(started, capsys):
    said = refused(capsys, "train", "bert/masked_lm")
    assert said.startswith("there is no recipe bert/masked_lm; there are bert/masked_lm/aligned.yaml, ")
    assert "bert/text_classification" not in said


def test_a_benchmark_errs_under_the_name_of_the_command():
    environment = {**os.environ, processes.PROGRAM: "hf-tanhmax bench"}
    command = [sys.executable, "-m", processes.BENCH, "accuracy", "--nope"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.stderr.splitlines()[-1] == "hf-tanhmax bench: error: unrecognized arguments: --nope"
    done = subprocess.run([*command[:3], "none"], capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert all(f"'{name}'" in done.stderr for name in processes.BENCHMARKS), "the names are those of the program"


def test_bench_tunes(started):
    assert main(["bench", "--tune"]) == 0
    assert main(["bench", "--tune", "--output", "tiles.json"]) == 0
    command = [sys.executable, "-m", "recipes.benchmarks.attention", "tune"]
    assert started == [(command, False), ([*command, "--output", "tiles.json"], False)]


def test_bench_in_a_checkout_of_another_package(started, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "PACKAGE", tmp_path / "site-packages" / "hf_tanhmax")
    monkeypatch.chdir(ROOT)
    assert main(["bench", "accuracy"]) == 0
    assert len(started) == 1


def test_the_help_of_a_recipe_lists_its_keys(started, capsys):
    assert main(["train", RECIPE, "--help"]) == 0
    assert "polarity_schedule: null" in capsys.readouterr().out
    assert started == []


# What is not


def test_a_mistake_in_a_recipe_is_found_before_anything_is_launched(started, capsys, tmp_path):
    said = refused(capsys, "train", RECIPE, "--learnin_rate", "1", "--config_file", "accelerate_configs/cpu.yaml")
    assert "unknown key 'learnin_rate'; did you mean 'learning_rate'?" in said
    (tmp_path / "mine.yaml").write_text("epochs: 1\n")
    for more in ([], ["--help"]):
        assert "mine.yaml names no task" in refused(capsys, "train", str(tmp_path / "mine.yaml"), *more)
    assert started == []


def test_training_without_accelerate(monkeypatch, started, capsys):
    found = processes.util.find_spec
    monkeypatch.setattr(processes.util, "find_spec", lambda name: None if name == "accelerate" else found(name))
    for arguments in (["train", RECIPE], ["train", RECIPE, "--help"], ["evaluate", "run"]):
        assert refused(capsys, *arguments) == "accelerate is not installed; pip install hf-tanhmax[recipes]"
    assert started == []


def test_bench_without_a_checkout(monkeypatch, started, tmp_path, capsys):
    monkeypatch.setattr(processes, "PACKAGE", tmp_path / "site-packages" / "hf_tanhmax")
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, "bench", "attention")
    assert said == "recipes.benchmarks.attention is not part of the installed package; run it from a checkout of the repository"
    assert started == []


def test_evaluate_of_what_is_no_run(started, tmp_path, capsys):
    for text in (None, "{", "[]", '{"config": {"task": "chess"}}'):
        if text is not None:
            (tmp_path / IDENTITY).write_text(text)
        said = refused(capsys, "evaluate", str(tmp_path), "--seed", "1")
        assert said == f"{tmp_path} is not the folder of a run: it has no readable {IDENTITY}"
    assert refused(capsys, "evaluate") == "name the folder of a run first; see hf-tanhmax evaluate --help"
    assert started == []


def test_the_file_that_tells_a_run_is_that_of_training():
    """The command line names it again, as it does not import what saves it."""
    assert processes.IDENTITY == IDENTITY


# How it ends


def python(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


@pytest.mark.parametrize(("end", "code"), [("pass", 0), ("sys.exit(7)", 7), ("os.kill(os.getpid(), signal.SIGKILL)", 137)])
def test_exit_codes_are_passed_on(end, code):
    assert processes.run(python(f"import os, signal, sys\n{end}")) == code


def when_there(path, act):
    """Act once a file is there."""

    def wait():
        while not path.exists():
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("number", "received", "code"), [("SIGINT", "SIGINT", 130), ("SIGTERM", "SIGTERM", 143), ("SIGHUP", "SIGTERM", 129)]
)
def test_signals_are_passed_on_once(number, received, code, tmp_path):
    program = f"""
    import pathlib, signal, sys, time
    place = pathlib.Path({str(tmp_path)!r})
    def stop(number, frame):
        with open(place / "signals", "a") as file:
            file.write(signal.Signals(number).name)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    (place / "ready").touch()
    while not (place / "signals").exists():
        time.sleep(0.02)
    time.sleep(0.3)  # a second one would arrive now
    (place / "saved").touch()
    """
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    thread = when_there(tmp_path / "ready", lambda: os.kill(os.getpid(), getattr(signal, number)))
    assert processes.run(python(program)) == code
    thread.join()
    assert (tmp_path / "signals").read_text() == received
    assert (tmp_path / "saved").exists()
    assert {each: signal.getsignal(each) for each in before} == before


def test_a_launcher_waits_for_its_workers(tmp_path):
    """What Ctrl-C would kill, as it kills a launcher that waits, is not told; its worker is, and saves."""
    worker = f"""
    import pathlib, signal, time
    place = pathlib.Path({str(tmp_path)!r})
    signal.signal(signal.SIGINT, lambda *_: (place / "stopped").touch())
    (place / "ready").touch()
    while not (place / "stopped").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    (place / "saved").touch()
    """
    launcher = f"""
    import pathlib, subprocess, sys
    subprocess.Popen([sys.executable, "-c", {textwrap.dedent(worker)!r}]).wait()
    pathlib.Path({str(tmp_path)!r}, "launcher ended").write_text(str(pathlib.Path({str(tmp_path)!r}, "saved").exists()))
    """
    thread = when_there(tmp_path / "ready", lambda: os.kill(os.getpid(), signal.SIGINT))
    assert processes.run(python(launcher), launcher=True) == 130
    thread.join()
    assert (tmp_path / "launcher ended").read_text() == "True"


def test_a_process_that_has_ended_cannot_be_told():
    ended = subprocess.Popen(python("pass"))
    ended.wait()
    processes.send_signal(ended.pid, signal.SIGINT, to_children=True)
