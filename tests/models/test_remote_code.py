"""Checkpoints bring their code: what lies beside a config, what it is worth, and what it does where there is no plugin."""

import copy
import json
import re
import runpy
import sys

import peft
import pytest
import torch
import transformers
from families import BACKBONES, FAMILIES, TINY, assert_same, inputs_for, run, tensors_of, text, tiny_config, tiny_model
from huggingface_hub import ModelCard
from published_code import assert_reads, doubled, older, renewed
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

import hf_tanhmax
from hf_tanhmax import TanhMaxBertConfig, TanhMaxLlamaForCausalLM, tanhmax_attention, to_softmax
from hf_tanhmax.attention.kernels import support
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.integration.registration import SCORE_BIAS
from hf_tanhmax.models.remote_code import CODE_FILE, auto_map, source, verdict

every_family = pytest.mark.parametrize("family", TINY)


def written(folder):
    return json.loads((folder / "config.json").read_text())


def assert_brings_its_code(folder, family):
    assert verdict((folder / CODE_FILE).read_text()) is None
    assert written(folder)["auto_map"] == auto_map(f"tanhmax_{family}")


# What is saved


@every_family
def test_a_saved_model_or_config_brings_its_code(family, tmp_path):
    model = tiny_model(BACKBONES[family])
    model.save_pretrained(tmp_path / "model")
    tiny_config(family).save_pretrained(tmp_path / "config")
    copy.deepcopy(model.config).save_pretrained(tmp_path / "copy")
    again = AutoModel.from_pretrained(tmp_path / "model")
    again.save_pretrained(tmp_path / "again")
    for folder in tmp_path.iterdir():
        assert_brings_its_code(folder, family)
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "model" / "config.json").read_text()


@every_family
def test_the_auto_map_names_every_head(family):
    found, names = auto_map(f"tanhmax_{family}"), hf_tanhmax.__all__
    assert {value.split(".")[0] for value in found.values()} == {"modeling_tanhmax"}
    assert {value.split(".")[1] for value in found.values()} == {name for name in names if name.lower().startswith(f"tanhmax{family}")}
    heads = next(heads for config, heads in FAMILIES.items() if config.model_type == f"tanhmax_{family}")
    assert set(found) == {"AutoConfig", *heads}


def test_the_auto_map_of_another_model_type():
    with pytest.raises(ValueError, match=r"'bert' is no TanhMax model type, such as tanhmax_bert; is it 'bert'\?"):
        auto_map("bert")


def test_of_several_heads_the_auto_map_names_that_of_the_checkpoint(tmp_path):
    """`AutoModelForImageClassification` has two heads of DeiT, and upstream loads the one that the config names."""
    sizes = {
        "image_size": 15,
        "patch_size": 5,
        "hidden_size": 12,
        "num_attention_heads": 3,
        "num_hidden_layers": 1,
        "intermediate_size": 13,
    }
    for name in ("TanhMaxDeiTForImageClassification", "TanhMaxDeiTForImageClassificationWithTeacher"):
        cls = getattr(hf_tanhmax, name)
        cls(cls.config_class(**sizes)).save_pretrained(tmp_path / name)
        assert written(tmp_path / name)["auto_map"] == auto_map("tanhmax_deit", [name])
        assert written(tmp_path / name)["auto_map"]["AutoModelForImageClassification"] == f"modeling_tanhmax.{name}"
        assert type(transformers.AutoModelForImageClassification.from_pretrained(tmp_path / name)) is cls


def test_references_to_a_repository_become_plain(tmp_path):
    config = tiny_config("bert", auto_map={"AutoConfig": "someone/model--modeling_tanhmax.TanhMaxBertConfig", "AutoModel": "gone.Gone"})
    config.save_pretrained(tmp_path)
    assert_brings_its_code(tmp_path, "bert")


@every_family
def test_softmax_models_bring_none(family, tmp_path):
    model = tiny_model(BACKBONES[family])
    model.save_pretrained(tmp_path / "tanhmax")
    for source_model in (model, AutoModel.from_pretrained(tmp_path / "tanhmax")):
        to_softmax(source_model).save_pretrained(tmp_path / "softmax")
        assert "auto_map" not in written(tmp_path / "softmax")
        assert not (tmp_path / "softmax" / CODE_FILE).exists()


def test_configs_of_others_are_their_own_affair(tmp_path):
    class TheirConfig(TanhMaxBertConfig):
        model_type = "theirs"

    TheirConfig().save_pretrained(tmp_path)
    assert "auto_map" not in written(tmp_path)
    assert not (tmp_path / CODE_FILE).exists()


class Examples(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"input_ids": text(4, 11)[index], "labels": text(4, 11)[index]}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by an old name
def test_checkpoints_of_the_trainer_and_models_out_of_peft(tmp_path):
    model = tiny_model(TanhMaxLlamaForCausalLM)
    arguments = {"max_steps": 1, "save_steps": 1, "use_cpu": True, "report_to": [], "disable_tqdm": True, "dataloader_pin_memory": False}
    Trainer(model, TrainingArguments(str(tmp_path / "run"), **arguments), train_dataset=Examples()).train()
    assert_brings_its_code(tmp_path / "run" / "checkpoint-1", "llama")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"]))
    adapted.get_base_model().save_pretrained(tmp_path / "base")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert_brings_its_code(tmp_path / "base", "llama")
    assert_brings_its_code(tmp_path / "merged", "llama")


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained", "config"])
def test_what_is_pushed_brings_its_code(way, hub_here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # which remembers the Hub of an earlier test
    model = tiny_model(BACKBONES["bert"])
    if way == "push_to_hub":
        model.push_to_hub("owner/thing")
    elif way == "save_pretrained":
        model.save_pretrained("folder", push_to_hub=True, repo_id="owner/thing")
    else:
        model.config.save_pretrained("folder", push_to_hub=True, repo_id="owner/thing")
    files = hub_here.files("owner/thing")
    assert verdict(files[CODE_FILE].decode()) is None
    assert json.loads(files["config.json"])["auto_map"] == auto_map("tanhmax_bert")
    if way != "config":
        assert {"tanhmax", "custom_code"} <= set(ModelCard(files["README.md"].decode()).data.tags)


def test_tags_belong_to_one_model():
    model, other = tiny_model(BACKBONES["vit"]), tiny_model(BACKBONES["vit"])
    model.add_model_tags("mine")
    assert model.model_tags == ["tanhmax", "custom_code", "mine"]
    assert other.model_tags == ["tanhmax", "custom_code"]


# What a file is worth


VERSION = hf_tanhmax.__version__
ALTERED = "modeling_tanhmax.py was altered after hf_tanhmax .* wrote it; save the model anew to replace it"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.replace("sinh", "cosh", 1), ALTERED),
        (lambda found: found + "\n", ALTERED),
        (lambda found: found.replace("so do not edit it", "so edit it"), ALTERED),
        (lambda found: found.replace("\n", "\r\n"), "not a file that hf_tanhmax wrote"),
        (
            lambda found: older(found.replace("sinh", "cosh")),
            f"says that hf_tanhmax 0.0.1 wrote it, and this is {hf_tanhmax.__version__}; save",
        ),
        (
            lambda found: renewed(found + "# more\n"),
            f"says that hf_tanhmax {hf_tanhmax.__version__} wrote it, but is not what this .* writes",
        ),
        (lambda found: "import torch\n", "modeling_tanhmax.py is not a file that hf_tanhmax wrote; save the model anew to replace it"),
        (lambda found: "", "not a file that hf_tanhmax wrote"),
    ],
    ids=["altered", "longer", "header", "line_ends", "older", "another_state", "foreign", "empty"],
)
def test_verdict(change, message):
    assert verdict(source()) is None
    assert re.search(message, verdict(change(source())))


@pytest.mark.filterwarnings("ignore:'hf_tanhmax.models.remote_code' found in sys.modules:RuntimeWarning")
def test_the_command_writes_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["remote", str(tmp_path / "file.py")])
    runpy.run_module("hf_tanhmax.models.remote_code", run_name="__main__")
    assert verdict((tmp_path / "file.py").read_text()) is None
    monkeypatch.setattr(sys, "argv", ["remote"])
    with pytest.raises(SystemExit, match=r"usage: python -m hf_tanhmax\.models\.remote_code PATH"):
        runpy.run_module("hf_tanhmax.models.remote_code", run_name="__main__")


# What is run


@every_family
def test_with_the_plugin_no_remote_code_is_run(family, tmp_path):
    model = tiny_model(BACKBONES[family])
    model.save_pretrained(tmp_path)
    (tmp_path / CODE_FILE).write_text("raise RuntimeError('remote code was run')")
    before = {name for name in sys.modules if name.startswith("transformers_modules")}
    again = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(again) is BACKBONES[family]
    assert type(AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)) is type(model.config)
    assert type(AutoModel.from_config(again.config, trust_remote_code=True)) is BACKBONES[family]
    assert {name for name in sys.modules if name.startswith("transformers_modules")} == before
    assert_same(run(again, inputs_for(family)), run(model, inputs_for(family)), atol=0, rtol=0)


def publish(path, auto, cls, polarity):
    """A checkpoint, and beside it what the package computes with it."""
    model = tiny_model(cls, tanhmax_polarity=polarity, **({"is_decoder": True} if cls.__name__ == "TanhMaxBertLMHeadModel" else {}))
    for module in attention_modules(model) if polarity == "learned" else ():
        torch.nn.init.uniform_(getattr(module, SCORE_BIAS), 0.1, 2.0)
    model.save_pretrained(path)
    model = getattr(transformers, auto).from_pretrained(path)  # the last digit may depend on where in memory weights lie
    inputs = inputs_for(path.name.split("-")[0], auto)
    found = {"inputs": inputs, "outputs": list(tensors_of(run(model, inputs)))}
    if cls is TanhMaxLlamaForCausalLM:
        ways = [{"max_new_tokens": 4, "do_sample": False, **more} for more in ({}, {"use_cache": False}, {"num_beams": 2})]
        found["generated"] = [(way, model.generate(inputs["input_ids"], **way)) for way in ways]
    if auto == "AutoModel":
        model.set_attn_implementation("eager")
        found["attentions"] = run(model, inputs, output_attentions=True).attentions
        found["eager_outputs"] = list(tensors_of(run(model, inputs)))
    torch.save(found, path / "expected.pt")


def publish_kernels(folder):
    """What the package's kernels compute, forward and backward."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = [torch.randn(1, heads, 19, 16, device=device, requires_grad=True) for heads in (4, 2, 2)]
    options = {"is_causal": True, "polarity": 0.5}
    output = tanhmax_attention(*inputs, implementation="triton", **options)
    output.square().sum().backward()
    found = [output.detach().cpu(), *(tensor.grad.cpu() for tensor in inputs)]
    case = {"inputs": [tensor.detach().cpu() for tensor in inputs], "options": options, "found": found, "device": device}
    torch.save(case, folder / "kernels.pt")


@pytest.mark.slow
@pytest.mark.skipif(support.triton_missing() is not None, reason="needs triton")
def test_without_the_plugin(tmp_path):
    for config, heads in FAMILIES.items():
        for auto, cls in heads.items():
            for polarity in (1.0, "learned") if auto in ("AutoModel", "AutoModelForCausalLM") else (1.0,):
                publish(tmp_path / auto / f"{config.model_type.removeprefix('tanhmax_')}-{polarity}", auto, cls, polarity)
    publish_kernels(tmp_path)
    other = tmp_path / "other" / "AutoModel" / "bert-1.0"
    tiny_model(BACKBONES["bert"]).save_pretrained(other)
    (other / CODE_FILE).write_text(doubled())
    assert_reads("reader.py", tmp_path, "folders")
