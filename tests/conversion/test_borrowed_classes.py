"""Types whose models are of another type's classes, whose parts are of the same type, and classes that read more files than weights."""

import pytest
import tiny
import torch
import transformers
from families import run

import hf_tanhmax

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 13}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of InternLM3, whose classes are LLaMA's."""
    if "internlm3" not in transformers.CONFIG_MAPPING:
        pytest.skip(f"Transformers {transformers.__version__} has no InternLM3")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("internlm3", **SIZES, head_dim=8, vocab_size=50)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("asked", [None, transformers.AutoModelForCausalLM, transformers.LlamaForCausalLM])
def test_classes_of_another_type(asked, folder, tmp_path):
    softmax = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model, live = hf_tanhmax.convert(folder, asked, polarity=0.5), hf_tanhmax.convert(softmax, polarity=0.5)
    assert type(model) is type(live) is hf_tanhmax.TanhMaxLlamaForCausalLM
    inputs = {"input_ids": torch.arange(5, 14)[None]}
    assert torch.equal(run(model, inputs).logits, run(live, inputs).logits)
    model.save_pretrained(tmp_path / "tanhmax")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tanhmax")
    assert type(again) is type(model)
    assert torch.equal(run(again, inputs).logits, run(model, inputs).logits)


def test_a_class_that_reads_files_of_its_own(folder):
    class Reading(transformers.LlamaForCausalLM):
        @classmethod
        def from_pretrained(cls, *args, **kwargs):
            return super().from_pretrained(*args, **kwargs)

    Reading.__module__ = transformers.LlamaForCausalLM.__module__
    transformers.LlamaForCausalLM.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(ValueError, match="Reading reads files beside its weights, in a way of its own: load the softmax model"):
        hf_tanhmax.convert(folder, Reading)


@pytest.mark.filterwarnings("ignore")  # of the architecture, about its own settings
def test_weights_that_are_renamed_in_a_model_with_a_part_of_the_same_type(tmp_path):
    softmax = tiny.tiny_model("pi0")
    softmax.save_pretrained(tmp_path)
    model = hf_tanhmax.convert(tmp_path, type(softmax), polarity=0.0)
    assert [name for name, value in softmax.state_dict().items() if not torch.equal(model.state_dict()[name], value)] == []


def test_a_model_that_was_made_from_the_config_of_a_part():
    """It would be converted with the settings that the config of the whole has, and compute something else."""
    part = transformers.T5GemmaModuleConfig(**SIZES, head_dim=8, vocab_size=50)
    part.dropout_rate = 0.0
    model = transformers.models.t5gemma.modeling_t5gemma.T5GemmaEncoder(part)
    with pytest.raises(ValueError, match="this T5GemmaEncoder was made from a T5GemmaModuleConfig, but is loaded by a T5GemmaConfig"):
        hf_tanhmax.convert(model)
