"""The base of an adapter: found, never softmax, and merged without a difference."""

import json
import sys

import pytest
import torch
from families import run, text, tiny_model
from huggingface_hub import CommitOperationAdd, HfApi
from peft import PeftModel, PromptTuningConfig, get_peft_model
from publishable import RESULTS, asks_by_an_old_name, saved_adapter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from hf_tanhmax import TanhMaxBertForSequenceClassification, to_softmax
from hf_tanhmax.checkpoint import Checkpoint
from hf_tanhmax.hub import HubError
from hf_tanhmax.hub.push import find_base, save_merged

pytestmark = asks_by_an_old_name


def names_base(adapter, name, revision=None):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": name, "revision": revision}))


def test_a_folder_that_is_gone(adapter, tmp_path):
    (adapter / "base").rename(tmp_path / "elsewhere")
    names_base(adapter, "/moved/away/base")
    with pytest.raises(HubError, match=r"is not at /moved/away/base: save it with save_pretrained in .*/base"):
        find_base(adapter, HfApi())


@pytest.mark.parametrize(("kind", "sentence"), [("tanhmax_bert", None), ("bert", "is no TanhMax model .*'bert'.* loaded on softmax")])
def test_a_repository(hub_here, adapter, kind, sentence):
    (adapter / "base").rename(adapter.parent / "elsewhere")
    api = HfApi()
    api.create_repo("owner/base")
    api.create_commit("owner/base", [CommitOperationAdd("config.json", json.dumps({"model_type": kind}).encode())], commit_message="base")
    names_base(adapter, "owner/base", api.model_info("owner/base").sha)
    if sentence is None:
        assert find_base(adapter, api) == Checkpoint("owner/base", api.model_info("owner/base").sha)
    else:
        with pytest.raises(HubError, match=sentence):
            find_base(adapter, api)
    names_base(adapter, "owner/nothing")
    with pytest.raises(HubError, match="sees no repository owner/nothing"):
        find_base(adapter, api)
    api.create_repo("owner/nothing")
    with pytest.raises(HubError, match=r"holds no model \(no config.json\)"):
        find_base(adapter, api)
    hub_here.stop()
    with pytest.raises(HubError, match=r"the connection to .* failed"):
        find_base(adapter, api)


def test_a_softmax_folder_is_refused(adapter):
    to_softmax(tiny_model(TanhMaxBertForSequenceClassification, num_hidden_layers=1)).save_pretrained(adapter / "base")
    with pytest.raises(HubError, match="is no TanhMax model"):
        find_base(adapter, HfApi())


def test_merged_weights_compute_the_same(adapter, tmp_path):
    (adapter / "results.json").write_text(json.dumps(RESULTS))
    save_merged(adapter, find_base(adapter, HfApi()), tmp_path / "merged", token="")
    inputs = {"input_ids": text()}
    base = TanhMaxBertForSequenceClassification.from_pretrained(adapter / "base")
    before = run(base, inputs).logits
    adapted = run(PeftModel.from_pretrained(base, str(adapter)), inputs).logits
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert type(merged) is TanhMaxBertForSequenceClassification
    torch.testing.assert_close(run(merged, inputs).logits, adapted, atol=2e-5, rtol=2e-4)
    assert (adapted - before).abs().max() > 1e-3
    assert (tmp_path / "merged/results.json").exists()
    assert not (tmp_path / "merged/README.md").exists()


def test_an_adapter_that_does_not_fit(adapter, tmp_path):
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[1:]), adapter / "adapter_model.safetensors")
    with pytest.raises(HubError, match=r"does not fit .*missing adapter keys"):
        save_merged(adapter, find_base(adapter, HfApi()), tmp_path / "merged", token="")
    other = saved_adapter(tiny_model(TanhMaxBertForSequenceClassification, num_hidden_layers=1, hidden_size=27), tmp_path / "other")
    with pytest.raises(HubError, match=r"does not fit .*state_dict"):
        save_merged(other, find_base(adapter, HfApi()), tmp_path / "merged", token="")


def test_prompts_cannot_be_merged(checkpoint, tmp_path):
    model = TanhMaxBertForSequenceClassification.from_pretrained(checkpoint)
    get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)).save_pretrained(tmp_path / "prompts")
    with pytest.raises(HubError, match="is of type PROMPT_TUNING, which cannot be merged"):
        save_merged(tmp_path / "prompts", Checkpoint(str(checkpoint)), tmp_path / "merged", token="")


def test_what_merging_needs(adapter, tmp_path, monkeypatch):
    base = find_base(adapter, HfApi())
    config = json.loads((adapter / "base/config.json").read_text())
    (adapter / "base/config.json").write_text(json.dumps({**config, "architectures": None}))
    with pytest.raises(HubError, match=r"does not name one class of its family .*save the model again"):
        save_merged(adapter, base, tmp_path / "merged", token="")
    (adapter / "base/config.json").write_text(json.dumps(config))
    base = find_base(adapter, HfApi())
    (adapter / "base/model.safetensors").rename(adapter / "base/pytorch_model.bin")
    with pytest.raises(HubError, match=r"cannot load the base .*model.safetensors"):
        save_merged(adapter, base, tmp_path / "merged", token="")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(HubError, match="pip install peft"):
        save_merged(adapter, base, tmp_path / "merged", token="")
