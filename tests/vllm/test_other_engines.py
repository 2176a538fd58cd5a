"""Engines that set an attention of their own by name, as SGLang and TGI do: a TanhMax model refuses it, where it would compute softmax."""

import pytest
import torch
import transformers
from transformers import AttentionInterface

from recipes.benchmarks.serving.engine import save_tiny

TOKENS = torch.tensor([[5, 6, 7]])


def softmax(module, *_, **__):
    raise AssertionError("softmax was computed")


@pytest.fixture(params=["sglang", "tgi", "vllm"])
def engine(request):
    AttentionInterface.register(request.param, softmax)
    yield request.param
    transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS._global_mapping.pop(request.param)


@pytest.mark.parametrize("how", ["config", "argument"])
def test_its_attention_is_refused(engine, how, tmp_path):
    save_tiny(tmp_path, "tanhmax_llama", num_hidden_layers=1)
    if how == "config":
        config = transformers.AutoConfig.from_pretrained(tmp_path)
        config.get_text_config()._attn_implementation = engine
        model = transformers.AutoModelForCausalLM.from_config(config)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=engine)
    with pytest.raises(ValueError, match=f'attn_implementation="{engine}" computes softmax, but this layer is set to TanhMax'):
        model(TOKENS)
