"""Patching a live model: what is counted, what is chosen, what comes back, and that nothing else is touched."""

import copy
import io
import pickle

import peft
import pytest
import torch
import transformers
from families import LAYERS, assert_same, differ, images, inputs_for, naive_twin, run, softmax_twin, text, tiny_config, tiny_model
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

import hf_tanhmax
from hf_tanhmax import TanhMaxSettings, restore, set_polarity, tanhmax_on, use_tanhmax
from hf_tanhmax.integration.patching import ConfigView, attention_modules
from hf_tanhmax.integration.registration import SCORE_BIAS

UPSTREAM = {"bert": transformers.BertModel, "vit": transformers.ViTModel, "llama": transformers.LlamaModel}
SAME_CLASS = {
    "bert": hf_tanhmax.TanhMaxBertModel,
    "vit": hf_tanhmax.TanhMaxViTModel,
    "llama": hf_tanhmax.TanhMaxLlamaModel,
}
every_family = pytest.mark.parametrize("family", UPSTREAM)


def softmax_model(family, **changes):
    return tiny_model(UPSTREAM[family], **changes)


def wanted(family, **changes):
    """TanhMax by the model class, which `tests/models` measures against an independent computation."""
    return run(tiny_model(SAME_CLASS[family], **changes), inputs_for(family))


# What is patched


@every_family
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_patching_is_the_model_class(family, implementation):
    model = softmax_model(family, attn_implementation=implementation)
    assert use_tanhmax(model) == LAYERS
    assert_same(run(model, inputs_for(family)), wanted(family))


@every_family
def test_layers_not_chosen_stay_softmax(family):
    model = softmax_model(family)
    assert use_tanhmax(model, TanhMaxSettings(layers=[1])) == 1
    assert [isinstance(module.config, ConfigView) for module in attention_modules(model)] == [False, True, False]
    found = run(model, inputs_for(family))
    assert_same(found, wanted(family, tanhmax_layers=[1]))
    weights = run(softmax_model(family, attn_implementation="eager"), inputs_for(family), output_attentions=True).attentions
    eager = softmax_model(family, attn_implementation="eager")
    use_tanhmax(eager, TanhMaxSettings(layers=[1]))
    signed = run(eager, inputs_for(family), output_attentions=True).attentions
    torch.testing.assert_close(signed[0], weights[0])
    assert (signed[1] < 0).any()
    assert not (signed[2] < 0).any()


@every_family
def test_heads_not_chosen_equal_softmax(family):
    model = softmax_model(family, attn_implementation="eager")
    softmax = run(model, inputs_for(family), output_attentions=True).attentions[0]
    use_tanhmax(model, TanhMaxSettings(layers=[0], heads=[0, 2]))
    signed = run(model, inputs_for(family), output_attentions=True).attentions[0]
    torch.testing.assert_close(signed[:, 1], softmax[:, 1], atol=1e-6, rtol=1e-5)
    assert (signed[:, 0] < 0).any()
    assert (signed[:, 2] < 0).any()


# What else a module asks and passes


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_causality_without_a_mask_is_that_of_the_implementation(implementation):
    """`eager` knows no causality but a mask's, so that a causal module without a mask sees all keys; BridgeTower's do."""
    model = softmax_model("bert", attn_implementation=implementation)
    attention = attention_modules(model)[0]
    attention.is_causal = True
    hidden = torch.randn(2, 7, model.config.hidden_size)
    wanted = attention(hidden)[0]
    use_tanhmax(model, TanhMaxSettings(polarity=0.0))
    torch.testing.assert_close(attention(hidden)[0], wanted, atol=2e-5, rtol=2e-4)
    use_tanhmax(model, TanhMaxSettings(polarity=0.0))  # a view of a view
    torch.testing.assert_close(attention(hidden)[0], wanted, atol=2e-5, rtol=2e-4)


class Carrying(transformers.BertModel):
    """Hands an input on to all that it calls."""

    def forward(self, input_ids, sizes=None, **kwargs):
        return super().forward(input_ids, sizes=sizes, **kwargs)


def test_inputs_of_the_model_that_come_along_are_ignored_as_upstream():
    model = Carrying(softmax_model("bert").config).eval()
    inputs = {"input_ids": text(), "attention_mask": torch.ones(2, 11)}
    use_tanhmax(model)
    assert_same(run(model, {**inputs, "sizes": torch.ones(2)}), run(model, inputs))
    with pytest.raises(NotImplementedError, match="passed the tensor 'lengths', which TanhMax attention does not know"):
        run(model, {**inputs, "lengths": torch.ones(2)})
    with pytest.raises(NotImplementedError, match="has no attention sinks"):
        run(model, {**inputs, "s_aux": torch.ones(2)})


# What is refused


def test_torchs_own_attention_is_seen():
    with pytest.raises(ValueError, match=r"its MultiheadAttention compute softmax themselves"):
        use_tanhmax(nn.TransformerEncoderLayer(6, 2))


def test_other_implementations_raise_when_they_are_met():
    model = softmax_model("bert")
    use_tanhmax(model)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match='attn_implementation="flash_attention_2" computes softmax, but this layer is set to TanhMax'):
        run(model, {"input_ids": text()})


def test_polarity_errors():
    model = softmax_model("bert")
    with pytest.raises(ValueError, match="BertModel computes no TanhMax, so it has no polarity to set; call use_tanhmax first"):
        set_polarity(model, 0.5)
    use_tanhmax(model)
    with pytest.raises(ValueError, match=r"polarity must be in \[0, 1\] \(0 is softmax, 1 is TanhMax\), but is 1.5"):
        set_polarity(model, 1.5)
    with pytest.raises(TypeError, match="polarity must be a number; a polarity per head is learned"):
        set_polarity(model, torch.ones(3))
    use_tanhmax(model, TanhMaxSettings(polarity="learned"))
    with pytest.raises(ValueError, match="the polarity of this model is learned, one score bias per head; it cannot be set"):
        set_polarity(model, 0.5)


def test_restoring_what_is_not_patched():
    with pytest.raises(ValueError, match="nothing to restore: BertModel computes no TanhMax"):
        restore(softmax_model("bert"))
    with pytest.raises(ValueError, match=r"nothing to restore: TanhMaxBertModel is TanhMax by its class; use hf_tanhmax.to_softmax"):
        restore(tiny_model(hf_tanhmax.TanhMaxBertModel))


# What comes back


@every_family
def test_restore_is_exact(family):
    model = softmax_model(family)
    configs = [module.config for module in attention_modules(model)]
    before, state = run(model, inputs_for(family)), list(model.state_dict())
    use_tanhmax(model, TanhMaxSettings(polarity="learned"))
    use_tanhmax(model, TanhMaxSettings(layers=[0]))
    assert differ(before, run(model, inputs_for(family)))
    assert restore(model) == LAYERS
    assert all(module.config is config for module, config in zip(attention_modules(model), configs, strict=True))
    assert_same(run(model, inputs_for(family)), before, atol=0, rtol=0)
    assert list(model.state_dict()) == state


@every_family
def test_context_managers_nest(family):
    model, inputs = softmax_model(family), inputs_for(family)
    softmax = run(model, inputs)
    with tanhmax_on(model, layers=[0]) as same:
        assert same is model
        one = run(model, inputs)
        with tanhmax_on(model, polarity=0.0):
            assert_same(run(model, inputs), softmax)
        with tanhmax_on(model, layers=[1, 2]):
            assert_same(run(model, inputs), wanted(family))
        assert_same(run(model, inputs), one, atol=0, rtol=0)
        assert_same(one, wanted(family, tanhmax_layers=[0]))
    assert_same(run(model, inputs), softmax, atol=0, rtol=0)
    assert all(module.config is model.config for module in attention_modules(model))


def test_the_context_manager_ends_after_an_error():
    model = softmax_model("bert")
    with pytest.raises(RuntimeError, match="inside"), tanhmax_on(model):
        raise RuntimeError("inside")
    assert all(module.config is model.config for module in attention_modules(model))


def test_a_block_cannot_learn():
    with (
        pytest.raises(ValueError, match="adds parameters to the model, which a block cannot undo"),
        tanhmax_on(softmax_model("bert"), polarity="learned"),
    ):
        pass


def test_a_class_of_ours_takes_blocks_and_gives_them_back():
    model = tiny_model(hf_tanhmax.TanhMaxBertModel)
    inputs = inputs_for("bert")
    before, softmax = run(model, inputs), run(softmax_twin(model), inputs)
    with tanhmax_on(model, polarity=0.0):
        assert_same(run(model, inputs), softmax)
    assert_same(run(model, inputs), before, atol=0, rtol=0)
    use_tanhmax(model, TanhMaxSettings(polarity=0.0))
    assert_same(run(model, inputs), softmax)
    assert restore(model) == LAYERS
    assert_same(run(model, inputs), before, atol=0, rtol=0)


def test_nothing_leaks():
    attention, masks = dict(AttentionInterface()), dict(AttentionMaskInterface())
    config = tiny_config("bert", upstream=True, attn_implementation="eager")
    model, sharing = transformers.BertModel(config), transformers.BertModel(config)
    before = run(sharing, inputs_for("bert"))
    label, fields = config._attn_implementation, config.to_dict()
    use_tanhmax(model, TanhMaxSettings(polarity=0.5))
    assert_same(run(sharing, inputs_for("bert")), before, atol=0, rtol=0)
    assert (config._attn_implementation, config.to_dict()) == (label, fields)
    assert (dict(AttentionInterface()), dict(AttentionMaskInterface())) == (attention, masks)


def test_a_view_passes_reads_and_writes_through():
    model = softmax_model("bert")
    use_tanhmax(model)
    view = attention_modules(model)[0].config
    view.hidden_dropout_prob = 0.25
    assert model.config.hidden_dropout_prob == 0.25
    assert view.hidden_size == model.config.hidden_size
    assert not hasattr(view, "no_such_field")
    set_polarity(model, 0.5)
    assert not hasattr(model.config, "tanhmax_polarity")


# Around other wrappers


@every_family
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_stay_patched_and_are_independent(family, how):
    model, inputs = softmax_model(family), inputs_for(family)
    softmax = run(model, inputs)
    use_tanhmax(model)
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    assert_same(run(twin, inputs), wanted(family))
    assert attention_modules(twin)[0].config._config is twin.config
    restore(model)
    assert_same(run(twin, inputs), wanted(family))
    restore(twin)
    assert_same(run(twin, inputs), softmax, atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by the old name
def test_inside_peft():
    model, inputs = softmax_model("llama"), inputs_for("llama")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    softmax = run(wrapped, inputs)
    assert use_tanhmax(wrapped) == LAYERS
    assert_same(run(wrapped, inputs), wanted("llama"))
    wrapped.train()(**inputs).last_hidden_state.sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in wrapped.parameters() if each.requires_grad)
    restore(wrapped)
    assert_same(run(wrapped, inputs), softmax, atol=0, rtol=0)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_inside_ddp(process_group):
    model, inputs = softmax_model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), inputs_for("bert")
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    assert use_tanhmax(wrapped) == LAYERS
    assert_same(run(wrapped, inputs), wanted("bert"))
    wrapped.train()(**inputs).last_hidden_state.square().sum().backward()
    assert model.encoder.layer[0].attention.self.query.weight.grad.abs().max() > 0
    assert restore(wrapped) == LAYERS


@pytest.mark.slow
def test_inside_compile():
    """Patching, polarity and restoring are seen by code that is compiled already."""
    torch._dynamo.reset()
    model, inputs = softmax_model("bert"), inputs_for("bert")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    softmax = run(compiled, inputs)
    assert use_tanhmax(compiled) == LAYERS
    assert_same(run(compiled, inputs), wanted("bert"))
    set_polarity(compiled, 0.0)
    assert_same(run(compiled, inputs), softmax)
    assert restore(compiled) == LAYERS
    assert_same(run(compiled, inputs), softmax)


# Polarity


@every_family
@pytest.mark.parametrize("polarity", [0.0, 0.3, 1.0])
def test_set_polarity(family, polarity):
    model = softmax_model(family)
    softmax = run(model, inputs_for(family))
    use_tanhmax(model)
    set_polarity(model, polarity)
    found = run(model, inputs_for(family))
    assert_same(found, wanted(family, tanhmax_polarity=polarity))
    if polarity == 0:
        assert_same(found, softmax)


@every_family
def test_learned_polarity_adds_a_parameter_that_learns(family):
    model = softmax_model(family).train()
    before = set(dict(model.named_parameters()))
    assert use_tanhmax(model, TanhMaxSettings(polarity="learned", layers=[0, 2], score_bias=1.5)) == 2
    added = {name: value for name, value in model.named_parameters() if name not in before}
    assert len(added) == 2
    assert all(name.endswith(SCORE_BIAS) for name in added)
    for value in added.values():
        torch.testing.assert_close(value.data, torch.full((tiny_config(family).num_attention_heads,), 1.5))
    model(**inputs_for(family)).last_hidden_state.square().sum().backward()
    assert all(value.grad.abs().min() > 0 for value in added.values())
    restore(model)
    assert set(dict(model.named_parameters())) == before


@every_family
def test_learned_polarity_is_tanhmax_with_a_score_bias(family):
    """Polarity exp(-2c), the same for every head, computes what the number computes."""
    model = softmax_model(family)
    use_tanhmax(model, TanhMaxSettings(polarity="learned", score_bias=0.4))
    number = softmax_model(family)
    use_tanhmax(number, TanhMaxSettings(polarity=float(torch.exp(torch.tensor(-0.8)))))
    assert_same(run(model, inputs_for(family)), run(number, inputs_for(family)))


def test_learned_polarity_in_some_heads():
    model = softmax_model("vit", attn_implementation="eager")
    softmax = run(model, {"pixel_values": images()}, output_attentions=True).attentions[0]
    use_tanhmax(model, TanhMaxSettings(polarity="learned", heads=[1], score_bias=0.0))
    found = run(model, {"pixel_values": images()}, output_attentions=True).attentions[0]
    torch.testing.assert_close(found[:, [0, 2]], softmax[:, [0, 2]], atol=1e-6, rtol=1e-5)
    assert (found[:, 1] < 0).any()


def test_the_model_class_is_tanhmax():
    """The anchor of this file: what `wanted` compares with is TanhMax by an independent computation."""
    for family, cls in SAME_CLASS.items():
        model = tiny_model(cls)
        assert_same(run(model, inputs_for(family)), run(naive_twin(model), inputs_for(family)))


# A balanced shift


@every_family
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_balanced_shift_by_class_and_by_patching(family, implementation):
    ours = tiny_model(SAME_CLASS[family], tanhmax_shift="balanced", tanhmax_polarity=0.3, attn_implementation=implementation)
    model, inputs = softmax_model(family, attn_implementation=implementation), inputs_for(family)
    softmax, expected = run(model, inputs), run(naive_twin(ours, balanced=0.3), inputs)
    assert_same(run(ours, inputs), expected)
    assert differ(wanted(family, tanhmax_polarity=0.3), expected)
    use_tanhmax(model, TanhMaxSettings(polarity=0.3, shift="balanced"))
    assert_same(run(model, inputs), expected)
    with tanhmax_on(model, polarity=0.3):
        assert_same(run(model, inputs), wanted(family, tanhmax_polarity=0.3))
        with tanhmax_on(model, polarity=0.3, shift="balanced"):
            assert_same(run(model, inputs), expected)
    set_polarity(model, 0.0)
    assert_same(run(model, inputs), softmax)
    set_polarity(model, 0.3)
    assert_same(run(model, inputs), expected)
    restore(model)
    assert_same(run(model, inputs), softmax, atol=0, rtol=0)


def test_a_balanced_shift_in_some_heads_with_a_learned_polarity():
    """Other heads are softmax, and the polarity has a gradient, by both implementations the same."""
    inputs, found = inputs_for("llama"), []
    for implementation in ("eager", "sdpa"):
        model = softmax_model("llama", attn_implementation=implementation)
        use_tanhmax(model, TanhMaxSettings(polarity="learned", heads=[1], score_bias=0.4, shift="balanced"))
        model.train()(**inputs).last_hidden_state.square().sum().backward()
        found.append([getattr(module, SCORE_BIAS).grad for module in attention_modules(model)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
        assert (one.nonzero().flatten() == torch.tensor([1])).all()


def test_a_view_says_its_own_shift():
    model = tiny_model(hf_tanhmax.TanhMaxBertModel, tanhmax_shift="balanced")
    assert [module.config.tanhmax_shift for module in attention_modules(model)] == ["balanced"] * LAYERS
    with tanhmax_on(model):
        assert [module.config.tanhmax_shift for module in attention_modules(model)] == [None] * LAYERS
    assert model.config.tanhmax_shift == "balanced"


def test_another_shift_is_refused():
    with (
        pytest.raises(ValueError, match="shift must be None or \"balanced\", but is 'centred'"),
        tanhmax_on(softmax_model("bert"), shift="centred"),
    ):
        pass
