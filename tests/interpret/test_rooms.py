"""The rooms of explanations import downwards: inputs, attribution, faithfulness, ablation, viz."""

import ast
from pathlib import Path

import pytest

from hf_tanhmax import interpret

FOLDER = Path(interpret.__file__).parent
ROOMS = ("inputs", "attribution", "faithfulness", "ablation", "viz")


def test_every_folder_is_a_room():
    assert {path.parent.name for path in FOLDER.glob("*/*.py")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down(room):
    for path in (FOLDER / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                imported = (node.module or "").split(".")[0]
                assert ROOMS.index(imported) <= ROOMS.index(room), f"{room}/{path.name} imports {imported}"
