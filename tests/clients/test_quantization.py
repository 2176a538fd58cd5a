"""Weights in few bits by torchao and bitsandbytes: converted while they load, near float weights, TanhMax, and the same after a reload.

Everything here runs on a CPU: int8 of torchao, weights alone and with activations, and 4 and 8 bits of bitsandbytes.
"""

import importlib.util
import json

import pytest
import torch
import transformers
from families import NAIVE
from tiny_checkpoints import pieces, save_softmax
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

import hf_tanhmax
from hf_tanhmax.models.family import TanhMaxFields

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning"),  # it says that it computes in half precision
]
IDS = torch.arange(3, 17)[None]
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
DECODERS = {"Mistral": "MistralForCausalLM", "Qwen3": "Qwen3ForCausalLM"}


def torchao(name):
    if importlib.util.find_spec("torchao") is None:
        pytest.skip("torchao is not installed")
    from torchao import quantization

    return TorchAoConfig(getattr(quantization, name)())


def bitsandbytes(**options):
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    return BitsAndBytesConfig(**options)


# For each kind: what makes its configuration, the class of a quantised weight, how far logits may be from those of float weights, and from
# the definition with the same weights; where activations are quantised too, a rounding can move one to the next of 255 steps.
KINDS = {
    "torchao, int8 weights": (lambda: torchao("Int8WeightOnlyConfig"), "Int8Tensor", 0.1, 1e-5),
    "torchao, int8 weights and activations": (lambda: torchao("Int8DynamicActivationInt8WeightConfig"), "Int8Tensor", 0.15, 2e-2),
    "bitsandbytes, 4 bits": (
        lambda: bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
        "Params4bit",
        0.7,
        1e-5,
    ),
    "bitsandbytes, 8 bits": (lambda: bitsandbytes(load_in_8bit=True), "Int8Params", 0.15, 2e-2),
}


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


def distance(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_converted_in_few_bits(kind, name, tmp_path):
    quantise, weight, near, nearer = KINDS[kind]
    quantisation = quantise()
    softmax = save_softmax(tmp_path / "softmax", DECODERS[name], name, pieces(), **SIZES)
    model = hf_tanhmax.convert(softmax, quantization_config=quantisation)
    assert isinstance(model.config, TanhMaxFields)
    assert type(model.model.layers[0].self_attn.q_proj.weight).__name__ == weight
    model.save_pretrained(
        tmp_path / "tanhmax"
    )  # before it runs, as bitsandbytes repacks 4 bits for the CPU then, and saves what it cannot read
    found = logits(model)

    # The same quantised weights with TanhMax from its definition, and with softmax.
    load = getattr(transformers, DECODERS[name]).from_pretrained
    expected = logits(load(softmax, quantization_config=quantise(), attn_implementation=NAIVE))
    assert distance(found, expected) < nearer
    assert distance(found, logits(load(softmax, quantization_config=quantise()))) > 0.1
    assert 0 < distance(found, logits(hf_tanhmax.convert(softmax))) < near

    written = json.loads((tmp_path / "tanhmax" / "config.json").read_text())
    assert written["model_type"].startswith("tanhmax_")
    assert written["quantization_config"]["quant_method"] in kind
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "tanhmax")
    assert type(again) is type(model)
    assert type(again.model.layers[0].self_attn.q_proj.weight).__name__ == weight
    assert torch.equal(logits(again), found)
