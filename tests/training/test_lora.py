"""LoRA from the recipe: adapters alone learn, a reload computes TanhMax, and merging changes nothing but rounding."""

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForMaskedLM, AutoModelForSequenceClassification

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT

AUTO = {
    "bert/text_classification": AutoModelForSequenceClassification,
    "bert/masked_lm": AutoModelForMaskedLM,
    "vit/image_classification": AutoModelForImageClassification,
    "llama/causal_lm": AutoModelForCausalLM,
    "llama/sft": AutoModelForCausalLM,
}


@pytest.mark.slow
@pytest.mark.parametrize("task", AUTO)
def test_a_softmax_checkpoint_is_annealed_by_adapters_alone(task, train, softmax_start, tmp_path):
    extra = () if task == "llama/sft" else (("--max_train_rows", "140") if task.startswith("vit") else ())
    code, said, results = train("lora", "--model_name_or_path", softmax_start(task), *extra, task=task)
    assert code == 0, said
    assert results["metrics"]["reload_difference"] == 0
    assert results["metrics"]["merge_difference"] < 1e-4
    assert results["model"]["trained_parameters"] < results["model"]["parameters"]
    assert results["model"]["class"].startswith("TanhMax")
    assert results["attention"] == "TanhMax, linear from 0 to 1, LoRA of rank 8"
    config = json.loads((tmp_path / "run" / "base" / "config.json").read_text())
    assert (config["model_type"], config["tanhmax_polarity"]) == (f"tanhmax_{task.split('/')[0]}", 1.0)
    adapter = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(tmp_path / "run" / "base")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    before, after = (AUTO[task].from_pretrained(folder).state_dict() for folder in (softmax_start(task), tmp_path / "run" / "base"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_an_adapter_is_loaded_by_peft_as_tanhmax(train, softmax_start, tmp_path):
    train("lora", "--model_name_or_path", softmax_start("llama/causal_lm"), task="llama/causal_lm")
    model = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "run"))
    assert type(model.get_base_model()).__name__ == "TanhMaxLlamaForCausalLM"


@pytest.mark.slow
def test_targets_that_are_not_there_are_refused(train, softmax_start):
    code, said, _ = train("lora", "--model_name_or_path", softmax_start(), "--lora_targets", "qkv")
    assert code == 2, said
    assert "error: LoRA cannot adapt TanhMaxBertForSequenceClassification: " in said


@pytest.mark.slow
def test_a_new_head_is_saved_with_the_adapter(train, softmax_start, tmp_path):
    train("lora", "--model_name_or_path", softmax_start())
    names = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert any("classifier" in name for name in names)
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "base")
    assert PeftModel.from_pretrained(base, str(tmp_path / "run")).config.tanhmax_polarity == 1.0


@pytest.mark.slow
def test_a_softmax_vit_has_targets_too_so_that_both_can_be_compared(train, softmax_start):
    flags = ("--model_name_or_path", softmax_start("vit/image_classification"), "--lora_rank", "3", "--max_train_rows", "140")
    code, said, results = train("softmax", *flags, task="vit/image_classification")
    assert code == 0, said
    assert results["model"]["class"] == "ViTForImageClassification"
    assert results["metrics"]["reload_difference"] == 0
