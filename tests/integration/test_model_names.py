"""Names of models in memory: sentences that no library can load by, quoted by the error of whichever tries."""

import copy
import json
import socket

import peft
import pytest
import transformers
from families import TINY, assert_same, inputs_for, run, tiny_model
from huggingface_hub import constants
from transformers import AutoConfig, AutoModel, AutoTokenizer, Trainer, TrainingArguments

import hf_tanhmax
from hf_tanhmax import convert, restore, tanhmax_on, to_softmax, use_tanhmax
from hf_tanhmax.integration.model_names import CONVERTED, PATCHED, converted_name, short_name

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by an old name
every_family = pytest.mark.parametrize("family", TINY)
UPSTREAM = {"bert": transformers.BertModel, "vit": transformers.ViTModel, "llama": transformers.LlamaModel}
ORIGINS = ("google-bert/bert-base-uncased", "gpt2", "/a folder/of words, patched", "./x", "C:\\models\\x")


def names_of(model):
    return {model.name_or_path, model.config.name_or_path, model.config._name_or_path}


@pytest.fixture
def no_network(monkeypatch):
    """A client that is not offline and fails, with an error of its own, at the first thing that it asks."""

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


LOADERS = {
    "config": AutoConfig.from_pretrained,
    "auto class": AutoModel.from_pretrained,
    "class": transformers.LlamaForCausalLM.from_pretrained,
    "tokenizer": AutoTokenizer.from_pretrained,
    "pipeline": lambda name: transformers.pipeline("text-generation", model=name),
    "adapter": peft.PeftConfig.from_pretrained,
    "adapted model": peft.AutoPeftModel.from_pretrained,
    "convert": convert,
}


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("loader", LOADERS)
def test_whoever_loads_by_such_a_name_is_told(loader, offline, no_network, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    for origin in ORIGINS:
        for name in (converted_name(origin), origin + PATCHED):
            with pytest.raises((OSError, ValueError)) as caught:
                LOADERS[loader](name)
            assert "ref_model=copy.deepcopy(model)" in str(caught.value)
            assert origin in str(caught.value)


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_name_is_said_once(origin):
    name = converted_name(origin)
    assert name == f"TanhMax of {origin}{CONVERTED}"
    assert converted_name(name) == converted_name(name + PATCHED) == converted_name(origin + PATCHED) == name
    assert converted_name(name, "softmax") == f"softmax of {origin}{CONVERTED}"


@pytest.mark.parametrize("origin", ["google-bert/bert-base-uncased", "war of words", ""])
def test_titles_show_it_without_the_sentence(origin, tmp_path):
    for name in (origin, origin + PATCHED):
        assert short_name(name) == origin
    for name in (converted_name(origin), converted_name(origin) + PATCHED):
        assert short_name(name) == f"TanhMax of {origin}"
    assert short_name(str(tmp_path)) == tmp_path.name
    assert short_name(converted_name(str(tmp_path))) == f"TanhMax of {tmp_path.name}"


@every_family
def test_a_converted_model_says_where_it_came_from(family, tmp_path):
    folder, cls = str(tmp_path / "softmax"), UPSTREAM[family]
    tiny_model(cls).save_pretrained(folder)
    wanted = {converted_name(folder)}
    model = convert(folder)
    assert names_of(model) == wanted
    assert names_of(convert(cls.from_pretrained(folder))) == wanted
    assert names_of(type(model).from_pretrained(folder)) == wanted
    assert names_of(copy.deepcopy(model)) == wanted
    assert names_of(to_softmax(model)) == {converted_name(folder, "softmax")}
    assert names_of(convert(to_softmax(model))) == wanted
    assert names_of(convert(tiny_model(cls))) == {converted_name(cls.__name__)}
    model.save_pretrained(tmp_path / "saved")
    assert "in memory" not in (tmp_path / "saved" / "config.json").read_text()
    assert names_of(AutoModel.from_pretrained(tmp_path / "saved")) == {str(tmp_path / "saved")}


def test_a_head_with_a_backbone_of_its_own(tmp_path):
    tiny_model(transformers.LlamaForSequenceClassification).save_pretrained(tmp_path)
    model = hf_tanhmax.TanhMaxLlamaForSequenceClassification.from_pretrained(tmp_path)
    assert names_of(model) == names_of(model.model) == {converted_name(str(tmp_path))}


def test_a_model_from_scratch_has_no_name():
    assert names_of(tiny_model(hf_tanhmax.TanhMaxBertModel)) == {""}
    model = tiny_model(transformers.BertModel)
    use_tanhmax(model)
    assert names_of(model) == {""}


def test_a_patched_model_says_so_while_it_is(tmp_path):
    tiny_model(transformers.BertModel).save_pretrained(tmp_path)
    model = transformers.BertModel.from_pretrained(tmp_path)
    bare, patched = {str(tmp_path)}, {str(tmp_path) + PATCHED}
    with tanhmax_on(model, layers=[0]):
        assert names_of(model) == patched
        with tanhmax_on(model, layers=[1]):
            assert names_of(model) == patched
        assert names_of(model) == patched
    assert names_of(model) == bare
    with pytest.raises(ValueError, match="there is no layer"):
        use_tanhmax(model, hf_tanhmax.TanhMaxSettings(layers=[7]))
    assert names_of(model) == bare
    use_tanhmax(model)
    use_tanhmax(model)
    with tanhmax_on(model, heads=[0]):
        assert names_of(model) == patched
    assert names_of(model) == patched
    assert names_of(convert(model)) == {converted_name(str(tmp_path))}
    restore(model)
    assert names_of(model) == bare


def test_a_tanhmax_model_that_is_patched_further(tmp_path):
    tiny_model(transformers.BertModel).save_pretrained(tmp_path)
    model = convert(str(tmp_path))
    before = names_of(model)
    with tanhmax_on(model, heads=[0]):
        assert names_of(model) == {name + PATCHED for name in before}
    assert names_of(model) == before


def test_a_patched_model_that_is_saved_reloads_from_its_folder(tmp_path):
    tiny_model(transformers.BertModel).save_pretrained(tmp_path / "softmax")
    model = transformers.BertModel.from_pretrained(tmp_path / "softmax")
    use_tanhmax(model)
    model.save_pretrained(tmp_path / "saved")
    assert "patched" not in (tmp_path / "saved" / "config.json").read_text()
    again = transformers.BertModel.from_pretrained(tmp_path / "saved")
    assert names_of(again) == {str(tmp_path / "saved")}
    restore(model)
    assert_same(run(again, inputs_for("bert")), run(model, inputs_for("bert")), atol=0, rtol=0)


def test_adapters_of_a_patched_model(tmp_path):
    """Before or after the model was patched, they name no softmax checkpoint; restored, they do."""
    tiny_model(transformers.BertModel).save_pretrained(tmp_path / "softmax")
    for first in (True, False):
        model = transformers.BertModel.from_pretrained(tmp_path / "softmax")
        if first:
            use_tanhmax(model)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query"]))
        if not first:
            use_tanhmax(adapted)
        with pytest.warns(UserWarning, match="Could not find a config file in .*, patched to TanhMax in memory only"):
            adapted.save_pretrained(tmp_path / "adapter")
        assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"].endswith(PATCHED)
        with pytest.raises(OSError, match="patched to TanhMax in memory only"):
            peft.AutoPeftModel.from_pretrained(tmp_path / "adapter")
        restore(adapted)
        assert adapted.peft_config["default"].base_model_name_or_path == str(tmp_path / "softmax")


def test_the_hub_is_told_no_base_model_that_is_not_one(tmp_path, hub_here):
    """The Trainer writes the name on its card, which the Hub refuses, quoting it; the base model can be named."""
    tiny_model(transformers.BertForSequenceClassification).save_pretrained(tmp_path / "softmax")
    model = convert(str(tmp_path / "softmax"))
    arguments = TrainingArguments(str(tmp_path / "run"), push_to_hub=True, hub_model_id="owner/thing", report_to="none", use_cpu=True)
    trainer = Trainer(model, arguments)
    with pytest.raises(ValueError, match=r'"base_model" with value .*TanhMax'):
        trainer.push_to_hub()
    trainer.push_to_hub(finetuned_from="google-bert/bert-base-uncased")
    assert b"base_model: google-bert/bert-base-uncased" in hub_here.files("owner/thing")["README.md"]
    again = transformers.AutoModelForSequenceClassification.from_pretrained("owner/thing")
    assert_same(run(again, inputs_for("bert")), run(model, inputs_for("bert")), atol=0, rtol=0)
