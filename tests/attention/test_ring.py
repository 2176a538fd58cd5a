"""A ring of two and of four processes computes what one does, and says what it does not."""

from pathlib import Path

import pytest
from processes import launch, passed
from ring_ranks import checks_of

WORKER = Path(__file__).parents[1] / "helpers" / "ring_ranks.py"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What became of every check, in each of two processes; all run in one launch."""
    return launch(WORKER, tmp_path_factory.mktemp("two"), processes=2)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return launch(WORKER, tmp_path_factory.mktemp("four"), processes=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", checks_of(2))
def test_two_ranks(name, two):
    passed(name, two)


@pytest.mark.slow
@pytest.mark.parametrize("name", checks_of(4))
def test_four_ranks(name, four):
    passed(name, four)
