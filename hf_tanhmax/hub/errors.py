"""One-sentence messages for the Hub's errors, which say what to do about them and never contain a token."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..choices import NO_REPOSITORY
from ..errors import HubError, first_line, one_line

# By status; what the Hub says itself is added to the ones not listed.
REFUSALS = {
    401: "the Hub does not know the token: make one at {endpoint}/settings/tokens, and log in with `hf auth login` or set HF_TOKEN",
    403: "the token may not write to {repo_id}: use one with write permission, or a repository under a name of your own",
    409: "somebody else was writing to {repo_id} at the same time: look at what changed there, and push again",
    412: "somebody else committed to {repo_id} at the same time: look at what changed there, and push again",
    429: "the Hub has had too many requests from you: wait some minutes, and push again",
}
AGAIN = "push again; nothing of this push is visible until all of it has arrived"


@contextmanager
def in_a_sentence(repo_id: str) -> Iterator[None]:
    """A context for calls of `huggingface_hub` about a repository: their errors become a `HubError`.

    Raises:
        HubError: the Hub refused, or could not be reached.
    """
    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        sentence = _sentence(_origin(error), repo_id)
        if sentence is None:
            raise
        raise HubError(sentence) from error


def _origin(error: Exception) -> Exception:
    """An upload of a large file fails with a RuntimeError that only says which file; its cause says why."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, Exception) else error


def _sentence(error: Exception, repo_id: str) -> str | None:
    endpoint = constants.ENDPOINT
    if isinstance(error, HFValidationError):
        return NO_REPOSITORY.format(repo_id)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be published: unset it"
    if isinstance(error, GatedRepoError):
        return f"access to {repo_id} must be asked for: do so at {endpoint}/{repo_id}"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no such revision: leave `create` on to make the branch, or name one that exists"
    if isinstance(error, RepositoryNotFoundError):
        return f"the token sees no repository {repo_id}: check the name; if it is private, use a token of somebody who may see it"
    if isinstance(error, HfHubHTTPError):
        return _refusal(error.response.status_code, error.server_message, repo_id)
    if isinstance(error, HTTPError | LocalEntryNotFoundError):
        return f"the connection to {endpoint} failed ({type(error).__name__}): check it, and HF_ENDPOINT, and {AGAIN}"
    if isinstance(error, ConnectionError | PermissionError | RuntimeError):
        return _failed_upload(error, repo_id)
    if isinstance(error, ValueError) and "README.md" in str(error):  # the Hub's verdict on a card has no class of its own
        return f"the Hub does not accept the metadata of README.md ({one_line(error)}): correct them, and push again"
    return None


def _refusal(status: int, said: str | None, repo_id: str) -> str:
    if status in REFUSALS:
        return REFUSALS[status].format(repo_id=repo_id, endpoint=constants.ENDPOINT)
    if status >= 500:
        return f"the Hub failed with status {status}: wait, and {AGAIN}"
    return f"the Hub refused {repo_id} with status {status} ({said or 'no reason given'}): mend that, and push again"


def _failed_upload(error: Exception, repo_id: str) -> str | None:
    """What hf_xet raises, which moves large files where it is installed: errors of Python's own, with the status in their text."""
    if isinstance(error, PermissionError) and type(error).__name__ != "XetAuthenticationError":
        return None
    status = 403 if isinstance(error, PermissionError) else int((re.search(r"\((\d{3}) ", str(error)) or [0, 0])[1])
    if status in REFUSALS:
        return _refusal(status, None, repo_id)
    return f"the upload to {repo_id} failed ({first_line(error)}): {AGAIN}; a Hub without Xet storage needs HF_HUB_DISABLE_XET=1"
