"""What is published of a folder, and what keeps it from being published."""

import json
from pathlib import Path

import pytest
import torch
from families import tiny_model
from huggingface_hub import ModelCard
from made_conversions import REFITTED
from publishable import MODEL, RESULTS, RUBBISH, TOKENIZER, asks_by_an_old_name
from safetensors.torch import load_file, save_file

from hf_tanhmax import TanhMaxBertForSequenceClassification, to_softmax
from hf_tanhmax.conversion.report import ORIGINALS
from hf_tanhmax.hub import HubError
from hf_tanhmax.hub.staging import files_of, is_adapter, left_behind, pin_base, stage_adapter, stage_model, stale
from hf_tanhmax.models.remote_code import CODE_FILE, auto_map, verdict

pytestmark = asks_by_an_old_name


ABLATION = {
    "model": "bert",
    "attention": "TanhMax",
    "metric": "accuracy",
    "rows": 9,
    "as_is": 0.7,
    "negative_mass": 0.1,
    "effects": {"negatives_masked": {"value": 0.7, "difference": 0.0, "low": 0.0, "high": 0.0}},
    "negative_mass_per_layer": [0.1],
}


@pytest.fixture
def into(tmp_path):
    (tmp_path / "staged").mkdir()
    return tmp_path / "staged"


def names(into):
    return {name for name, _ in files_of(into)}


def test_a_run_folder(run_folder, into):
    REFITTED.save(run_folder)
    (run_folder / "ablation.json").write_text(json.dumps(ABLATION))
    stage_model(run_folder, into, repo_id="owner/thing")
    assert names(into) == MODEL | TOKENIZER | {
        "results.json",
        "conversion.json",
        ORIGINALS,
        "ablation.json",
        "figures/weights.png",
        ".eval_results/sst2.yaml",
    }
    assert left_behind(run_folder, into) == sorted({Path(name).parts[0] for name in RUBBISH})
    assert "owner/thing" in (into / "README.md").read_text()


def test_what_is_there_stays_as_it_is(run_folder, into):
    (run_folder / "README.md").write_text("---\nlicense: mit\n---\n# By hand\n")
    (run_folder / ".eval_results").mkdir()
    (run_folder / ".eval_results/sst2.yaml").write_text("[]\n")
    stage_model(run_folder, into, repo_id="owner/thing")
    for name in names(into):
        assert (into / name).read_bytes() == (run_folder / name).read_bytes()


def test_a_checkpoint_without_its_code_gets_it(checkpoint, into):
    (checkpoint / CODE_FILE).unlink()
    config = json.loads((checkpoint / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "elsewhere.Config"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    stage_model(checkpoint, into, repo_id="owner/thing")
    assert verdict((into / CODE_FILE).read_text()) is None
    assert json.loads((into / "config.json").read_text()) == {**config, "auto_map": auto_map("tanhmax_bert")}


def test_shards(into, tmp_path):
    model = tiny_model(TanhMaxBertForSequenceClassification, num_hidden_layers=1)
    model.save_pretrained(tmp_path / "saved", max_shard_size="8KB")
    shards = {path.name for path in (tmp_path / "saved").glob("model-*.safetensors")}
    (tmp_path / "saved/model-00001-of-99999.safetensors").write_bytes(b"of an earlier save")
    stage_model(tmp_path / "saved", into, repo_id="owner/thing")
    assert len(shards) > 1
    assert names(into) == MODEL - {"model.safetensors"} | {"model.safetensors.index.json"} | shards


def test_an_adapter(adapter, into):
    stage_adapter(adapter, into, repo_id="owner/thing", base_id="owner/thing-base", base=adapter / "base")
    pin_base(into, "0" * 40)
    config = json.loads((into / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/thing-base", "0" * 40)
    assert names(into) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    card = ModelCard.load(into / "README.md")
    assert card.data.base_model == "owner/thing-base"
    assert "TanhMaxBertForSequenceClassification" in card.text
    assert str(adapter) not in card.content


def test_an_address_is_no_path(checkpoint, into, monkeypatch):
    monkeypatch.chdir("/tmp")
    (checkpoint / "README.md").write_text("https://example.org/tmp/data and out/tmp/data, but / and /tmp are nobody's")
    stage_model(checkpoint, into, repo_id="owner/thing")


def test_stale_files():
    published = {
        ".gitattributes",
        "LICENSE",
        "mine.txt",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "sub/config.json",
    }
    assert stale(published, {"model.safetensors"}) == ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    assert stale({"model.safetensors", "adapter_config.json"}, {"model.safetensors"}) == ["adapter_config.json"]


def without(folder, name):
    (folder / name).unlink()


def truncate(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def softmax(folder, name):
    to_softmax(tiny_model(TanhMaxBertForSequenceClassification, num_hidden_layers=1)).save_pretrained(folder)


def pickled(folder, name):
    torch.save(load_file(folder / name), folder / "pytorch_model.bin")
    (folder / name).unlink()


def unfinished(folder, name):
    (folder / "checkpoint-7").mkdir()
    (folder / name).rename(folder / "checkpoint-7" / name)


def lacking(folder, name):
    save_file(dict(list(load_file(folder / name).items())[1:]), folder / name, metadata={"format": "pt"})


def with_text(text):
    def write(folder, name):
        (folder / name).write_text(text.replace("{home}", str(Path.home())).replace("{parent}", str(folder.parent)))

    return write


@pytest.mark.parametrize(
    ("break_it", "name", "sentence"),
    [
        (without, "config.json", "holds no checkpoint .*save_pretrained"),
        (unfinished, "config.json", "publish .*checkpoint-7, or finish"),
        (with_text("[1"), "config.json", "is not JSON"),
        (with_text("[1]"), "config.json", "no JSON object"),
        (softmax, "", "no TanhMax checkpoint: its model type is 'bert'.*convert"),
        (without, "model.safetensors", "has no weights"),
        (pickled, "model.safetensors", "only pytorch_model.bin, which is never published"),
        (truncate, "model.safetensors", "cannot be published: model.safetensors is not a whole"),
        (lacking, "model.safetensors", "cannot be published: model.safetensors lacks 1 tensor"),
        (with_text("import os"), "modeling_tanhmax.py", "cannot be published: modeling_tanhmax.py"),
        (with_text("see {home}/notes"), "README.md", "a path of one machine"),
        (with_text("see {parent}/notes"), "README.md", "a path of one machine"),
        (with_text(json.dumps(RESULTS).replace("stanfordnlp/sst2", "/elsewhere/sst2.csv")), "results.json", "names /elsewhere/sst2.csv"),
        (with_text(json.dumps(RESULTS).replace("stanfordnlp/sst2", r"C:\\data\\sst2.csv")), "results.json", "a path of one machine"),
        (with_text("use s3cret-token"), "README.md", "holds your access token"),
    ],
)
def test_what_is_refused(checkpoint, into, break_it, name, sentence):
    break_it(checkpoint, name)
    with pytest.raises(HubError, match=sentence):
        stage_model(checkpoint, into, repo_id="owner/thing", secrets=["s3cret-token"])


@pytest.mark.parametrize("shards", ["model-00001-of-00001.safetensors", "../../etc/passwd", None])
def test_an_index_must_name_shards_that_are_there(checkpoint, into, shards):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": shards} if shards else {}}))
    with pytest.raises(HubError, match="save the checkpoint anew"):
        stage_model(checkpoint, into, repo_id="owner/thing")


def test_adapters_that_are_refused(adapter, tmp_path):
    with pytest.raises(HubError, match="is not a folder"):
        is_adapter(tmp_path / "nowhere")
    (adapter / "model.safetensors").write_bytes(b"")
    with pytest.raises(HubError, match="an adapter and a whole model"):
        is_adapter(adapter)
    (adapter / "model.safetensors").unlink()
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(HubError, match="which writes safetensors"):
        is_adapter(adapter)
