"""The whole way of a checkpoint, each step in a process of its own: made, published, loaded with the plugin, loaded without it."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import ModelCard
from loopback.fixture import HELPERS, hub_environment, run_script
from loopback.server import ACCOUNTS

pytestmark = pytest.mark.slow

ROLES = ("plugin", "plain")
CODE = "modeling_tanhmax.py"
MODEL = {".gitattributes", "README.md", "config.json", "model.safetensors", CODE}
WORDS = {"tokenizer.json", "tokenizer_config.json"}
GENERATES = {"generation_config.json"}
ADAPTER = {".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors"}
MEASURED = {"results.json", ".eval_results/sst2.yaml"}
RUN = {"results.json", "figures/health.png", "figures/training.png"}
PUBLISHED = {
    "owner/bert": MODEL | WORDS,
    "owner/bert-adapter": ADAPTER,
    "owner/bert-adapter-base": MODEL,
    "owner/bert-card": MODEL | WORDS | MEASURED,
    "owner/bert-adapter-card": ADAPTER | WORDS | MEASURED,
    "owner/bert-adapter-card-base": MODEL,
    "owner/bert-recipe": MODEL | WORDS | RUN,
    "owner/vit-recipe": MODEL | {"preprocessor_config.json"} | RUN,
    "owner/llama-recipe": MODEL | WORDS | GENERATES | RUN | {"chat_template.jinja"},
    "owner/bert-trainer": MODEL | {"training_args.bin"},  # the Trainer adds it
    "owner/vit": MODEL | {"preprocessor_config.json"},
    "owner/llama": MODEL | WORDS | GENERATES,
    "owner/llama-model": MODEL | GENERATES,
    "owner/llama-merged": MODEL | GENERATES,
    "owner/llama-adapter": ADAPTER,
    "owner/llama-adapter-base": MODEL | GENERATES,
}


@pytest.mark.slow
def test_the_whole_way(hub, tmp_path):
    """One test, as its steps need each other; the two readers run side by side."""
    said = run("publisher.py", hub, tmp_path)
    assert {name: set(hub.files(name)) for name in hub.store.repositories} == PUBLISHED
    no_token_is_printed_or_published(hub, said)
    what_is_named_is_there(hub)
    cards_say_what_is_known(hub, tmp_path)
    assert all(f"published: {hub.url}/owner/{family}-recipe/commit/" in said for family in ("bert", "vit", "llama"))
    hub.faults.cut_download_after = 2000
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda role: run("reader.py", hub, tmp_path, role), ROLES))
    assert hub.faults.cut_download_after is None
    for role in ROLES:
        wrong = {name: found for name, found in json.loads((tmp_path / f"{role}.json").read_text()).items() if found}
        assert wrong == {}, "\n".join(wrong.values())


def run(script, hub, place, role="publisher"):
    arguments = [str(place)] if role == "publisher" else [str(place), role]
    return run_script(HELPERS / script, *arguments, environment=hub_environment(hub, place / f"{role}_home"))


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


def cards_say_what_is_known(hub, place):
    for name in PUBLISHED:
        card, measured = ModelCard(hub.files(name)["README.md"].decode()), "results.json" in PUBLISHED[name]
        if "adapter" not in name:
            assert {"tanhmax", "custom_code"} <= set(card.data.tags)
            assert card.data.library_name == "transformers"
        assert bool(card.data.eval_results) == bool(card.data.datasets)  # files are no data set of the Hub, so there is none to name
        if measured:
            files = hub.files(name).items()
            assert not any(str(place).encode() in content for file, content in files if not file.endswith(".safetensors"))
    assert ModelCard(hub.files("owner/bert-adapter-card")["README.md"].decode()).data.base_model == "owner/bert-adapter-card-base"
