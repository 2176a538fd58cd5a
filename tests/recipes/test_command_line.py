"""Help of recipes keeps its line breaks, by one parser that all of them use; and all end alike."""

import ast
from pathlib import Path

import pytest

from hf_tanhmax.errors import Interrupted, RecipeError
from recipes import command_line
from recipes.command_line import Parser, exit_codes
from recipes.conversion import table
from recipes.paper import run

FOLDER = Path(command_line.__file__).parent


def test_no_recipe_has_a_parser_of_another_kind():
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("ArgumentParser", "RawDescriptionHelpFormatter"):
                assert path.name == "command_line.py", f"{path.relative_to(FOLDER)} makes a parser by itself"


def test_line_breaks_stay(capsys):
    parser = Parser(prog="a", description="One line.\n\n    code --here\n    more --there\n")
    parser.add_subparsers().add_parser("b", description="x\n\n    y")
    assert "\n    code --here\n    more --there\n" in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["b", "--help"])
    assert "\nx\n\n    y\n" in capsys.readouterr().out


@pytest.mark.parametrize("module", [table, run])
def test_help_of_a_recipe_is_its_docstring(module, capsys):
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    assert module.__doc__.strip() in capsys.readouterr().out


def ending(error, **how):
    @exit_codes(OSError, **how)
    def main(given):
        if given:
            raise error
        return 0

    assert main(False) == 0
    return main(True)


@pytest.mark.parametrize("error", [RecipeError("no\n  such file"), OSError("no such file")])
def test_what_cannot_work_is_one_line(error, capsys):
    assert ending(error) == 2
    assert capsys.readouterr().err == "error: no such file\n"
    with pytest.raises(ValueError, match="no such number"):
        ending(ValueError("no such number"))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("step 5")])
def test_what_goes_on_says_so_when_it_is_stopped(error, capsys):
    assert ending(error, resumable=True) == 130
    assert capsys.readouterr().err == "stopped: what is finished is kept; the same command goes on from there\n"
    with pytest.raises(KeyboardInterrupt):
        ending(KeyboardInterrupt())


def test_no_recipe_ends_in_a_way_of_its_own():
    for path in FOLDER.rglob("*.py"):
        handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)]
        said = [ast.unparse(each.type) for each in handlers if each.type is not None and "return 2" in ast.unparse(each)]
        assert path.name == "command_line.py" or not said, f"{path.relative_to(FOLDER)} catches {said} by itself"
