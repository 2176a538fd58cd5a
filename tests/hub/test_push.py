"""`push` against a Hub on loopback: what arrives, in how many commits, and what is said where it cannot."""

import json
import traceback
from contextlib import contextmanager

import pytest
from families import tiny_model
from huggingface_hub import HfApi, get_token, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from loopback.server import OWNER_TOKEN, READER_TOKEN, STRANGER_TOKEN, UNKNOWN_TOKEN
from publishable import MODEL, TOKENIZER, asks_by_an_old_name

from hf_tanhmax import TanhMaxBertForSequenceClassification
from hf_tanhmax.hub import HubError, push

pytestmark = asks_by_an_old_name
REPO = "owner/thing"
EMPTY = {".gitattributes"}


@pytest.fixture(autouse=True)
def _no_token_leaks(hub, capfd, caplog):
    """Whatever a test of this file does, no token is printed, logged or published."""
    caplog.set_level("DEBUG")
    yield
    said = "".join(capfd.readouterr()) + caplog.text
    published = b"".join(blob for repo in hub.store.repositories.values() for files in repo.commits.values() for blob in contents(files))
    for token in (OWNER_TOKEN, READER_TOKEN, STRANGER_TOKEN, UNKNOWN_TOKEN):
        assert token not in said
        assert token.encode() not in published


def contents(files):
    return [blob.content for blob in files.values()]


@contextmanager
def refused(sentence, *secrets):
    """One sentence, and no token anywhere in what a terminal would show of it."""
    with pytest.raises(HubError, match=sentence) as caught:
        yield
    shown = "".join(traceback.format_exception(caught.value))
    assert not any(token in shown for token in (OWNER_TOKEN, READER_TOKEN, STRANGER_TOKEN, UNKNOWN_TOKEN, *secrets))
    assert "\n" not in str(caught.value)


def nothing_can_be_loaded(repo_id=REPO):
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(repo_id, "config.json")
    return True


def test_all_arrives_in_one_commit(hub_here, run_folder, capfd):
    url = push(run_folder, REPO, message="First")
    found = set(hub_here.files(REPO))
    assert found == EMPTY | MODEL | TOKENIZER | {"results.json", "figures/weights.png", ".eval_results/sst2.yaml"}
    assert hub_here.titles(REPO) == ["initial commit", "First"]
    assert url == f"{hub_here.url}/{REPO}/commit/{HfApi().model_info(REPO).sha}"
    said = capfd.readouterr().err
    assert "may surprise" not in said
    assert "not published: checkpoint-5, events.out.tfevents.1, optimizer.pt" in said
    assert f"published: {url}" in said


def test_the_same_again_is_no_commit(hub_here, run_folder, capfd):
    assert push(run_folder, REPO) == push(str(run_folder), "thing")
    assert len(hub_here.titles(REPO)) == 2
    assert "nothing has changed since" in capfd.readouterr().err


def test_what_an_earlier_push_left_is_not_loaded(hub_here, checkpoint, tmp_path):
    """A single file of weights comes before shards; a tokenizer that was published on its own stays."""
    tiny_model(TanhMaxBertForSequenceClassification, num_hidden_layers=1).save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    push(checkpoint, REPO)
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=REPO)
    push(tmp_path / "shards", REPO)
    found = set(hub_here.files(REPO))
    assert {"notes.txt", "model.safetensors.index.json", *TOKENIZER} <= found
    assert "model.safetensors" not in found


def test_what_may_surprise_is_said(hub_here, checkpoint, capfd):
    for name in TOKENIZER:
        (checkpoint / name).unlink()
    push(checkpoint, REPO)
    assert "may surprise: tokenizer is not there" in capfd.readouterr().err


def test_a_branch(hub_here, checkpoint):
    push(checkpoint, REPO, revision="tried/one")
    assert set(hub_here.files(REPO)) == EMPTY
    assert hub_here.files(REPO, "tried/one").keys() > MODEL
    with refused("is a commit"):
        push(checkpoint, REPO, revision=HfApi().model_info(REPO).sha)
    with refused("no such revision: leave `create` on"):
        push(checkpoint, REPO, revision="tried/two", create=False)


def test_private(hub_here, checkpoint, monkeypatch):
    push(checkpoint, REPO, private=True)
    assert HfApi().model_info(REPO).private
    push(checkpoint, REPO)
    with refused("exists and is private: change that at .*/owner/thing/settings"):
        push(checkpoint, REPO, private=False)
    push(checkpoint, "owner/open")
    with refused("exists and is public"):
        push(checkpoint, "owner/open", private=True)
    with refused("sees no repository owner/thing"):
        push(checkpoint, REPO, token=STRANGER_TOKEN, create=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"repo_id": "a/b/c"}, "is no name of a repository: write owner/name"),
        ({"repo_id": "not a name"}, "is no name of a repository"),
        ({"repo_id": "somebody/thing"}, "may not write to somebody/thing"),
        ({"token": READER_TOKEN}, "may not write to owner/thing: use one with write permission"),
        ({"token": UNKNOWN_TOKEN}, "does not know the token: .*log in"),
        ({"create": False}, "sees no repository owner/thing"),
        ({"merge": True}, "nothing to merge: leave `merge` off"),
    ],
)
def test_what_cannot_be(hub_here, checkpoint, arguments, sentence):
    with refused(sentence):
        push(checkpoint, **{"repo_id": REPO, **arguments})
    assert hub_here.store.repositories == {}


def test_a_public_repository_of_somebody_else(hub_here, checkpoint):
    push(checkpoint, REPO)
    with refused("may not write to owner/thing"):
        push(checkpoint, REPO, token=STRANGER_TOKEN, message="Mine now")
    assert len(hub_here.titles(REPO)) == 2


def test_nobody_is_logged_in(hub_here, checkpoint, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert get_token() is None
    with refused("nobody is logged in: run `hf auth login`"):
        push(checkpoint, REPO)


@pytest.mark.parametrize("token", ["hf_with\nnewline", "hf_wíth_accent", "hf_with space"])
def test_a_token_that_is_none(hub_here, checkpoint, token):
    with refused("copy it again", token):
        push(checkpoint, REPO, token=token)
    assert hub_here.asked == []


def test_a_folder_that_is_none(hub_here, tmp_path):
    with refused("is not a folder"):
        push(tmp_path / "nowhere", REPO)
    with refused("holds no checkpoint"):
        push(tmp_path, REPO)
    assert hub_here.store.repositories == {}


def test_a_token_in_a_file_is_not_published(hub_here, run_folder):
    results = json.loads((run_folder / "results.json").read_text())
    results["config"]["hub_token"] = OWNER_TOKEN
    (run_folder / "results.json").write_text(json.dumps(results))
    with refused("results.json holds"):
        push(run_folder, REPO)
    assert hub_here.store.repositories == {}


def test_death_in_an_upload_and_the_next_push(hub_here, run_folder, impatient):
    hub_here.faults.die_in_upload_after = 5000
    with refused(r"failed \(.*push again"):
        push(run_folder, REPO)
    assert not hub_here.alive
    hub_here.start()
    assert nothing_can_be_loaded()
    assert hub_here.titles(REPO) == ["initial commit"]
    push(run_folder, REPO)
    assert hub_here.files(REPO)["model.safetensors"] == (run_folder / "model.safetensors").read_bytes()
    assert len(hub_here.titles(REPO)) == 2


def test_somebody_else_commits_meanwhile(hub_here, checkpoint):
    push(checkpoint, REPO)
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    hub_here.faults.meanwhile = {"README.md": b"---\nlicense: mit\n---\n# Theirs\n"}
    with refused("somebody else committed to owner/thing at the same time: look .*push again"):
        push(checkpoint, REPO)
    assert b"Theirs" in hub_here.files(REPO)["README.md"]
    push(checkpoint, REPO)
    assert b"Mine" in hub_here.files(REPO)["README.md"]


@pytest.mark.parametrize(
    ("status", "sentence"), [(409, "was writing to owner/thing"), (500, "failed with status 500: wait, and push again")]
)
def test_a_refused_commit(hub_here, checkpoint, status, sentence):
    hub_here.faults.refuse_commit = status
    with refused(sentence):
        push(checkpoint, REPO)
    assert nothing_can_be_loaded()
    push(checkpoint, REPO)
    assert hub_here.files(REPO).keys() > MODEL


def test_no_connection(hub_here, checkpoint):
    hub_here.stop()
    with refused("the connection to .* failed"):
        push(checkpoint, REPO)


def test_metadata_that_the_hub_refuses(hub_here, checkpoint):
    (checkpoint / "README.md").write_text("---\nbase_model: no/such/name\n---\n")
    with refused('does not accept the metadata of README.md .*"base_model"'):
        push(checkpoint, REPO)
    assert nothing_can_be_loaded()


def test_an_adapter_and_its_base(hub_here, adapter):
    push(adapter, REPO, private=True)
    assert set(hub_here.files(f"{REPO}-base")) == EMPTY | MODEL
    assert set(hub_here.files(REPO)) == EMPTY | {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    config = json.loads(hub_here.files(REPO)["adapter_config.json"])
    base = HfApi().model_info(f"{REPO}-base")
    assert (config["base_model_name_or_path"], config["revision"]) == (base.id, base.sha)
    assert base.private
    push(adapter, REPO)
    assert len(hub_here.titles(REPO)) == len(hub_here.titles(f"{REPO}-base")) == 2


def test_an_adapter_whose_base_is_on_the_hub(hub_here, adapter, checkpoint):
    push(checkpoint, "owner/known")
    (adapter / "base").rename(adapter.parent / "elsewhere")
    (adapter / "README.md").unlink()  # it names where the base was
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "owner/known"}))
    push(adapter, REPO)
    assert json.loads(hub_here.files(REPO)["adapter_config.json"])["base_model_name_or_path"] == "owner/known"
    assert set(hub_here.store.repositories) == {"owner/known", REPO}


def test_a_base_is_as_private_as_its_adapter(hub_here, adapter):
    HfApi().create_repo(REPO, private=True)
    push(adapter, REPO)
    assert HfApi().model_info(f"{REPO}-base").private


def test_an_adapter_is_checked_before_its_base_is_sent(hub_here, adapter):
    (adapter / "adapter_model.safetensors").write_bytes(b"cut off")
    with refused("adapter_model.safetensors is not a whole"):
        push(adapter, REPO)
    assert hub_here.store.repositories == {}


def test_the_base_arrives_first(hub_here, adapter):
    hub_here.faults.refuse_commit = 500
    with refused("failed with status 500"):
        push(adapter, REPO)
    assert set(hub_here.files(f"{REPO}-base")) == EMPTY
    assert set(hub_here.files(REPO)) == EMPTY


@pytest.mark.slow
def test_merged(hub_here, adapter, checkpoint):
    push(adapter, REPO)
    push(adapter, REPO, merge=True)
    assert set(hub_here.files(REPO)) == EMPTY | MODEL
    assert "base_model: owner/thing-base" not in hub_here.files(REPO)["README.md"].decode()
