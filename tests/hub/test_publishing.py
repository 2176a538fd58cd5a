"""The whole way of a checkpoint, each step in a process of its own: made, published, loaded with the plugin, loaded without it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from loopback.fixture import hub_environment, run_script
from loopback.server import ACCOUNTS

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "hub"
# Who reads, and where the classes come from that it gets.
ROLES = {"plugin": "hf_tanhmax.", "plain": "transformers_modules."}
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


def test_the_whole_way(hub, tmp_path):
    """One test, as its steps need each other; the two readers run side by side."""
    said = run("publisher.py", hub, tmp_path)
    assert {name: set(hub.files(name)) for name in hub.store.repositories} == PUBLISHED
    no_token_is_printed_or_published(hub, said)
    what_is_named_is_there(hub)
    hub.faults.cut_download_after = 2000
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda role: run("reader.py", hub, tmp_path, role), ROLES))
    assert hub.faults.cut_download_after is None
    for role, module in ROLES.items():
        found = json.loads((tmp_path / f"{role}.json").read_text())
        the_same_to_the_bit(found["loaded"], json.loads((tmp_path / "plan.json").read_text()), module)
        refusals_are_understood(found["refused"], role)


def run(script, hub, place, role="publisher"):
    arguments = [str(place)] if role == "publisher" else [str(place), role]
    return run_script(FOLDER / script, *arguments, environment=hub_environment(hub, place / f"{role}_home"))


def no_token_is_printed_or_published(hub, said):
    commits = [files for repository in hub.store.repositories.values() for files in repository.commits.values()]
    everything = said.encode() + b"".join(blob.content for files in commits for blob in files.values())
    assert not any(token.encode() in everything for token in ACCOUNTS)


def what_is_named_is_there(hub):
    """The code file of every model, and the base of every adapter at its revision."""
    for name in PUBLISHED:
        files = hub.files(name)
        if "config.json" in files:
            mapped = json.loads(files["config.json"])["auto_map"].values()
            assert {target.rsplit(".", 1)[0] + ".py" for target in mapped} == {CODE}
        else:
            config = json.loads(files["adapter_config.json"])
            assert config["base_model_name_or_path"] == f"{name}-base"
            assert config["revision"] in hub.store.repositories[f"{name}-base"].commits


def the_same_to_the_bit(loaded, plan, module):
    """Also at a pinned revision, and through a connection that broke once."""
    assert set(loaded) == {item["name"] for item in plan}
    for name, found in loaded.items():
        assert found["same"], name
        assert found["class"].startswith("TanhMax"), name
        assert found["module"].startswith(module), name


def refusals_are_understood(refused, role):
    assert "token" in refused["anonymous"]
    assert "token" in refused["unknown"] or "credentials" in refused["unknown"]
    assert ("trust_remote_code" in refused.get("untrusting", "")) == (role == "plain")
