"""A package that is missing is named with what needs it; explanations without it need none."""

import ast
import json
from pathlib import Path

import pytest

from hf_tanhmax import interpret
from hf_tanhmax.errors import optional_package


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
