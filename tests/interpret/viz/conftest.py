"""A browser that looks at pages of explanations."""

import itertools

import pytest
from browser import Visitor, chromium

from hf_tanhmax.interpret.viz.page import save_page


@pytest.fixture(scope="module")
def visitor():
    with chromium() as browser:
        yield Visitor(browser)


@pytest.fixture
def visit(visitor, tmp_path):
    """Look at explanations; the page must ask for nothing and complain of nothing."""
    count = itertools.count()

    def look(explanations, *, contributions="auto", scheme="light"):
        assert visitor.found_fault() == ([], [])
        return visitor.open(save_page(explanations, tmp_path / f"{next(count)}.html", contributions=contributions), scheme=scheme)

    yield look
    assert visitor.found_fault() == ([], [])
