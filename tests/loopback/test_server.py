"""The loopback Hub answers `huggingface_hub` as the Hub does: what the tests of publishing stand on."""

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .server import OWNER_TOKEN, READER_TOKEN, STRANGER_TOKEN, UNKNOWN_TOKEN

REPO = "owner/thing"
WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def api(hub_here):
    return HfApi(token=OWNER_TOKEN)


def commit(api, files, **kwargs):
    return api.create_commit(REPO, [CommitOperationAdd(path, content) for path, content in files.items()], commit_message="some", **kwargs)


def test_what_is_committed_comes_back(api, hub):
    api.create_repo(REPO)
    first = commit(api, {"config.json": b"{}", "sub/model.safetensors": WEIGHTS})
    assert api.model_info(REPO).sha == first.oid
    assert sorted(api.list_repo_files(REPO)) == [".gitattributes", "config.json", "sub/model.safetensors"]
    with open(hf_hub_download(REPO, "sub/model.safetensors"), "rb") as file:
        assert file.read() == WEIGHTS
    api.create_commit(REPO, [CommitOperationDelete("config.json")], commit_message="less")
    assert "config.json" not in hub.files(REPO)
    assert "config.json" in hub.files(REPO, first.oid)


def test_the_same_again_is_no_commit(api, hub):
    api.create_repo(REPO)
    one, other = (commit(api, {"config.json": b"{}", "model.safetensors": WEIGHTS}) for _ in range(2))
    assert one.oid == other.oid
    assert hub.titles(REPO) == ["initial commit", "some"]


def test_large_files_go_to_storage_without_a_token(api, hub):
    api.create_repo(REPO)
    commit(api, {"config.json": b"{}", "model.safetensors": WEIGHTS})
    put = [asked for asked in hub.asked if asked.method == "PUT"]
    assert len(put) == 1
    assert not put[0].authorized


def test_branches_and_folders(api, hub):
    api.create_repo(REPO)
    api.create_branch(REPO, branch="feature/one")
    commit(api, {"a/b.txt": b"1"}, revision="feature/one")
    assert "a/b.txt" not in hub.files(REPO)
    assert [entry.path for entry in api.list_repo_tree(REPO, revision="feature/one")] == [".gitattributes", "a"]
    assert [entry.path for entry in api.list_repo_tree(REPO, "a", revision="feature/one")] == ["a/b.txt"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "nowhere"))
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="nowhere")


@pytest.mark.parametrize(
    ("token", "status", "kind"),
    [
        (False, 401, RepositoryNotFoundError),
        (STRANGER_TOKEN, 404, RepositoryNotFoundError),
        (UNKNOWN_TOKEN, 401, HfHubHTTPError),
    ],
)
def test_private(api, token, status, kind):
    api.create_repo(REPO, private=True)
    assert api.model_info(REPO).private
    with pytest.raises(kind) as caught:
        api.model_info(REPO, token=token)
    assert caught.value.response.status_code == status
    assert type(caught.value) is kind


def test_only_its_owner_writes(api):
    api.create_repo(REPO)
    for token in (STRANGER_TOKEN, READER_TOKEN):
        with pytest.raises(HfHubHTTPError) as caught:
            commit(api, {"config.json": b"{}"}, token=token)
        assert caught.value.response.status_code == 403
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    with pytest.raises(HfHubHTTPError, match="namespace"):
        api.create_repo("somebody/else")


def test_who_asks(api):
    assert api.whoami()["name"] == "owner"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token=UNKNOWN_TOKEN)


def test_somebody_else_was_faster(api, hub):
    api.create_repo(REPO)
    head = api.model_info(REPO).sha
    hub.faults.meanwhile = {"theirs.txt": b"1"}
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(api, {"config.json": b"{}"}, parent_commit=head)
    assert set(hub.files(REPO)) == {".gitattributes", "theirs.txt"}


def test_death_in_an_upload(api, hub, impatient):
    api.create_repo(REPO)
    hub.faults.die_in_upload_after = len(WEIGHTS) // 2
    with pytest.raises(RuntimeError, match="Error while uploading"):
        commit(api, {"config.json": b"{}", "model.safetensors": WEIGHTS})
    assert not hub.alive
    assert set(hub.files(REPO)) == {".gitattributes"}
    hub.start()
    commit(api, {"config.json": b"{}", "model.safetensors": WEIGHTS})
    assert hub.files(REPO)["model.safetensors"] == WEIGHTS


def test_one_failure_of_the_hub_is_retried(api, hub, impatient):
    api.create_repo(REPO)
    hub.faults.fail = ("preupload", 500)
    commit(api, {"config.json": b"{}"})
    assert "config.json" in hub.files(REPO)


def test_a_cut_download_goes_on_where_it_was(api, hub, monkeypatch, impatient, tmp_path):
    api.create_repo(REPO)
    commit(api, {"model.safetensors": WEIGHTS})
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    hub.faults.cut_download_after = 5000
    folder = snapshot_download(REPO, local_dir=tmp_path / "here", allow_patterns="*.safetensors")
    with open(f"{folder}/model.safetensors", "rb") as file:
        assert file.read() == WEIGHTS
    assert [asked.range for asked in hub.asked if asked.method == "GET" and asked.path.endswith("safetensors")] == [None, "bytes=4096-"]


def test_metadata_that_are_not_valid(api):
    api.create_repo(REPO)
    with pytest.raises(ValueError, match="base_model"):
        commit(api, {"README.md": b"---\nbase_model: /here/base\n---\n"})


def test_an_unknown_request_is_an_error(api, hub):
    with pytest.raises(HfHubHTTPError, match="no route"):
        api.delete_repo(REPO)
