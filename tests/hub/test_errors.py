"""Each refusal of the Hub is one sentence; what is no refusal passes."""

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import HTTPError
from loopback.server import OWNER_TOKEN, STRANGER_TOKEN, UNKNOWN_TOKEN

from hf_tanhmax.hub.errors import HubError, in_a_sentence


@pytest.fixture
def api(hub_here):
    HfApi().create_repo("owner/thing")
    return HfApi(token=OWNER_TOKEN)


def refused(call, sentence):
    with pytest.raises(HubError, match=sentence) as caught, in_a_sentence("owner/thing"):
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, "does not know the token: make one at http://127.*log in"),
        (403, "may not write to owner/thing: use one with write permission"),
        (409, "was writing to owner/thing at the same time.*push again"),
        (412, "committed to owner/thing at the same time.*push again"),
        (418, r"refused owner/thing with status 418 \(this request was to fail\)"),
    ],
)
def test_by_status(api, hub, status, sentence):
    hub.faults.fail = ("whoami", status)
    refused(api.whoami, sentence)


@pytest.mark.parametrize(("status", "sentence"), [(429, "wait some minutes"), (503, "failed with status 503: wait, and push again")])
def test_statuses_that_are_retried(api, hub, status, sentence):
    hub.faults.fail = ("create", status)
    refused(lambda: api.create_repo("owner/other"), sentence)


def test_what_is_not_there(api, hub):
    refused(lambda: api.model_info("owner/nothing"), "sees no repository")
    refused(lambda: api.model_info("owner/thing", revision="nowhere"), "no such revision")
    refused(lambda: api.model_info("a--b"), "is no name of a repository")
    refused(lambda: HfApi(token=UNKNOWN_TOKEN).whoami(), "does not know the token")
    hub.faults.fail = ("/thing", 403, "GatedRepo")
    refused(lambda: api.model_info("owner/thing"), "access to owner/thing must be asked for")
    refused(lambda: HfApi(token=STRANGER_TOKEN).create_repo("owner/mine"), "may not write")


def test_no_connection(api, hub, monkeypatch):
    hub.stop()
    refused(api.whoami, rf"the connection to {hub.url} failed")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(api.whoami, "HF_HUB_OFFLINE is set")


def test_causes_of_failed_uploads():
    def lost():
        raise RuntimeError("Error while uploading 'model.safetensors' to the Hub.") from HTTPError("gone")

    def broken():
        raise RuntimeError("Data processing error\nand more")

    refused(lost, "the connection to .* failed")
    refused(broken, r"the upload to owner/thing failed \(Data processing error\): push again")


@pytest.mark.parametrize(
    ("status", "sentence"), [(404, r"failed \(.*404 .*push again; .* needs HF_HUB_DISABLE_XET=1"), (403, "may not write to owner/thing")]
)
def test_the_other_storage(api, hub, monkeypatch, status, sentence):
    """hf_xet asks the Hub for a token of its own, and raises errors of its own."""
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.faults.fail = ("xet-write-token", status)
    operations = [CommitOperationAdd("model.safetensors", b"weights")]
    refused(lambda: api.create_commit("owner/thing", operations, commit_message="some"), sentence)
    assert hub.faults.fail is None


def test_a_token_that_the_other_storage_refuses():
    xet = pytest.importorskip("hf_xet")

    def raises():
        raise xet.XetAuthenticationError("no")

    refused(raises, "may not write to owner/thing")


@pytest.mark.parametrize("error", [ValueError("a number"), FileNotFoundError("a file"), PermissionError("a file"), KeyError("a name")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, in_a_sentence("owner/thing"):
        raise error
    assert caught.value is error
