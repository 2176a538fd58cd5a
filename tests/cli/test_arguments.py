"""The command line: quick help, one sentence for a mistake, and processes that are started, stopped and answered for."""

import importlib.metadata
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from saved_models import save_model

import hf_tanhmax
from hf_tanhmax.cli import arguments as cli
from hf_tanhmax.cli.arguments import main

ROOT = Path(hf_tanhmax.__file__).parents[1]
COMMANDS = ["convert", "train", "evaluate", "bench", "push", "card", "doctor", "explain", "faithfulness", "rank-collapse"]


@pytest.fixture
def started(monkeypatch):
    """The programs that would be started."""
    commands = []

    def record(command, *, launcher=False):
        commands.append((list(command), launcher))
        return 0

    monkeypatch.setattr(cli, "_run", record)
    return commands


def refused(capsys, *arguments):
    """The sentence on stderr about a mistake, which is one line."""
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command, capsys):
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"hf-tanhmax {command}" in printed.split("examples:")[1]


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert [
        line.split()[0] for line in printed.split("  COMMAND\n")[1].splitlines() if line.startswith("    ") and line[4] != " "
    ] == COMMANDS


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf-tanhmax {hf_tanhmax.__version__}\n"


def test_the_program_is_installed():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="hf-tanhmax")
    assert entry.load().__module__ == "recipes.command"


@pytest.mark.slow
def test_help_is_quick_and_commands_find_the_package(tmp_path):
    """The program as it is started: nothing heavy for help, the whole package for a command, and one copy of the command line."""
    code = """
import sys
from recipes.command import main
assert main(["--help"]) == 0 and main(["train", "--help"]) == 0 and main(["train", "gone.yaml"]) == 2
assert not {"torch", "transformers", "hf_tanhmax", "numpy"} & set(sys.modules), "help is heavy"
assert main(["doctor", sys.argv[1]]) == 1
from hf_tanhmax import cli
assert cli.main.__code__ is sys.modules["hf_tanhmax.cli"].main.__code__, "the command line is there twice"
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "config.json  is not there" in done.stdout


def test_the_door_says_if_there_is_nothing_behind_it(monkeypatch):
    from recipes import command

    monkeypatch.setattr(command.util, "spec_from_file_location", lambda *_: None)
    with pytest.raises(ImportError, match=r"hf_tanhmax has no cli.py; install hf-tanhmax again"):
        command.main(["--help"])


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND; see hf-tanhmax --help"),
        (["frob"], "argument COMMAND: invalid choice: 'frob'"),
        (["convert"], "the following arguments are required: SOURCE, OUT; see hf-tanhmax convert --help"),
        (["convert", "a", "b", "--polarity", "much"], "argument --polarity: must be a number in [0, 1] or \"learned\", but is 'much'"),
        (
            ["convert", "a", "b", "--layers", "0;1"],
            "argument --layers: must be whole numbers with commas between them, such as 0,1, but",
        ),
        (["convert", "a", "b", "--task", "x", "--auto-class", "y"], "argument --auto-class: not allowed with argument --task"),
        (["push", "a"], "the following arguments are required: REPO"),
        (["train"], "name a recipe first, such as bert/text_classification/tanhmax.yaml; see hf-tanhmax train --help"),
        (["train", "--config_file", "a.yaml"], "name a recipe first"),
        (["train", "gone.yaml"], "there is no recipe gone.yaml; there are bert/masked_lm/annealed.yaml, "),
        (
            ["train", "bert/text_classification/tanhmax.yaml", "--config_file", "gone.yaml"],
            "there is no config_file gone.yaml; there are accelerate_configs/cpu.yaml, accelerate_configs/ddp.yaml",
        ),
    ],
)
def test_mistakes(arguments, said, capsys):
    assert refused(capsys, *arguments).startswith(f"error: {said}")


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("accelerate", ["train", "bert/text_classification/tanhmax.yaml"]), ("recipes", ["evaluate", "a"]), ("recipes", ["train", "a.yaml"])],
)
def test_what_is_not_installed(package, arguments, monkeypatch, capsys):
    found = cli.util.find_spec
    monkeypatch.setattr(cli.util, "find_spec", lambda name: None if name == package else found(name))
    assert refused(capsys, *arguments) == f"error: {package} is not installed; pip install hf-tanhmax[recipes]"


def test_an_install_without_metadata(monkeypatch, capsys):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(cli.metadata, "version", version)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "hf-tanhmax (not installed)\n"


# Doors to the recipes


@pytest.mark.parametrize("name", ["bert/text_classification/tanhmax.yaml", "recipes/bert/text_classification/tanhmax.yaml"])
@pytest.mark.parametrize("first", [True, False])
def test_training_is_launched_with_everything(name, first, started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there are no recipes but the installed ones
    config = ["--config_file", "recipes/accelerate_configs/cpu.yaml"]
    flags = ["--polarity", "0.5", "--compare_with=softmax", "--resume"]
    assert main(["train", *(config if first else []), name, *flags[:2], *([] if first else config), *flags[2:]]) == 0
    ((command, launcher),) = started
    assert launcher
    assert command == [
        *(sys.executable, "-m", "accelerate.commands.launch", "--quiet"),
        *("--config_file", str(ROOT / "recipes/accelerate_configs/cpu.yaml"), "-m", "recipes.train"),
        *(str(ROOT / "recipes/bert/text_classification/tanhmax.yaml"), *flags),
    ]


def test_a_recipe_of_ones_own(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("task: bert/text_classification\n")
    assert main(["train", "mine.yaml"]) == 0
    assert started[0][0][-1] == "mine.yaml"


@pytest.mark.parametrize(("command", "module"), [("evaluate", "hf_tanhmax.training.evaluate"), ("bench", "recipes.benchmarks.attention")])
def test_other_doors_pass_everything_on(command, module, started):
    assert main([command, "what", "--key", "value", "--help"]) == 0
    assert started == [([sys.executable, "-m", module, "what", "--key", "value", "--help"], False)]


def test_the_help_of_a_recipe_lists_its_keys(capfd):
    assert main(["train", "bert/text_classification/tanhmax.yaml", "--help"]) == 0
    assert "polarity_schedule: null" in capfd.readouterr().out


@pytest.mark.slow
def test_a_mistake_in_a_recipe_comes_back_through_the_launcher(capfd):
    """Accelerate ends with 1, whatever ended what it launched; the sentence is that of the recipe, and no traceback is added."""
    assert (
        main(["train", "bert/text_classification/tanhmax.yaml", "--learnin_rate", "1", "--config_file", "accelerate_configs/cpu.yaml"]) == 1
    )
    printed = capfd.readouterr().err
    assert "error: --learnin_rate: unknown key 'learnin_rate'; did you mean 'learning_rate'?" in printed
    assert "Traceback" not in printed


# Processes


def python(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


@pytest.mark.parametrize(("end", "code"), [("pass", 0), ("sys.exit(7)", 7), ("os.kill(os.getpid(), signal.SIGKILL)", 137)])
def test_exit_codes_are_passed_on(end, code):
    assert cli._run(python(f"import os, signal, sys\n{end}")) == code


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
    assert cli._run(python(program)) == code
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
    assert cli._run(python(launcher), launcher=True) == 130
    thread.join()
    assert (tmp_path / "launcher ended").read_text() == "True"


def test_a_process_that_has_ended_cannot_be_told():
    ended = subprocess.Popen(python("pass"))
    ended.wait()
    cli._signal(ended.pid, signal.SIGINT, to_children=True)


def test_ctrl_c_in_a_command(tmp_path, monkeypatch):
    from hf_tanhmax.cli import commands

    def interrupted(_):
        raise KeyboardInterrupt

    save_model(tmp_path, processor=False)
    monkeypatch.setattr(commands, "check_checkpoint", interrupted)
    assert main(["doctor", str(tmp_path)]) == 130
