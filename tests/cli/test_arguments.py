"""The command line: words, help, and one sentence for a mistake; `test_checks` starts it as a program."""

import importlib.metadata
import subprocess
import sys

import pytest
from command_line import COMMANDS, refused
from readme import ROOT
from saved_models import save_model

import hf_tanhmax
from hf_tanhmax.cli import arguments as cli
from hf_tanhmax.cli.arguments import main

# Help


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert [
        line.split()[0] for line in printed.split("  COMMAND\n")[1].splitlines() if line.startswith("    ") and line[4] != " "
    ] == COMMANDS


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf-tanhmax {hf_tanhmax.__version__}\n"


# The package inside the program, which imports it when a command needs it


PROGRAM = """\
# The installed program imports hf_tanhmax.cli.
import sys
import hf_tanhmax
assert "torch" not in sys.modules, "the package was not to be imported yet"
"""


def as_the_program(folder, code):
    """Run code in a process that is started as the installed program is."""
    (folder / "hf-tanhmax").write_text(PROGRAM + code)
    done = subprocess.run([sys.executable, folder / "hf-tanhmax", "doctor", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_public_names_are_there_when_they_are_asked_for(tmp_path):
    code = """
for name in hf_tanhmax.__all__:
    assert getattr(hf_tanhmax, name).__name__ == name, name
assert not hasattr(hf_tanhmax, "gone")
from transformers import AutoConfig
try:
    AutoConfig.for_model("tanhmax_bert")
except ValueError:
    print("not registered")
"""
    assert as_the_program(tmp_path, code) == "not registered\n"


@pytest.mark.slow
def test_a_command_registers_what_it_needs(tmp_path):
    code = """
from hf_tanhmax.cli import main
assert main() == 1
from transformers import AttentionInterface, AutoConfig
assert type(AutoConfig.for_model("tanhmax_bert")) is hf_tanhmax.TanhMaxBertConfig
assert "tanhmax" in AttentionInterface()
"""
    assert "config.json  is not there" in as_the_program(tmp_path, code)


@pytest.mark.parametrize(
    ("started_by", "given", "is_the_program"),
    [
        (["python", "PLACE/hf-tanhmax", "train", "a"], ["PLACE/hf-tanhmax", "train", "a"], True),
        (["python", "PLACE/own/hf-tanhmax", "train", "a"], ["PLACE/own/hf-tanhmax", "train", "a"], False),  # a user's script
        (["python", "PLACE/folder/hf-tanhmax"], ["PLACE/folder/hf-tanhmax"], False),
        (["python", "script.py", "--model", "PLACE/folder/hf-tanhmax"], ["script.py"], False),  # which cut its arguments off
        (["python", "-X", "dev", "hf-tanhmax.exe"], ["hf-tanhmax.exe"], True),
        (["python", "-m", "hf_tanhmax.cli", "doctor"], ["-m", "doctor"], True),
        (["python", "-m", "hf_tanhmax.training.train", "hf-tanhmax"], ["-m", "hf-tanhmax"], False),
        (["python", "hf-tanhmax.py"], ["hf-tanhmax.py"], False),
        (["python", "-c", "spawn_main()", "--multiprocessing-fork"], ["PLACE/hf-tanhmax", "train", "a"], False),
        (["python"], [""], False),
        ([], [], False),
    ],
)
def test_the_program_is_told_by_how_it_was_started(started_by, given, is_the_program, tmp_path, monkeypatch):
    for folder in ("own", "folder/hf-tanhmax"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "hf-tanhmax").write_text("import sys\nfrom hf_tanhmax.cli import main\nsys.exit(main())\n")
    (tmp_path / "own" / "hf-tanhmax").write_text("import hf_tanhmax\n")
    monkeypatch.setattr(sys, "orig_argv", [part.replace("PLACE", str(tmp_path)) for part in started_by])
    monkeypatch.setattr(sys, "argv", [part.replace("PLACE", str(tmp_path)) for part in given])
    assert hf_tanhmax._is_the_program() == is_the_program


def test_the_installed_program_is_the_one_that_is_told():
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.scripts]\nhf-tanhmax = "hf_tanhmax.cli:main"\n' in text


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
            "argument --layers: must be numbers or names with commas between them, such as 0,1 or vision_model, but",
        ),
        (["convert", "a", "b", "--task", "x", "--auto-class", "y"], "argument --auto-class: not allowed with argument --task"),
        (["train"], "name a recipe first, such as bert/text_classification/tanhmax.yaml; see hf-tanhmax train --help"),
        (["train", "--config_file", "a.yaml"], "name a recipe first"),
        (["train", "gone.yaml"], "there is no recipe gone.yaml; there are bert/masked_lm/aligned.yaml, "),
        (
            ["train", "bert/text_classification/tanhmax.yaml", "--config_file", "gone.yaml"],
            "there is no config_file gone.yaml; there are accelerate_configs/cpu.yaml, accelerate_configs/ddp.yaml",
        ),
    ],
)
def test_mistakes(arguments, said, capsys):
    assert refused(capsys, *arguments).startswith(f"error: {said}")


def test_an_install_without_metadata(monkeypatch, capsys):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(cli.metadata, "version", version)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "hf-tanhmax (not installed)\n"


def test_ctrl_c_in_a_command(tmp_path, monkeypatch):
    from hf_tanhmax.cli import commands

    def interrupted(_):
        raise KeyboardInterrupt

    save_model(tmp_path, processor=False)
    monkeypatch.setattr(commands, "check_checkpoint", interrupted)
    assert main(["doctor", str(tmp_path)]) == 130
