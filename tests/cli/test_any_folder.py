"""Folders of many architectures under convert, doctor, card and push: class, processors, layers and what stays softmax are said."""

import os
import subprocess
import sys

import pytest
import torch
import transformers
from families import assert_same, run
from huggingface_hub import ModelCard
from image_processors import load_images
from saved_models import change_json, code_on, executed
from walked import WALKED

import hf_tanhmax
from hf_tanhmax.cards import model_card
from hf_tanhmax.checkpoint import read_checkpoint
from hf_tanhmax.cli.arguments import main
from hf_tanhmax.doctor import check_checkpoint
from hf_tanhmax.hub import push
from hf_tanhmax.processors import load_processors

# Auto class, pipeline, processor.
SAID = {
    "gemma3_text": ("AutoModelForCausalLM", "text-generation", "AutoTokenizer"),
    "roberta": ("AutoModelForSequenceClassification", "text-classification", "AutoTokenizer"),
    "deit": ("AutoModelForImageClassification", "image-classification", "AutoImageProcessor"),
    "clip": ("AutoModelForZeroShotImageClassification", "zero-shot-image-classification", "AutoProcessor"),
    "t5": ("AutoModelForSeq2SeqLM", None, "AutoTokenizer"),
    "whisper": ("AutoModelForSpeechSeq2Seq", "automatic-speech-recognition", "AutoProcessor"),
}
PARTS = {
    "clip": ["text_model.encoder.layers: TanhMax in all 2 layers", "vision_model.encoder.layers: TanhMax in all 2 layers"],
    "whisper": ["model.encoder.layers: TanhMax in all 2 layers", "model.decoder.layers: TanhMax in all 2 layers"],
}


def sentences(folder):
    return [finding.sentence for finding in check_checkpoint(folder)]


@pytest.mark.parametrize("name", [pytest.param(name, marks=load_images if name == "deit" else ()) for name in SAID])
def test_converted_checked_and_described(name, tmp_path, monkeypatch, capsys):
    case, out = WALKED[name], tmp_path / "out"
    case.save_softmax(tmp_path / "softmax")
    assert main(["convert", str(tmp_path / "softmax"), str(out)]) == 0
    said = capsys.readouterr().out
    assert "there too" in said
    assert "no " not in said.split("there too")[1].split("\n")[0]
    found = read_checkpoint(out)
    assert (found.auto_class, found.pipeline, found.processor_class) == SAID[name]
    assert found.model_class.__name__ == f"TanhMax{case.cls}"
    assert {finding.level for finding in check_checkpoint(out)} == {"ok"}
    assert [sentence for sentence in sentences(out) if ": TanhMax in all" in sentence] == PARTS.get(name, []) or name == "t5"
    card = ModelCard.load(out / "README.md")
    assert card.data.pipeline_tag == SAID[name][1]
    assert all(sentence in card.text for sentence in PARTS.get(name, []))
    monkeypatch.chdir(out)
    with_plugin, without, use = code_on(card)
    assert "trust_remote_code=True" in without
    made = executed(with_plugin, use)
    assert type(made["model"]) is found.model_class
    assert_same(run(made["model"], case.inputs()), run(case.model(), case.inputs()))
    assert ("weights" in made) == (name != "clip")
    if name == "roberta":
        assert made["answer"] in ("negative", "positive")


@pytest.mark.parametrize(
    "name",
    [
        *("clip", "whisper", "bart_classifier"),
        *(pytest.param(name, marks=load_images) for name in ("clip_classifier", "dinov2_with_registers")),
    ],
)
def test_published_and_loaded_again(name, tmp_path, hub_here):
    case = WALKED[name]
    model = case.save(tmp_path / "model")
    push(tmp_path / "model", f"owner/{name.replace('_', '-')}")
    repo = f"owner/{name.replace('_', '-')}"
    found = read_checkpoint(repo)
    assert type(found.load()) is type(model)
    assert_same(run(found.load(), case.inputs()), run(model, case.inputs()))
    (processor,), missing = load_processors(repo, read_checkpoint(tmp_path / "model").modalities, {})
    assert type(processor) is type(case.processor())
    assert missing == {}


def test_what_stays_softmax_and_which_layers_do_not(tmp_path):
    WALKED["siglip_vision"].save(tmp_path / "siglip", layers=(1,))
    WALKED["clip"].save(tmp_path / "clip", layers=("vision_model",))
    assert "MultiheadAttention (vision_model.head.attention) computes softmax by itself, whatever the settings are" in sentences(
        tmp_path / "siglip"
    )
    assert any("in layer 1 of 2 (the others are softmax)" in sentence for sentence in sentences(tmp_path / "siglip"))
    towers = ["text_model.encoder.layers: softmax in all 2 layers", "vision_model.encoder.layers: TanhMax in all 2 layers"]
    assert set(towers) < set(sentences(tmp_path / "clip"))
    card = model_card(tmp_path / "clip").text
    assert "in the layers of vision\\_model (the others" in card or "in the layers of vision_model (the others" in card
    assert all(sentence in card for sentence in towers)
    assert "**Part of it stays softmax:** MultiheadAttention (vision_model.head.attention)" in model_card(tmp_path / "siglip").text


def test_layers_that_are_not_there_are_said(tmp_path):
    WALKED["clip"].save(tmp_path)
    change_json(tmp_path / "config.json", tanhmax_layers=["audio_model"])
    assert any(
        "no attention module of 'clip' is in 'audio_model': they are in text_model.encoder.layers, " in each for each in sentences(tmp_path)
    )
    with pytest.raises(ValueError, match="describes a model that cannot be built: no attention module of 'clip' is in 'audio_model'"):
        model_card(tmp_path)


def test_a_processor_that_is_not_there_is_said(tmp_path, capsys):
    WALKED["clip"].softmax().save_pretrained(tmp_path / "softmax")
    WALKED["clip"].processor().tokenizer.save_pretrained(tmp_path / "softmax")
    assert main(["convert", str(tmp_path / "softmax"), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "its tokenizer is there too; no image processor was saved, as that of" in said
    assert [finding.subject for finding in check_checkpoint(tmp_path / "out") if finding.level == "warning"] == ["image processor"]
    assert read_checkpoint(tmp_path / "out").processor_class == "AutoTokenizer"


def test_a_class_that_no_auto_class_loads(tmp_path, monkeypatch):
    cls = transformers.CLIPTextModelWithProjection
    model = hf_tanhmax.convert(cls(cls.config_class(**WALKED["clip_text"].values)).eval())
    model.save_pretrained(tmp_path)
    found = read_checkpoint(tmp_path)
    assert (found.auto_class, found.model_class, found.pipeline) == (None, type(model), None)
    card = model_card(tmp_path)
    assert "No Auto class of Transformers loads a `TanhMaxCLIPTextModelWithProjection`, so it needs the plugin." in card.text
    monkeypatch.chdir(tmp_path)
    (with_plugin,) = code_on(card)
    assert_same(run(executed(with_plugin)["model"], WALKED["clip_text"].inputs()), run(model, WALKED["clip_text"].inputs()))


@pytest.mark.slow
def test_the_code_on_cards_runs_without_the_plugin(tmp_path):
    script = ["import sys", "sys.modules['hf_tanhmax'] = None", "import os, torch"]
    for name in ("gemma3_text", "clip", "t5", "bart_classifier"):
        model = WALKED[name].save(tmp_path / name)
        torch.save((WALKED[name].inputs(), run(model, WALKED[name].inputs())[0]), tmp_path / f"{name}.pt")
        _, without, use = code_on(model_card(tmp_path / name))
        script += [f"os.chdir({str(tmp_path / name)!r})", without, use, f"inputs, want = torch.load({str(tmp_path / name) + '.pt'!r})"]
        script += ["torch.testing.assert_close(model.eval()(**inputs)[0], want)"]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", "\n".join(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
