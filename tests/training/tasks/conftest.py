"""Fixtures of tasks without a run."""

import pytest

from hf_tanhmax.training.configuration.recipe import read_recipes
from hf_tanhmax.training.tasks import task_for


@pytest.fixture
def task_of(variant):
    """The task of a `tanhmax.yaml`, changed by flags."""
    return lambda name, *flags: task_for(read_recipes([variant("tanhmax", name), *flags])[0].config)
