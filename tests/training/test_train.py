"""The command: help, exit codes, and one sentence for a mistake."""

import pytest

from hf_tanhmax.training.train import main


@pytest.mark.parametrize(("arguments", "message"), [([], "name a recipe first"), (["--seed", "1"], "name a recipe first")])
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_no_mistake(flag, capsys):
    assert main([flag]) == 0
    assert "usage: accelerate launch -m recipes.train" in capsys.readouterr().out
