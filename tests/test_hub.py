"""The whole way of a checkpoint, each step in a process of its own: made, published, loaded with the plugin, loaded without it."""

import json
from pathlib import Path

import pytest
from loopback.fixture import hub_environment, run_script
from loopback.server import ACCOUNTS, LoopbackHub

pytestmark = pytest.mark.slow

ROLES = Path(__file__).parent / "hub"
CODE = "modeling_tanhmax.py"
MODEL = {".gitattributes", "README.md", "config.json", "model.safetensors", CODE}
WORDS = {"tokenizer.json", "tokenizer_config.json"}
GENERATES = {"generation_config.json"}
ADAPTER = {".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors"}
PUBLISHED = {
    "owner/bert": MODEL | WORDS,
    "owner/bert-adapter": ADAPTER,
    "owner/bert-adapter-base": MODEL,
    "owner/bert-trainer": MODEL | {"training_args.bin"},  # the Trainer adds it
    "owner/vit": MODEL | {"preprocessor_config.json"},
    "owner/llama": MODEL | WORDS | GENERATES,
    "owner/llama-model": MODEL | GENERATES,
    "owner/llama-merged": MODEL | GENERATES,
    "owner/llama-adapter": ADAPTER,
    "owner/llama-adapter-base": MODEL | GENERATES,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A Hub to which everything was published, the folder with what it should compute, and what the publisher printed."""
    place, hub = tmp_path_factory.mktemp("world"), LoopbackHub()
    found = run_script(ROLES / "publisher.py", str(place), environment=hub_environment(hub, place / "publisher_home"))
    yield hub, place, found.stdout + found.stderr
    hub.stop()


def test_exactly_this_is_published(world):
    hub, _, _ = world
    assert {name: set(hub.files(name)) for name in hub.store.repositories} == PUBLISHED


def test_no_token_is_printed_or_published(world):
    hub, _, said = world
    commits = [files for repository in hub.store.repositories.values() for files in repository.commits.values()]
    everything = said.encode() + b"".join(blob.content for files in commits for blob in files.values())
    assert not any(token.encode() in everything for token in ACCOUNTS)


def test_what_is_named_is_there(world):
    """The code file of every model, and the base of every adapter at its revision."""
    hub, _, _ = world
    for name in PUBLISHED:
        files = hub.files(name)
        if "config.json" in files:
            mapped = json.loads(files["config.json"])["auto_map"].values()
            assert {target.rsplit(".", 1)[0] + ".py" for target in mapped} == {CODE}
        else:
            config = json.loads(files["adapter_config.json"])
            assert config["base_model_name_or_path"] == f"{name}-base"
            assert config["revision"] in hub.store.repositories[f"{name}-base"].commits


@pytest.mark.parametrize(("role", "module"), [("plugin", "hf_tanhmax."), ("plain", "transformers_modules.")])
def test_what_is_loaded_computes_the_same_to_the_bit(world, role, module):
    """With a pinned revision, and through a connection that breaks once, too."""
    hub, place, _ = world
    hub.faults.cut_download_after = 2000
    run_script(ROLES / "reader.py", str(place), role, environment=hub_environment(hub, place / f"{role}_home"))
    found = json.loads((place / f"{role}.json").read_text())
    assert hub.faults.cut_download_after is None
    assert set(found["loaded"]) == {item["name"] for item in json.loads((place / "plan.json").read_text())}
    for name, loaded in found["loaded"].items():
        assert loaded["same"], name
        assert loaded["class"].startswith("TanhMax")
        assert loaded["module"].startswith(module)
    assert "token" in found["refused"]["anonymous"]
    assert "token" in found["refused"]["unknown"] or "credentials" in found["refused"]["unknown"]
    assert ("trust_remote_code" in found["refused"].get("untrusting", "")) == (role == "plain")
