"""Hooks on attention modules: they see every call, each module may have its own, and their name is for them alone."""

import pytest
import torch
from families import softmax_twin, text, tiny_model

import hf_tanhmax
from hf_tanhmax.integration.hooks import hooked_forward, is_signed, replace_attention
from hf_tanhmax.integration.patching import attention_modules


def test_the_name_is_for_hooked_modules_only():
    model = softmax_twin(tiny_model(hf_tanhmax.TanhMaxBertModel))
    model.set_attn_implementation("tanhmax_hooked")
    with pytest.raises(ValueError, match='"tanhmax_hooked" is no attention implementation to choose'):
        model(input_ids=text(1, 5))
    assert hooked_forward.__doc__


def test_modules_may_call_a_function_each():
    model, calls = tiny_model(hf_tanhmax.TanhMaxBertModel), []
    modules = attention_modules(model)

    def attend(name):
        def zeros(call):
            calls.append(name)
            return torch.zeros_like(call.query).transpose(1, 2).contiguous(), None

        return zeros

    with replace_attention(modules[:2], [attend("first"), attend("second")]), torch.no_grad():
        model(input_ids=text(1, 5))
    assert calls == ["first", "second"]


def test_signed_is_what_has_a_polarity_above_zero():
    def signed(**changes):
        return [is_signed(module.config) for module in attention_modules(tiny_model(hf_tanhmax.TanhMaxBertModel, **changes))]

    assert signed() == [True] * 3
    assert signed(tanhmax_polarity=0.0) == [False] * 3
    assert signed(tanhmax_polarity=0.2, tanhmax_shift="balanced") == [True] * 3
    assert signed(tanhmax_polarity=0.0, tanhmax_shift="balanced") == [False] * 3
    assert signed(tanhmax_polarity="learned") == [True] * 3
    assert signed(tanhmax_layers=[1]) == [False, True, False]
    assert [is_signed(module.config) for module in attention_modules(softmax_twin(tiny_model(hf_tanhmax.TanhMaxBertModel)))] == [False] * 3
