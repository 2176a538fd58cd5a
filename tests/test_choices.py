"""Names that a user chooses from are known without torch, and are those of what they name."""

import pytest
import transformers

from hf_tanhmax.choices import CONTROL, MEASURES, METHODS, PIPELINES, check_choice
from hf_tanhmax.interpret import MEASURES as MEASURED
from hf_tanhmax.interpret.faithfulness.evaluate import DEFAULT_METHODS


def test_the_measures_are_those_that_exist():
    assert tuple(MEASURED) == MEASURES


def test_what_is_compared_exists():
    assert set(DEFAULT_METHODS) <= {*METHODS, CONTROL}


def test_every_task_has_an_auto_class():
    assert all(hasattr(transformers, auto) for auto in PIPELINES)


@pytest.mark.parametrize(("chosen", "said"), [((), "methods is empty"), (("weights", "luck"), "there is no method 'luck'")])
def test_what_cannot_be_chosen(chosen, said):
    with pytest.raises(ValueError, match=f"{said}; choose from weights, oriented, contributions"):
        check_choice("method", chosen, METHODS)
