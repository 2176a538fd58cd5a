"""PEFT on converted models: default targets by model type, LoRA and DoRA, reload by PEFT's Auto classes, merging, a published folder.

What adapters do on BERT, ViT and LLaMA is in `test_peft.py`.
"""

import json

import peft
import pytest
import torch
import transformers
from families import assert_same, differ, run
from packaging.version import Version
from peft.utils import constants
from supported_models import ARCHITECTURES
from tiny_checkpoints import by_definition, save_converted, save_softmax
from transformers.integrations.peft import MIN_PEFT_VERSION

import hf_tanhmax
from hf_tanhmax.models.family import TanhMaxFields

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by an old name
# For each architecture: class, Auto class, task of PEFT and the Auto class of PEFT, where there are some.
MODELS = {
    "Mistral": ("MistralForCausalLM", "AutoModelForCausalLM", "CAUSAL_LM"),
    "Qwen3": ("Qwen3ForCausalLM", "AutoModelForCausalLM", "CAUSAL_LM"),
    "Gemma 2": ("Gemma2ForCausalLM", "AutoModelForCausalLM", "CAUSAL_LM"),
    "Gemma 3": ("Gemma3ForCausalLM", "AutoModelForCausalLM", "CAUSAL_LM"),
    "RoBERTa": ("RobertaForSequenceClassification", "AutoModelForSequenceClassification", "SEQ_CLS"),
    "DistilBERT": ("DistilBertForSequenceClassification", "AutoModelForSequenceClassification", "SEQ_CLS"),
    "T5": ("T5ForConditionalGeneration", "AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM"),
    "DINOv2": ("Dinov2ForImageClassification", "AutoModelForImageClassification", None),
}
# Of these PEFT has no row upstream either; DINOv2 has one pair of the names or the other, as the release of Transformers has it.
TARGETS = {"DINOv2": ["q_proj", "v_proj", "query", "value"], "DistilBERT": ["q_lin", "v_lin"]}
CHANGES = {"T5": {"decoder_start_token_id": 0}, "DistilBERT": {"initializer_range": 0.3}}
every_model = pytest.mark.parametrize("name", MODELS)


def example(name):
    case = next(case for case in ARCHITECTURES if case.name == name)
    found = case.example()
    labels = found.get("decoder_input_ids", found.get("input_ids"))
    if MODELS[name][2] in (None, "SEQ_CLS"):
        labels = torch.tensor([0, 1])
    found.pop("decoder_input_ids", None)  # made of the labels
    return {**found, "labels": labels.contiguous()}


def folders(name, tmp_path):
    softmax = save_softmax(tmp_path / "softmax", MODELS[name][0], name, **CHANGES.get(name, {}))
    return softmax, save_converted(softmax, tmp_path / "tanhmax")


def configuration(name, **changes):
    return peft.LoraConfig(r=4, task_type=MODELS[name][2], target_modules=TARGETS.get(name), **changes)


def step(model, inputs):
    trained = [value for value in model.parameters() if value.requires_grad]
    model.eval()(**inputs).loss.backward()
    torch.optim.SGD(trained, lr=1.0).step()


@every_model
@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_an_adapter_from_its_training_to_its_merge(dora, name, tmp_path):
    softmax, folder = folders(name, tmp_path)
    base = getattr(transformers, MODELS[name][1]).from_pretrained(folder)
    inputs = example(name)
    untrained = run(base, inputs)
    adapted = peft.get_peft_model(base, configuration(name, use_dora=dora))
    assert adapted.base_model.targeted_module_names
    step(adapted, inputs)
    wanted = run(adapted, inputs)
    assert differ(wanted, untrained, by=1e-4)
    adapted.save_pretrained(tmp_path / "adapter")

    if MODELS[name][2] is None:  # PEFT has no Auto class for images
        again = peft.PeftModel.from_pretrained(getattr(transformers, MODELS[name][1]).from_pretrained(folder), tmp_path / "adapter")
    else:
        again = getattr(peft, MODELS[name][1].replace("Auto", "AutoPeft")).from_pretrained(tmp_path / "adapter")
    assert_same(run(again, inputs), wanted, atol=0, rtol=0)
    merged = again.merge_and_unload()
    assert type(merged).__name__ == f"TanhMax{MODELS[name][0]}"
    assert_same(run(merged, inputs), wanted)
    assert_same(run(by_definition(merged, softmax), inputs), wanted)

    merged.save_pretrained(tmp_path / "merged")
    final = getattr(transformers, MODELS[name][1]).from_pretrained(tmp_path / "merged")
    assert isinstance(final.config, TanhMaxFields)
    assert_same(run(final, inputs), run(merged, inputs), atol=0, rtol=0)


@every_model
def test_default_targets_are_upstreams(name, tmp_path):
    _, folder = folders(name, tmp_path)
    model = getattr(transformers, MODELS[name][1]).from_pretrained(folder)
    kind = model.config.model_type
    upstream = kind.removeprefix("tanhmax_")
    table = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    if upstream not in table:
        with pytest.raises(ValueError, match="Please specify `target_modules`"):
            peft.get_peft_model(model, peft.LoraConfig(r=4))
        return
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4))
    assert adapted.peft_config["default"].target_modules == set(table[upstream])


@pytest.mark.skipif(Version(peft.__version__) < Version(MIN_PEFT_VERSION), reason=f"add_adapter needs PEFT {MIN_PEFT_VERSION}")
@every_model
def test_transformers_own_adapters(name, tmp_path):
    _, folder = folders(name, tmp_path)
    load = getattr(transformers, MODELS[name][1]).from_pretrained
    model, inputs = load(folder), example(name)
    before = run(model, inputs)
    model.add_adapter(configuration(name, init_lora_weights=False))
    wanted = run(model, inputs)
    assert differ(wanted, before, by=1e-3)
    model.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == folder
    again = load(tmp_path / "adapter")  # the base is found by its name
    assert isinstance(again.config, TanhMaxFields)
    assert_same(run(again, inputs), wanted, atol=0, rtol=0)
    model.disable_adapters()
    assert_same(run(model, inputs), before, atol=0, rtol=0)


def test_an_adapter_of_softmax_moves_to_the_conversion(tmp_path):
    softmax, _ = folders("Qwen3", tmp_path)
    inputs = example("Qwen3")
    adapted = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(softmax), configuration("Qwen3"))
    step(adapted, inputs)
    adapted.save_pretrained(tmp_path / "adapter")
    moved = peft.PeftModel.from_pretrained(hf_tanhmax.convert(softmax, polarity=0.0), tmp_path / "adapter")
    assert_same(run(moved, inputs), run(adapted, inputs))
    hf_tanhmax.set_polarity(moved, 1.0)
    assert differ(run(moved, inputs), run(adapted, inputs), by=1e-3)
