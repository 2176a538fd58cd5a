"""Hooks on attention modules: they see every call, each module may have its own, and their name is for them alone."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from families import assert_same, run, softmax_twin, text, tiny_model

import hf_tanhmax
from hf_tanhmax.integration.hooks import AttentionCall, hooked_forward, is_signed, replace_attention, signed_heads
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


def test_a_hook_inside_a_hook_computes_the_same():
    model, inputs = tiny_model(hf_tanhmax.TanhMaxBertModel, tanhmax_heads=[0, 2]), {"input_ids": text(1, 5)}
    modules, signed = attention_modules(model), []

    def attend(call):
        signed.append((is_signed(call.module.config), signed_heads(call.module.config, 3).tolist()))
        return call.compute()

    with replace_attention(modules, attend), replace_attention(modules, attend):
        assert_same(run(model, inputs), run(tiny_model(hf_tanhmax.TanhMaxBertModel, tanhmax_heads=[0, 2]), inputs))
    assert signed == [(True, [True, False, True])] * 3


def test_softmax_stays_softmax_in_a_hook():
    model = softmax_twin(tiny_model(hf_tanhmax.TanhMaxBertModel))
    seen = []

    def attend(call):
        seen.append(signed_heads(call.module.config, 3).any())
        return call.compute()

    modules = attention_modules(model)
    with replace_attention(modules, attend), replace_attention(modules, attend):
        assert_same(
            run(model, {"input_ids": text(1, 5)}), run(softmax_twin(tiny_model(hf_tanhmax.TanhMaxBertModel)), {"input_ids": text(1, 5)})
        )
    assert not any(seen)


# What a query sees, with masks of every kind


def call_with(mask, **options):
    """A call of 2 inputs, 4 heads of which 2 share keys, 5 queries and 5 keys, by a module that computes TanhMax."""
    module = torch.nn.Module()
    module.config = SimpleNamespace(_attn_implementation="tanhmax_eager", tanhmax_polarity=1.0)
    module.is_causal = options.pop("causal", False)
    query, key, value = (torch.randn(2, heads, 5, 3, dtype=torch.float64) for heads in (4, 2, 2))
    return AttentionCall(module, query, key, value, mask, options)


KEPT = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(1)) > 0.4


@pytest.mark.parametrize(
    ("mask", "causal", "seen"),
    [
        (None, False, torch.ones(5, 5, dtype=torch.bool)),
        (None, True, torch.ones(5, 5, dtype=torch.bool).tril()),
        (KEPT, False, KEPT),
        (KEPT, True, KEPT),
        (torch.where(KEPT, -0.7, -1e9).double(), False, KEPT),
    ],
    ids=["all", "causal", "boolean", "boolean of a causal module", "additive"],
)
def test_what_is_visible_and_what_is_seen_of_it(mask, causal, seen):
    call, chosen = call_with(mask, causal=causal), torch.rand(2, 4, 5, 5) > 0.3
    assert torch.equal(call.visible, seen.expand(2, 4, 5, 5))
    assert torch.equal(call.compute_with_weights()[1] != 0, call.visible)
    less = call.seeing(chosen)
    assert torch.equal(less.visible, chosen & seen)
    output, weights = less.compute_with_weights()
    assert torch.equal(weights != 0, chosen & seen)
    torch.testing.assert_close(less.weighted(weights), output)
    everything = call.seeing(torch.ones_like(chosen))
    torch.testing.assert_close(everything.compute_with_weights()[0], call.compute_with_weights()[0])


def test_a_position_bias_hides_too_and_fades_what_is_left():
    bias = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    bias[..., 3] = -1e9
    call = call_with(KEPT, position_bias=bias)
    assert torch.equal(call.visible, KEPT & (torch.arange(5) != 3).expand(2, 4, 5, 5))
    want = call.compute_with_weights()[1]
    torch.testing.assert_close(call.seeing(torch.ones_like(call.visible)).compute_with_weights()[1], want)


def test_packed_sequences_do_not_see_each_other():
    call = call_with(None, cu_seq_lens_q=torch.tensor([0, 2, 5]), causal=True)
    call = replace(call, query=call.query[:1], key=call.key[:1], value=call.value[:1])
    want = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)).tril().bool()
    assert torch.equal(call.visible[0, 0], want)
    assert torch.equal(call.compute_with_weights()[1] != 0, call.visible)
