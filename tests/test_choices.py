"""Names that a user chooses from are those of what they name; names of repositories and tokens are checked without the Hub."""

import inspect

import huggingface_hub
import pytest
import transformers

from hf_tanhmax import interpret
from hf_tanhmax.choices import (
    CONTROL,
    EXPLAIN_METHODS,
    MEASURES,
    METHODS,
    PIPELINES,
    can_be_repository,
    check_choice,
    check_name,
    check_repository,
    usable_token,
)
from hf_tanhmax.errors import HubError


def test_methods_and_measures_are_those_that_exist():
    assert interpret.METHODS == METHODS
    assert inspect.signature(interpret.explain).parameters["methods"].default == EXPLAIN_METHODS == METHODS[: len(EXPLAIN_METHODS)]
    assert tuple(interpret.MEASURES) == MEASURES
    assert set(inspect.signature(interpret.faithfulness).parameters["methods"].default) - set(METHODS) == {CONTROL}


def test_every_task_has_an_auto_class():
    assert all(hasattr(transformers, auto) for auto in PIPELINES)


@pytest.mark.parametrize(("chosen", "said"), [((), "methods is empty"), (("weights", "luck"), "there is no method 'luck'")])
def test_what_cannot_be_chosen(chosen, said):
    with pytest.raises(ValueError, match=f"{said}; choose from weights, oriented, contributions"):
        check_choice("method", chosen, METHODS)


def test_a_name_that_is_nearly_one_is_offered():
    with pytest.raises(ValueError, match=r"there is no method 'contribution' \(did you mean 'contributions'\?\); choose from weights"):
        check_choice("method", ("contribution",), METHODS)


@pytest.mark.parametrize(
    ("name", "can"), [("you/model", True), ("model", True), ("./model", False), ("/model", False), ("a/b/c", False), ("a b", False)]
)
def test_names(name, can):
    assert can_be_repository(name) == can


def test_sentences_about_a_name():
    check_repository("you/model")
    check_name("repo_id", "you/model")
    check_name("repo_id", None)
    with pytest.raises(HubError, match=r"^'a b' is no name of a repository: write owner/name, each of at most 96 letters"):
        check_repository("a b")
    with pytest.raises(ValueError, match=r"^repo_id must be a name that a repository can have, such as you/model, but is 'a b'$"):
        check_name("repo_id", "a b")


def test_tokens(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_stored")
    assert (usable_token(), usable_token("hf_given")) == ("hf_stored", "hf_given")
    with pytest.raises(HubError, match="the token holds spaces or letters that no token has: copy it again"):
        usable_token("two words")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(HubError, match="nobody is logged in: run `hf auth login`, set HF_TOKEN, or pass a token"):
        usable_token()
