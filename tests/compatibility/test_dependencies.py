"""The table of what is leant on: the installed releases have all of it, and no private name is used without an entry."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from trees import release

import hf_tanhmax
from hf_tanhmax.compatibility.dependencies import DEPENDENCIES, PACKAGES, missing
from hf_tanhmax.compatibility.sources import installed

PACKAGE = Path(hf_tanhmax.__file__).parent
ROOTS = (PACKAGE, PACKAGE.parent / "recipes")
PRIVATE = re.compile(r"_[A-Za-z0-9]\w*")
# A private name of our own that one class inherits from another, in another module.
INHERITED = {"_check_together"}
# What the standard library documents with a leading underscore: named tuples, whose methods must not be taken for fields, and the end of
# a process at once.
DOCUMENTED = {"_asdict", "_fields", "_make", "_replace", "_exit"}
NAMES = {part for each in DEPENDENCIES for _, name in each.places for part in re.findall(r"\w+", name)}


def sources():
    for root in ROOTS:
        for path in sorted(root.rglob("*.py")):
            yield path, path.read_text()


def own_names(tree):
    """What a module of ours defines with a leading underscore: functions, classes, variables, and attributes of its own objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "vars(self)" and isinstance(node.slice, ast.Constant):
            yield node.slice.value


def private_names(text):
    """Names with a leading underscore that a module takes from elsewhere, but Triton: attributes, imports, attributes in strings."""
    tree = ast.parse(text)
    own = set(own_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (node.attr in own and ast.unparse(node.value) in ("self", "cls", "view")):
            found = [node.attr]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            parts = (node.module or "").split(".")
            found = [*parts, *(alias.name for alias in node.names)] if parts[0] != "triton" else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr") and len(node.args) > 1:
            found = [node.args[1].value] if isinstance(node.args[1], ast.Constant) else []
        else:
            found = []
        yield from (name for name in found if isinstance(name, str) and PRIVATE.fullmatch(name))


def moved_imports(text):
    """Names imported from inside of Transformers and its companions, and not from the top of them or from what they document.

    But for types alone, which nothing that runs needs.
    """
    tree = ast.parse(text)
    typed = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    only_types = {id(inner) for node in typed for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in only_types:
            continue
        if isinstance(node, ast.ImportFrom) and not node.level and "." in (node.module or ""):
            package, _, inner = node.module.partition(".")
            if package in ("transformers", "peft", "accelerate") and inner != "utils":
                yield from (alias.name for alias in node.names)


def test_the_installed_releases_have_it_all():
    found = installed(PACKAGES)
    assert [each.name for each in missing(found)] == []
    assert {"transformers", "huggingface_hub", "torch"} <= set(found.packages)


def test_no_private_name_is_used_without_an_entry():
    for path, text in sources():
        if "kernels" not in path.parts:  # device code has names of its own
            assert set(private_names(text)) - NAMES - INHERITED - DOCUMENTED == set(), path


def test_no_inner_name_is_imported_without_an_entry():
    for path, text in sources():
        assert set(moved_imports(text)) - NAMES == set(), path


def test_the_check_of_private_names_finds_them():
    assert set(private_names("from transformers.x import _y\nmodel._flags\ngetattr(config, '_label')\n")) == {"_y", "_flags", "_label"}
    assert set(private_names("class A:\n    def _b(self):\n        return self._b + self._c\n")) == {"_c"}
    assert set(moved_imports("from transformers.deep import Thing\nfrom transformers import Other\n")) == {"Thing"}
    assert set(moved_imports("if TYPE_CHECKING:\n    from transformers.deep import Thing\nfrom peft.deep import Other\n")) == {"Other"}


@pytest.mark.parametrize("each", DEPENDENCIES, ids=lambda each: each.name)
def test_every_entry_names_who_uses_it_and_what_it_means(each, tmp_path):
    for module in each.used_by:
        name = module if module.startswith("recipes.") else f"hf_tanhmax.{module}"
        assert importlib.util.find_spec(name) is not None, module
    assert each.gone
    assert not each.gone.endswith(".")
    if each.package == "transformers" and each.name not in ("ALL_ATTENTION_FUNCTIONS", "sdpa_mask"):
        assert missing(release(tmp_path), [each]) == [each]  # where it is gone, that is found
