"""Mistakes in the arguments of the commands that write a model for others."""

import pytest
from command_line import refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "a"], "the following arguments are required: OUT; see hf-tanhmax export --help"),
        (["export", "a", "b", "--opset", "many"], "argument --opset: "),
        (["export", "a", "b", "--task", "x", "--auto-class", "y"], "argument --auto-class: not allowed with argument --task"),
        (["push", "a"], "the following arguments are required: REPO"),
        (["push-kernel"], "the following arguments are required: REPO"),
        (["card"], "the following arguments are required: PATH"),
    ],
)
def test_mistakes(arguments, said, capsys):
    assert refused(capsys, *arguments).startswith(f"error: {said}")
