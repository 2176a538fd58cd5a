"""The package as one file: all of it, nothing else, and what Transformers asks of such a file. The file itself is run in `test_remote`."""

import ast
import builtins
import hashlib
import inspect
import re
import shutil
import symtable
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

import hf_tanhmax
from hf_tanhmax.models import bundle
from hf_tanhmax.models.bundle import CODE_FILE, MODULES, PACKAGE, digest, source, text_of

PUBLISHED = Path(__file__).with_name("published.sha256")
TRITON = (
    "import triton",
    "import triton.language as tl",
    "from triton.testing import do_bench",
    "from triton.tools.tensor_descriptor import TensorDescriptor",
)
STANDIN = "models/bundle"  # which the file has a few lines instead of


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the package that `source` reads instead."""
    folder = shutil.copytree(PACKAGE, tmp_path / "hf_tanhmax", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(bundle, "PACKAGE", folder)
    source.cache_clear()
    yield folder
    source.cache_clear()


def imported_by(module):
    """The modules of the package that one imports, at its top or inside of functions."""
    folder = module.split("/")[:-1]
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield "/".join([*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")])


def test_a_change_of_what_is_published_is_seen():
    found = hashlib.sha256(source().encode()).hexdigest()
    assert PUBLISHED.read_text().strip() == found, (
        f"what is published has changed; if it is meant to, its digest in {PUBLISHED.name} is {found}"
    )


def test_the_header():
    start, body = source().split("# sha256 of what follows this line\n")
    assert f'VERSION = "{hf_tanhmax.__version__}"\nDIGEST = "{digest(body)}"  ' in start
    assert "Apache-2.0" in start
    assert "do not edit it" in start


def test_modules_come_after_those_that_they_import():
    for place, module in enumerate(MODULES):
        assert set(imported_by(module)) <= {*MODULES[:place], STANDIN}, module


class Said(ast.NodeTransformer):
    """A statement without the imports of other modules in it, and without the indentation of its docstrings."""

    def visit_ImportFrom(self, node):
        return None if node.level else node

    def visit_Constant(self, node):
        return ast.Constant(inspect.cleandoc(node.value)) if isinstance(node.value, str) else node


def statements(text):
    """What a module says besides its imports."""
    for node in ast.parse(text).body:
        behind_the_condition = isinstance(node, ast.If) and ast.unparse(node.test) == "triton_missing() is None"
        for each in node.body if behind_the_condition else [node]:
            if not isinstance(each, ast.Import | ast.ImportFrom):
                yield ast.dump(Said().visit(each))


def test_every_statement_of_every_module_is_there_and_no_other():
    wanted = [each for module in MODULES for each in statements(text_of(module))]
    bound = set(statements("".join(f"{bundle._binding(line)}\n" for line in TRITON)))
    found = [each for each in statements(source()) if each not in bound]
    start = found.index(wanted[0])
    assert start == 6  # docstring, version, digest, the question for Transformers' version, and what stands for a module
    assert found[start : start + len(wanted)] == wanted
    assert found[start + len(wanted) :] == list(statements("register_attention()"))


def test_a_module_differs_in_its_names_and_by_the_text_of_the_file_that_it_reads():
    same, different = [], []
    for module in MODULES:
        (same if text_of(module) == (PACKAGE / f"{module}.py").read_text() else different).append(module)
    assert different == ["attention/cpu/compiler", "attention/ops"]
    for file in [*(PACKAGE / "attention/cpu").glob("*.h"), *(PACKAGE / "attention/cpu").glob("*.cpp")]:
        assert f'\n    r"""{file.read_text()}""",\n' in text_of("attention/cpu/compiler")
    assert "NAMESPACE = next(" in text_of("attention/ops")


def test_comments_are_kept():
    for module in MODULES:
        for comment in re.findall(r"^ *(#.*)$", (PACKAGE / f"{module}.py").read_text(), re.MULTILINE):
            assert comment in source()


def test_every_name_means_something():
    table = symtable.symtable(source(), CODE_FILE, "exec")
    known = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()} | set(dir(builtins))

    def unknown(scope):
        yield from (symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global() and symbol.get_name() not in known)
        for inner in scope.get_children():
            yield from unknown(inner)

    assert set(unknown(table)) <= {"__file__"}


def test_transformers_asks_for_nothing_that_it_does_not_bring(tmp_path):
    (tmp_path / CODE_FILE).write_text(source())
    assert set(get_imports(tmp_path / CODE_FILE)) - sys.stdlib_module_names == {"torch", "transformers", "huggingface_hub"}
    assert get_relative_imports(tmp_path / CODE_FILE) == []


@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        (
            "attention/ops",
            "def tiles(): ...",
            r"'tiles' means one thing in hf_tanhmax/attention/kernels/schedule.py and another in hf_tanhmax/attention/ops.py",
        ),
        (
            "attention/ops",
            "from math import pi as Tensor",
            "'Tensor' means one thing in from torch import Tensor and another in from math import pi",
        ),
        ("attention/ops", "map = None", "'map' means one thing in Python and another in hf_tanhmax/attention/ops.py; rename one of them"),
        (
            "integration/patching",
            "for source in (): ...",
            "'source' means one thing in the prelude and another in hf_tanhmax/integration/patching.py",
        ),
    ],
    ids=["definition", "import", "builtin", "loop"],
)
def test_a_name_that_means_two_things_is_refused(copy, module, text, message):
    with (copy / f"{module}.py").open("a") as file:
        file.write(f"\n{text}\n")
    with pytest.raises(ValueError, match=message):
        source()


def test_what_is_bound_within_means_nothing_outside(copy):
    """Python 3.12 says of a comprehension's variable that it is the module's."""
    for module, value in (("attention/ops", 1), ("integration/patching", 2)):
        with (copy / f"{module}.py").open("a") as file:
            file.write(f"\nassert [each_one for each_one in ({value},)] and (lambda one_more: one_more)({value})\n")
    assert "for each_one in (2,)" in source()


def test_another_state_has_another_name(copy):
    before = digest(source())
    with (copy / "attention/ops.py").open("a") as file:
        file.write("\n# More.\n")
    source.cache_clear()
    assert digest(source()) != before


def test_an_old_transformers_is_told(monkeypatch):
    oldest = re.search(r"transformers>=([\d.]+)", (PACKAGE.parent / "pyproject.toml").read_text())[1]
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.57.1")  # it replaces its own module now and then
    with pytest.raises(ImportError, match=f"this checkpoint needs transformers {oldest} or newer, but 4.57.1 is installed"):
        exec(compile(source(), CODE_FILE, "exec"), {"__name__": "published"})
