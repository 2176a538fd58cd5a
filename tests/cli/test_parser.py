"""What all commands have: help with examples, and a sentence that says where the help is."""

import pytest
from command_line import COMMANDS, refused

from hf_tanhmax.cli.arguments import main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command, capsys):
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"hf-tanhmax {command}" in printed.split("examples:")[1]


def test_a_mistake_names_the_help_of_its_command(capsys):
    said = "the following arguments are required: SOURCE, OUT; see hf-tanhmax convert --help"
    assert refused(capsys, "convert") == f"error: {said}"
