"""The kernels inside models: what Transformers hands down arrives, forward, backward and in generation."""

import pytest
import torch
from families import BACKBONES, assert_same, inputs_for, naive_twin, run, tensors_of, text, tiny_model

from hf_tanhmax import TanhMaxLlamaForCausalLM
from hf_tanhmax.attention import api as attention
from hf_tanhmax.attention.kernels import support

GPU = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = [
    pytest.mark.usefixtures("small_tiles"),
    pytest.mark.skipif(support.triton_missing() is not None, reason="needs triton"),
]


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """`auto` takes the kernels wherever the model is; the list of what ran."""
    found, run_ = [], attention._run
    monkeypatch.setitem(attention.AUTOMATIC, "cpu", ("triton",))
    monkeypatch.setattr(attention, "_run", lambda name, call: (found.append(name), run_(name, call))[1])
    return found


def placed(inputs):
    return {name: tensor.to(GPU) for name, tensor in inputs.items()}


@pytest.mark.parametrize("family", BACKBONES)
def test_outputs_are_those_of_the_definition(family, calls):
    model, inputs = tiny_model(BACKBONES[family], attn_implementation="sdpa"), inputs_for(family)
    expected = run(naive_twin(model), inputs, use_cache=False) if family == "llama" else run(naive_twin(model), inputs)
    assert set(calls) == set()
    found = run(model.to(GPU), placed(inputs), **({"use_cache": False} if family == "llama" else {}))
    assert set(calls) == {"triton"}
    assert_same([tensor.cpu() for tensor in tensors_of(found)], list(tensors_of(expected)))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "polarity"), [("bert", 1.0), ("vit", 0.0), ("llama", "learned")])
def test_gradients_are_those_of_the_cpu_path(family, polarity, calls, monkeypatch):
    changes = {"tanhmax_polarity": polarity, "attn_implementation": "sdpa"}
    model, inputs = tiny_model(BACKBONES[family], **changes), inputs_for(family)

    def gradients(model, inputs):
        model.zero_grad()
        next(tensors_of(model(**inputs))).square().sum().backward()
        return {name: parameter.grad.cpu().clone() for name, parameter in model.named_parameters() if parameter.grad is not None}

    found = gradients(model.to(GPU), placed(inputs))
    assert set(calls) == {"triton"}
    monkeypatch.setitem(attention.AUTOMATIC, "cpu", ("cpu",))
    expected = gradients(model.cpu(), inputs)
    assert set(calls) == {"triton", "cpu"}
    assert set(found) == set(expected)
    assert any("tanhmax" in name for name in found) == (polarity == "learned")
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static", "disable_compile": True}, {"use_cache": False}], ids=str)
def test_every_cache_writes_what_the_cpu_path_writes(cache, calls, monkeypatch):
    model, tokens = tiny_model(TanhMaxLlamaForCausalLM, attn_implementation="sdpa", eos_token_id=None), text()
    mask = torch.ones_like(tokens)
    mask[0, :4] = 0  # left padding
    options = {"max_new_tokens": 4, "do_sample": False, **cache}
    found = model.to(GPU).generate(tokens.to(GPU), attention_mask=mask.to(GPU), **options).cpu()
    assert set(calls) == {"triton"}
    monkeypatch.setitem(attention.AUTOMATIC, "cpu", ("cpu",))
    assert torch.equal(found, model.cpu().generate(tokens, attention_mask=mask, **options))
