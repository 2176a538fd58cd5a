"""`push_kernel` against a Hub on loopback: what arrives and where, what is refused, and what `verify_kernel` says of it."""

import huggingface_hub
import pytest
from huggingface_hub import HfApi
from loopback.repositories import Blob
from loopback.server import OWNER_TOKEN, READER_TOKEN, STRANGER_TOKEN, UNKNOWN_TOKEN
from packaging.version import Version
from publishable import asks_by_an_old_name

from hf_tanhmax import __version__
from hf_tanhmax.hub import HubError, push_kernel, verify_kernel
from hf_tanhmax.hub.kernel import BACKENDS, kernel_source
from hf_tanhmax.hub.publish_kernel import OLDEST_HUB

pytestmark = asks_by_an_old_name
REPO, STORED = "owner/tanhmax", "kernels/owner/tanhmax"
FILES = {f"build/torch-{backend}/{name}" for backend in BACKENDS for name in ("__init__.py", "metadata.json", "tanhmax.py")}


def kernel_files(hub, revision="v1"):
    return hub.files(STORED, revision)


def altered(hub, path, change, revision="v1"):
    """Let somebody who may write to the repository change one of its files; None deletes it."""
    repository = hub.store.repositories[STORED]
    files = dict(repository.resolve(revision)[1])
    content = change(files.pop(path).content)
    repository.commit(revision, files if content is None else files | {path: Blob(content, large=False)}, "altered")


publishes = pytest.mark.skipif(
    Version(huggingface_hub.__version__) < Version(OLDEST_HUB), reason=f"huggingface_hub is older than {OLDEST_HUB}"
)


def test_a_library_that_is_too_old(hub_here, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "__version__", "2.2.0")
    with pytest.raises(HubError, match=r'huggingface_hub 2.2.0 cannot publish kernels: pip install "huggingface_hub>=2.3"'):
        push_kernel(REPO)


@publishes
def test_it_arrives_on_main_and_on_its_version(hub_here, capfd):
    url = push_kernel(REPO, message="First")
    assert set(kernel_files(hub_here)) == FILES | {".gitattributes", "README.md"}
    assert kernel_files(hub_here, "main") == kernel_files(hub_here)
    commit = hub_here.store.repositories[STORED].branches["v1"]
    assert url == f"{hub_here.url}/kernels/{REPO}/commit/{commit}"
    assert hub_here.titles(STORED) == ["initial commit", "First"]
    assert f'attn_implementation="{REPO}", allow_all_kernels=True, or pin it: "{REPO}@{commit}"' in capfd.readouterr().err
    assert verify_kernel(REPO) == verify_kernel(REPO, revision="main") == verify_kernel(REPO, revision=commit) == commit
    said = kernel_files(hub_here)["README.md"].decode()
    assert f'attn_implementation="{REPO}", allow_all_kernels=True' in said
    assert "It is no checkpoint format" in said


@publishes
def test_the_same_again_is_no_commit(hub_here, capfd):
    assert push_kernel(REPO) == push_kernel("tanhmax")
    assert hub_here.titles(STORED) == ["initial commit", "Publish a kernel with hf_tanhmax"]
    assert "nothing has changed since" in capfd.readouterr().err


@publishes
def test_private(hub_here):
    push_kernel(REPO, private=True)
    assert hub_here.store.repositories[STORED].private
    push_kernel(REPO)
    with pytest.raises(HubError, match=r"exists and is private: change that at .*/kernels/owner/tanhmax/settings"):
        push_kernel(REPO, private=False)
    with pytest.raises(HubError, match="sees no repository owner/tanhmax"):
        verify_kernel(REPO, token=STRANGER_TOKEN)


@publishes
def test_what_an_earlier_push_left_is_deleted(hub_here):
    push_kernel(REPO)
    mine = b'VERSION = "0.0.1"\nDIGEST = "' + b"0" * 64 + b'"\n'
    files = hub_here.store.repositories[STORED].resolve("v1")[1]
    old = {f"build/torch-npu/{name}": Blob(mine, large=False) for name in ("tanhmax.py", "more.py")}
    hub_here.store.repositories[STORED].commit("v1", files | old | {"notes.txt": Blob(b"mine", large=False)}, "old")
    push_kernel(REPO)
    assert set(kernel_files(hub_here)) == FILES | {".gitattributes", "README.md", "notes.txt"}


@publishes
@pytest.mark.parametrize("revision", ["main", "v1"])
def test_a_kernel_of_somebody_else_is_not_replaced(hub_here, revision):
    api = HfApi(token=OWNER_TOKEN)
    api.create_repo(REPO, repo_type="kernel")
    repository = hub_here.store.repositories[STORED]
    repository.branch("v1", "main")
    for name in ("__init__.py", "tanhmax.py"):
        repository.commit(revision, {f"build/torch-cpu/{name}": Blob(b"VERSION = 3\n", large=False)}, "theirs")
        with pytest.raises(HubError, match=f"a kernel that hf-tanhmax did not write .build/torch-cpu at {revision}.: take another name"):
            push_kernel(REPO)
        assert hub_here.titles(STORED)[-1] == "theirs"


@publishes
@pytest.mark.parametrize(
    ("path", "change", "sentence"),
    [
        ("tanhmax.py", lambda content: content.replace(b"return True", b"return None", 1), "tanhmax.py differs from its digest"),
        ("__init__.py", lambda content: content + b"\n", "__init__.py differs from its digest"),
        ("tanhmax.py", lambda content: None, "tanhmax.py is missing"),
        ("metadata.json", lambda content: content.replace(b'"digest"', b'"other"'), "has no digest in metadata.json.*did not write it"),
        ("metadata.json", lambda content: b"[1]", "has no digest in metadata.json"),
    ],
    ids=["code", "entry", "missing", "without a digest", "no metadata"],
)
def test_what_is_not_ours_is_not_verified(hub_here, path, change, sentence):
    push_kernel(REPO)
    altered(hub_here, f"build/torch-cuda/{path}", change)
    with pytest.raises(HubError, match=f"owner/tanhmax at v1 is not what this version writes: build/torch-cuda .*{sentence}"):
        verify_kernel(REPO)
    assert verify_kernel(REPO, revision="main")


@publishes
def test_a_kernel_with_right_digests_of_other_code(hub_here, monkeypatch):
    own = kernel_source()
    for text, sentence in (
        (own.replace(f'VERSION = "{__version__}"', 'VERSION = "0.0.1"', 1), "says that hf_tanhmax 0.0.1 wrote it, and this is"),
        (own.replace("return True", "return None", 1), f"says that hf_tanhmax {__version__} wrote it, but is not what this"),
        ("return None", "is no TanhMax kernel: hf-tanhmax writes a tanhmax.py that says its version"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr("hf_tanhmax.hub.kernel.kernel_source", lambda text=text: text)
            patched.setattr("hf_tanhmax.hub.publish_kernel._refuse_another", lambda api, repo_id: None)
            push_kernel(REPO)
        with pytest.raises(HubError, match=sentence):
            verify_kernel(REPO)


@publishes
def test_an_unknown_file(hub_here):
    push_kernel(REPO)
    repository = hub_here.store.repositories[STORED]
    repository.commit("v1", repository.resolve("v1")[1] | {"build/torch-cpu/sitecustomize.py": Blob(b"1", large=False)}, "more")
    with pytest.raises(HubError, match=r"build/torch-cpu sitecustomize.py has no digest; do not load it"):
        verify_kernel(REPO)


@publishes
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"repo_id": "a/b/c"}, "is no name of a repository: write owner/name"),
        ({"repo_id": "not a name"}, "is no name of a repository"),
        ({"repo_id": "somebody/thing"}, "may not write to somebody/thing"),
        ({"token": READER_TOKEN}, "may not write to owner/tanhmax: use one with write permission"),
        ({"token": UNKNOWN_TOKEN}, "does not know the token"),
        ({"token": "hf_with space"}, "copy it again"),
        ({"create": False}, "sees no repository owner/tanhmax"),
    ],
)
def test_what_cannot_be(hub_here, arguments, sentence):
    with pytest.raises(HubError, match=sentence):
        push_kernel(**{"repo_id": REPO, **arguments})
    assert hub_here.store.repositories == {}


@publishes
def test_there_is_no_kernel(hub_here):
    with pytest.raises(HubError, match="is no name of a repository"):
        verify_kernel("a/b/c")
    with pytest.raises(HubError, match="sees no repository owner/tanhmax"):
        verify_kernel(REPO)
    HfApi(token=OWNER_TOKEN).create_repo(REPO, repo_type="kernel")
    with pytest.raises(HubError, match="holds no kernel at main: publish one with `hf-tanhmax push-kernel owner/tanhmax`"):
        verify_kernel(REPO, revision="main")
    with pytest.raises(HubError, match="owner/tanhmax has no such revision"):
        verify_kernel(REPO)
