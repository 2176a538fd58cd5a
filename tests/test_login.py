"""Tokens and names of repositories, checked without the Hub."""

import pytest

from hf_tanhmax import login
from hf_tanhmax.errors import HubError
from hf_tanhmax.login import can_be_repository, check_name, check_repository, usable_token


@pytest.mark.parametrize(
    ("name", "can"), [("you/model", True), ("model", True), ("./model", False), ("/tmp/model", False), ("a/b/c", False), ("a b", False)]
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
    monkeypatch.setattr(login, "get_token", lambda: "hf_stored")
    assert (usable_token(), usable_token("hf_given")) == ("hf_stored", "hf_given")
    with pytest.raises(HubError, match="the token holds spaces or letters that no token has: copy it again"):
        usable_token("two words")
    monkeypatch.setattr(login, "get_token", lambda: None)
    with pytest.raises(HubError, match="nobody is logged in: run `hf auth login`, set HF_TOKEN, or pass a token"):
        usable_token()
