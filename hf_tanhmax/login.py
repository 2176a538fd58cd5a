"""Checks of the Hub token and of repository names before anything is sent; they do not ask the Hub."""

import re

from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .errors import HubError

NO_REPOSITORY = "{!r} is no name of a repository: write owner/name, each of at most 96 letters, digits, '-', '_' and '.'"


def can_be_repository(name: str) -> bool:
    """Whether a repository can have that name, such as `owner/name`."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def check_repository(name: str) -> None:
    """Check a name to publish to.

    Raises:
        HubError: no repository can have it.
    """
    if not can_be_repository(name):
        raise HubError(NO_REPOSITORY.format(name))


def check_name(key: str, name: str | None) -> None:
    """Check a name for a model card.

    Args:
        key: the argument that it is.
        name: None is no name.

    Raises:
        ValueError: no repository can have it.
    """
    if name is not None and not can_be_repository(name):
        raise ValueError(f"{key} must be a name that a repository can have, such as you/model, but is {name!r}")


def usable_token(token: str | None = None) -> str:
    """The token that is used, if it could be one: another character would end up in an error message of the HTTP client.

    Args:
        token: None takes HF_TOKEN, or what `hf auth login` stored.

    Raises:
        HubError: there is none, or it is no token.
    """
    found = token or get_token()
    if not found:
        raise HubError("nobody is logged in: run `hf auth login`, set HF_TOKEN, or pass a token")
    if not re.fullmatch(r"[!-~]+", found):
        raise HubError("the token holds spaces or letters that no token has: copy it again from the Hub's settings")
    return found
