"""Preference training by TRL, whose reference model is made from the name of the model unless one is passed."""

import copy
import math
import re

import pytest
import transformers
from datasets import Dataset
from families import tiny_model
from saved_models import processor_for

import hf_tanhmax
from hf_tanhmax.integration.model_names import CONVERTED, PATCHED

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")  # TRL asks by old names
trl = pytest.importorskip("trl", reason="TRL is not installed")
EQUAL = pytest.approx(math.log(2), abs=1e-6)  # the loss while model and reference are the same


def loss_before_any_step(model, folder, reference=None):
    row = {"prompt": "a gripping", "chosen": " funny film", "rejected": " not funny at all"}
    options = {"max_steps": 1, "logging_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 2, "bf16": False}
    quiet = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False}
    trainer = trl.DPOTrainer(
        model,
        ref_model=reference,
        args=trl.DPOConfig(str(folder), **options, **quiet),
        train_dataset=Dataset.from_list([row] * 4),
        processing_class=processor_for("llama"),
    )
    trainer.train()
    return next(record["loss"] for record in trainer.state.log_history if "loss" in record)


@pytest.fixture
def softmax(tmp_path):
    """The folder of a softmax model."""
    vocabulary = len(processor_for("llama"))
    tiny_model(transformers.LlamaForCausalLM, vocab_size=vocabulary).save_pretrained(tmp_path / "softmax")
    return str(tmp_path / "softmax")


def patched(folder):
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    hf_tanhmax.use_tanhmax(model)
    return model


IN_MEMORY = {
    "converted": (hf_tanhmax.convert, CONVERTED),
    "loaded by its class": (hf_tanhmax.TanhMaxLlamaForCausalLM.from_pretrained, CONVERTED),
    "patched": (patched, PATCHED),
}


@pytest.mark.parametrize("way", IN_MEMORY)
def test_a_model_in_memory_needs_its_reference_passed(way, softmax, tmp_path):
    made, sentence = IN_MEMORY[way]
    with pytest.raises(OSError, match=re.escape(softmax + sentence)):
        loss_before_any_step(made(softmax), tmp_path / "run")
    model = made(softmax)
    assert loss_before_any_step(model, tmp_path / "run", copy.deepcopy(model)) == EQUAL


@pytest.mark.slow
def test_a_saved_model_is_its_own_reference_at_the_polarity_that_was_saved(softmax, tmp_path):
    """A polarity that is set afterwards is not, and nothing tells the package that TRL looks; the README says so."""
    hf_tanhmax.convert(softmax).save_pretrained(tmp_path / "saved")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert loss_before_any_step(model, tmp_path / "run") == EQUAL
    hf_tanhmax.set_polarity(model, 0.5)
    assert loss_before_any_step(copy.deepcopy(model), tmp_path / "run") != EQUAL
    assert loss_before_any_step(model, tmp_path / "run", copy.deepcopy(model)) == EQUAL
