"""Errors in a line; a package that is missing is named with what needs it, and explanations without it need none."""

import ast
import json
from pathlib import Path

import pytest

from hf_tanhmax import interpret
from hf_tanhmax.errors import first_line, one_line, optional_package, some


def test_an_error_in_a_line():
    error = ValueError("a\n  b c\n")
    assert (one_line(error), one_line(error, 3), first_line(error)) == ("a b c", "a b", "a")
    assert (one_line(KeyError(), 3), first_line(KeyError())) == ("KeyError", "KeyError")


@pytest.mark.parametrize(("names", "words"), [([], ""), ("ab", "a, b"), ("dcba", "a, b, c and 1 more")])
def test_some(names, words):
    assert some(names) == words


def test_a_package_that_is_there():
    assert optional_package("json", "results") is json


def test_a_package_that_is_missing():
    with pytest.raises(ImportError, match=r'sums need nothing_here, which is not installed: pip install "hf-tanhmax\[interpret\]"'):
        optional_package("nothing_here.deep", "sums")


def test_importing_explanations_needs_no_extra():
    """Heavy packages are imported inside functions, never when a module is."""
    for path in Path(interpret.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            heavy = {name.split(".")[0] for name in names} & {"captum", "matplotlib", "scipy", "sklearn", "bertviz", "circuitsvis"}
            assert not heavy, f"{path.name} imports {heavy}"
