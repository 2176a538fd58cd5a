"""Adapters on TanhMax models: train, save, reload, merge, anneal. What PEFT adapts by default is in `models/test_family_adapters.py`."""

import copy
import json
import logging

import peft
import pytest
import torch
import transformers
from families import LAYERS, TINY, assert_same, differ, inputs_for, naive_twin, run, softmax_twin, tiny_model
from transformers import Trainer, TrainingArguments

import hf_tanhmax
from hf_tanhmax.integration.registration import SCORE_BIAS, _say_frozen

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by an old name
every_family = pytest.mark.parametrize("family", TINY)

# For each family: a TanhMax class, its Auto class, and what its adapter says.
CASES = {
    "bert": (hf_tanhmax.TanhMaxBertForSequenceClassification, "AutoModelForSequenceClassification", {"task_type": "SEQ_CLS"}),
    "vit": (hf_tanhmax.TanhMaxViTForImageClassification, "AutoModelForImageClassification", {"modules_to_save": ["classifier"]}),
    "llama": (hf_tanhmax.TanhMaxLlamaForCausalLM, "AutoModelForCausalLM", {"task_type": "CAUSAL_LM"}),
}


def adapted_base(family, folder, **settings):
    """A TanhMax base model loaded from a folder that it was saved in, with a new adapter of the default modules; and inputs with labels."""
    cls, auto, options = CASES[family]
    tiny_model(cls, **settings).save_pretrained(folder)
    base = getattr(transformers, auto).from_pretrained(folder)
    return peft.get_peft_model(base, peft.LoraConfig(r=4, **options)), inputs_for(family, auto, labels=True)


def step(model, inputs, rate=1.0):
    """One step of gradient descent on what is trained, in evaluation mode so that it draws nothing at random."""
    trained = [value for value in model.parameters() if value.requires_grad]
    model.eval()(**inputs).loss.backward()
    torch.optim.SGD(trained, lr=rate).step()
    return trained


def reloaded(family, folder):
    """The base model that an adapter names, with the adapter on it: by PEFT's Auto class, or for ViT, which has none, by hand."""
    if family != "vit":
        return getattr(peft, CASES[family][1].replace("Auto", "AutoPeft")).from_pretrained(folder)
    base = peft.PeftConfig.from_pretrained(folder).base_model_name_or_path
    return peft.PeftModel.from_pretrained(transformers.AutoModelForImageClassification.from_pretrained(base), folder)


@every_family
def test_train_save_reload_merge(family, tmp_path):
    adapted, inputs = adapted_base(family, tmp_path / "base")
    before = {name: value.clone() for name, value in adapted.named_parameters()}
    untrained = run(adapted, inputs)
    step(adapted, inputs)
    changed = {name for name, value in adapted.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in changed if "lora_" in name} == {name for name in before if "lora_B" in name}
    assert all("modules_to_save" in name for name in changed if "lora_" not in name)
    wanted = run(adapted, inputs)
    assert differ(wanted, untrained, by=1e-3)

    adapted.save_pretrained(tmp_path / "adapter")
    again = reloaded(family, tmp_path / "adapter")
    assert_same(run(again, inputs), wanted, atol=1e-6, rtol=1e-5)
    merged = again.merge_and_unload()
    assert type(merged) is CASES[family][0]
    assert_same(run(merged, inputs), wanted)
    assert_same(run(naive_twin(merged), inputs), wanted)
    assert differ(run(softmax_twin(merged), inputs), wanted, by=1e-3)

    merged.save_pretrained(tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["model_type"] == f"tanhmax_{family}"
    final, report = getattr(transformers, CASES[family][1]).from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert type(final) is CASES[family][0]
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(run(final, inputs), run(merged, inputs), atol=1e-6, rtol=1e-5)


@every_family
def test_adapter_switched_off_is_the_base(family, tmp_path):
    adapted, inputs = adapted_base(family, tmp_path)
    step(adapted, inputs)
    with adapted.disable_adapter():
        found = run(adapted, inputs)
    assert_same(found, run(naive_twin(tiny_model(CASES[family][0])), inputs))


@every_family
def test_adapter_of_a_softmax_model_on_its_conversion(family, tmp_path):
    """At polarity 0 it does what it did; at 1 it is an adapter on TanhMax."""
    cls, auto, options = CASES[family]
    names = {"bert": ["query", "value"], "vit": ["q_proj", "v_proj"], "llama": None}[family]
    inputs = inputs_for(family, auto, labels=True)
    tiny_model(cls.__mro__[1]).save_pretrained(tmp_path / "native")
    native = getattr(transformers, auto).from_pretrained(tmp_path / "native")
    adapted = peft.get_peft_model(native, peft.LoraConfig(r=4, target_modules=names, **options))
    step(adapted, inputs)
    adapted.save_pretrained(tmp_path / "adapter")

    base = hf_tanhmax.convert(str(tmp_path / "native"), getattr(transformers, auto), polarity=0.0)
    moved = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert_same(run(moved, inputs), run(adapted, inputs))
    hf_tanhmax.set_polarity(moved, 1.0)
    found = run(moved, inputs)
    assert differ(found, run(adapted, inputs), by=1e-3)
    assert_same(run(naive_twin(moved.merge_and_unload()), inputs), found)


def arguments(folder, **changes):
    options = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "save_steps": 2,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(str(folder), **{**options, **changes})


def rows(inputs):
    return [{name: value[0] for name, value in inputs.items()}] * 8


def test_annealing_reaches_the_base_model_and_its_config(tmp_path, caplog):
    """The adapter cannot hold the polarity, which is said; saved where the base model is, the config does."""
    adapted, inputs = adapted_base("llama", tmp_path / "base", tanhmax_polarity=0.0)
    callback = hf_tanhmax.PolarityCallback(start=0.0, end=0.75, share=1.0)
    trainer = Trainer(adapted, arguments(tmp_path / "run"), train_dataset=rows(inputs), callbacks=[callback])
    with caplog.at_level(logging.WARNING, "hf_tanhmax.training.annealing"):
        trainer.train()
    assert "the polarity is 0.75 now, in the config of the base model, which PEFT does not save with an adapter" in caplog.text
    assert adapted.get_base_model().config.tanhmax_polarity == 0.75
    wanted = run(adapted, inputs)

    adapted.save_pretrained(tmp_path / "adapter")
    assert differ(run(reloaded("llama", tmp_path / "adapter"), inputs), wanted, by=1e-3)
    adapted.config.save_pretrained(tmp_path / "base")
    assert_same(run(reloaded("llama", tmp_path / "adapter"), inputs), wanted, atol=1e-6, rtol=1e-5)
    assert_same(run(reloaded("llama", tmp_path / "run" / "checkpoint-4"), inputs), wanted, atol=1e-6, rtol=1e-5)


def test_the_best_adapter_comes_back_with_the_polarity_of_its_step(tmp_path, caplog):
    """No file of an adapter says its polarity; the step that its checkpoint names does."""
    adapted, inputs = adapted_base("llama", tmp_path / "base", tanhmax_polarity=0.0)
    best = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "metric_for_best_model": "score", "save_steps": 1}
    scores = iter((3, 2, 1, 0))
    trainer = Trainer(
        adapted,
        arguments(tmp_path / "run", greater_is_better=True, **best),
        train_dataset=rows(inputs),
        eval_dataset=rows(inputs),
        compute_metrics=lambda _: {"score": next(scores)},
        callbacks=[hf_tanhmax.PolarityCallback(start=0.0, end=1.0, share=1.0)],
    )
    with caplog.at_level(logging.WARNING, "hf_tanhmax.training.annealing"):
        trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / "checkpoint-1")
    assert adapted.get_base_model().config.tanhmax_polarity == 0.25
    assert "the polarity is 0.25 now, and not 1, with which the schedule ends" in caplog.text
    assert "the polarity is 0.25 now, in the config of the base model, which PEFT does not save with an adapter" in caplog.text
    adapted.config.save_pretrained(tmp_path / "base")
    assert_same(run(reloaded("llama", tmp_path / "run" / "checkpoint-1"), inputs), run(adapted, inputs), atol=1e-6, rtol=1e-5)


@every_family
def test_polarity_set_through_the_wrapper(family, tmp_path):
    adapted, inputs = adapted_base(family, tmp_path, tanhmax_polarity=0.0)
    step(adapted, inputs)
    softmax = run(adapted, inputs)
    hf_tanhmax.set_polarity(adapted, 1.0)
    found = run(adapted, inputs)
    assert differ(found, softmax, by=1e-3)
    assert_same(found, run(naive_twin(copy.deepcopy(adapted).merge_and_unload()), inputs))
    hf_tanhmax.set_polarity(adapted, 0.0)
    assert_same(run(adapted, inputs), softmax, atol=0, rtol=0)


@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
def test_a_learned_polarity_is_frozen_by_an_adapter_and_that_is_said(bias, tmp_path, caplog):
    tiny_model(CASES["bert"][0], tanhmax_polarity="learned", tanhmax_score_bias=0.4).save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, task_type="SEQ_CLS", bias=bias))
    inputs = inputs_for("bert", "AutoModelForSequenceClassification", labels=True)
    _say_frozen.cache_clear()
    with caplog.at_level(logging.WARNING, "hf_tanhmax"):
        adapted.train()(**inputs).loss.backward()
    assert caplog.text.count("the score biases of a learned polarity are frozen, as PEFT freezes all but its adapters") == 1
    step(adapted, inputs)
    biases = [value for name, value in adapted.named_parameters() if name.endswith(SCORE_BIAS)]
    assert len(biases) == LAYERS
    assert all(torch.equal(value, torch.full_like(value, 0.4)) for value in biases)
    adapted.save_pretrained(tmp_path / "adapter")
    assert_same(run(reloaded("bert", tmp_path / "adapter"), inputs), run(adapted, inputs), atol=1e-6, rtol=1e-5)


@every_family
def test_an_adapter_does_not_name_a_softmax_checkpoint_as_its_base(family, tmp_path):
    """PEFT would load it onto softmax; what it finds instead says that the base was in memory only."""
    cls, _, options = CASES[family]
    tiny_model(cls.__mro__[1]).save_pretrained(tmp_path / "native")
    adapted = peft.get_peft_model(cls.from_pretrained(tmp_path / "native"), peft.LoraConfig(r=4, **options))
    assert_same(run(adapted, inputs_for(family)), run(naive_twin(tiny_model(cls)), inputs_for(family)))
    with pytest.warns(UserWarning, match="Could not find a config file in TanhMax of .*, in memory only"):
        adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(OSError, match=r"TanhMax of .*, in memory only: save it and load that"):
        reloaded(family, tmp_path / "adapter")
    base = hf_tanhmax.convert(str(tmp_path / "native"), getattr(transformers, CASES[family][1]))
    assert_same(run(peft.PeftModel.from_pretrained(base, tmp_path / "adapter"), inputs_for(family)), run(adapted, inputs_for(family)))


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")  # PEFT hands a cache over by its name before 5.24
def test_prompts_learned_in_front_of_the_keys(tmp_path):
    """Prefix tuning adds keys and values to each layer; they are attended with TanhMax as any others."""
    base = tiny_model(CASES["llama"][0])
    adapted = peft.get_peft_model(base, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    inputs = inputs_for("llama", "AutoModelForCausalLM", labels=True)
    prompt = adapted.prompt_encoder["default"].embedding.weight
    before = prompt.clone()
    step(adapted, inputs, rate=10.0)
    assert not torch.equal(prompt, before)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny_model(CASES["llama"][0]), tmp_path)
    wanted = run(adapted, inputs).logits
    assert_same([run(again, inputs).logits], [wanted], atol=1e-6, rtol=1e-5)
    naive = peft.PeftModel.from_pretrained(naive_twin(tiny_model(CASES["llama"][0])), tmp_path)
    assert_same([run(naive, inputs).logits], [wanted])
