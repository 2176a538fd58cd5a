"""A kernel repository on a loopback Hub, loaded by the `kernels` package into stock models of a process without the plugin.

Where the installed `kernels` is one that Transformers takes, `from_pretrained(attn_implementation=...)` loads it; else `get_kernel` does,
and what it returns is registered as Transformers would.
"""

import json

import huggingface_hub
import pytest
from kernel_cases import REPO, write_cases
from loopback.fixture import HELPERS, hub_environment, run_script
from loopback.repositories import Blob
from loopback.server import ACCOUNTS, OWNER_TOKEN
from packaging.version import Version

from hf_tanhmax.hub import push_kernel, verify_kernel
from hf_tanhmax.hub.kernel import write_kernel
from hf_tanhmax.hub.publish_kernel import OLDEST_HUB
from hf_tanhmax.hub.staging import files_of

pytestmark = pytest.mark.slow
pytest.importorskip("kernels", reason="kernels is not installed")
NOT_THE_FILE = "is not the file whose digest its metadata have, so it is not run"


def test_stock_models_without_the_plugin(hub_here, tmp_path):
    """The same bits as the plugin, pinned by a commit too; what was altered or has no digest is not run."""
    commit = published(hub_here, tmp_path)
    refused = {"altered": f"tanhmax.py of this TanhMax kernel {NOT_THE_FILE}", "bare": "has no digest of __init__.py, so it is not run"}
    branches(hub_here.store.repositories[f"kernels/{REPO}"])
    write_cases(tmp_path, commit=commit, refused=refused)
    environment = {**hub_environment(hub_here, tmp_path / "home"), "PYTHONWARNINGS": "ignore"}
    environment.pop("HF_HUB_DISABLE_TELEMETRY", None)  # kernels 0.17.2 sends a wrong user agent with it
    assert "first loads and calls: " in run_script(HELPERS / "kernel_reader.py", str(tmp_path), "hub", environment=environment)


def published(hub, tmp_path):
    """The commit of the repository; an old huggingface_hub cannot publish it."""
    if Version(huggingface_hub.__version__) >= Version(OLDEST_HUB):
        push_kernel(REPO)
        return verify_kernel(REPO)
    (tmp_path / "repository").mkdir()
    write_kernel(tmp_path / "repository", repo_id=REPO)
    repository = hub.store.create(ACCOUNTS[OWNER_TOKEN], f"kernels/{REPO}", private=False)
    repository.branch("v1", "main")
    files = {name: Blob(path.read_bytes(), large=False) for name, path in files_of(tmp_path / "repository")}
    return repository.commit("v1", files, "kernel")


def branches(repository):
    """Branches with a file that was altered, and without digests."""
    files = dict(repository.resolve("v1")[1])
    path = "build/torch-cpu/tanhmax.py"
    repository.branch("altered", "v1")
    content = files[path].content.replace(
        b"output.transpose(1, 2).contiguous(), signed", b"2 * output.transpose(1, 2).contiguous(), signed"
    )
    repository.commit("altered", files | {path: Blob(content, large=False)}, "altered")
    path = "build/torch-cpu/metadata.json"
    repository.branch("bare", "v1")
    metadata = {key: value for key, value in json.loads(files[path].content).items() if key != "digest"}
    repository.commit("bare", files | {path: Blob(json.dumps(metadata).encode(), large=False)}, "bare")
