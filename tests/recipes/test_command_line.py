"""Help of recipes keeps its line breaks, by one parser that all of them use."""

import ast
from pathlib import Path

import pytest

from recipes import command_line
from recipes.command_line import Parser
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
