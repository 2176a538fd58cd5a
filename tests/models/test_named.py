"""The names that type checkers know are those of the classes that are made."""

import ast
from pathlib import Path

import pytest
import transformers
from named import FOLDER, classes, stub
from packaging.version import Version

import hf_tanhmax
from hf_tanhmax.models import named


def test_names_and_declarations_are_those_that_the_script_writes():
    written = ast.dump(ast.parse((FOLDER / "named.pyi").read_text()))
    assert ast.dump(ast.parse(stub())) == written, "run python tests/helpers/named.py"
    assert named.__all__ == sorted(classes())


def test_every_name_is_importable():
    for name, cls in classes().items():
        assert getattr(hf_tanhmax, name) is getattr(named, name) is cls


def test_type_checkers_see_them_in_the_package():
    code = ast.parse((FOLDER.parent / "__init__.py").read_text())
    imported = [node for node in ast.walk(code) if isinstance(node, ast.ImportFrom) and node.module == "models.named"]
    assert [[alias.name for alias in node.names] for node in imported] == [named.__all__]


def test_another_name():
    with pytest.raises(AttributeError, match="has no attribute 'TanhMaxOptModel'"):
        _ = named.TanhMaxOptModel


@pytest.mark.slow
@pytest.mark.skipif(Version(transformers.__version__) < Version("5.23"), reason="one release is enough, and mypy keeps one in its cache")
def test_a_program_that_uses_them_is_checked(tmp_path):
    """By mypy, as a user's is: a config's settings are known, and a misspelt class is an error."""
    api = pytest.importorskip("mypy.api")
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("import hf_tanhmax\nconfig = hf_tanhmax.TanhMaxQwen3Config()\npolarity: float | int | str = config.tanhmax_polarity\n")
    bad.write_text("import hf_tanhmax\nhf_tanhmax.TanhMaxQwen33Config()\n")
    root = Path(hf_tanhmax.__file__).parent.parent
    options = ["--config-file", str(root / "pyproject.toml"), "--follow-imports", "silent"]
    out, _, status = api.run([*options, str(good)])
    assert status == 0, out
    out, _, status = api.run([*options, str(bad)])
    assert "has no attribute" in out
