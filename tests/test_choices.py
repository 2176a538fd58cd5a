"""Names that a user chooses from are known without torch, and are those of what they name."""

import inspect

import pytest
import transformers

from hf_tanhmax import interpret
from hf_tanhmax.choices import CONTROL, MEASURES, METHODS, PIPELINES, check_choice


def test_methods_and_measures_are_those_that_exist():
    assert interpret.METHODS == METHODS
    assert tuple(interpret.MEASURES) == MEASURES
    assert set(inspect.signature(interpret.faithfulness).parameters["methods"].default) - set(METHODS) == {CONTROL}


def test_every_task_has_an_auto_class():
    assert all(hasattr(transformers, auto) for auto in PIPELINES)


@pytest.mark.parametrize(("chosen", "said"), [((), "methods is empty"), (("weights", "luck"), "there is no method 'luck'")])
def test_what_cannot_be_chosen(chosen, said):
    with pytest.raises(ValueError, match=f"{said}; choose from weights, oriented, contributions"):
        check_choice("method", chosen, METHODS)
