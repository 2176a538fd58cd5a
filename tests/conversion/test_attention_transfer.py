"""Attention transfer: heads come closer to what softmax computed; what is not trained stays; and what is refused."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from families import CACHE, LAYERS, run, text, tiny_model
from made_conversions import batches, hidden, silenced, trained

import hf_tanhmax
from hf_tanhmax import TanhMaxSettings, set_polarity, use_tanhmax
from hf_tanhmax.conversion.attention_transfer import transfer
from hf_tanhmax.conversion.gauge import align
from hf_tanhmax.conversion.originals import undo_refit
from hf_tanhmax.conversion.runner import Runner

TRAINED = {"bert": ("query", "key"), "vit": ("q_proj", "k_proj")}
every_family = pytest.mark.parametrize("family", TRAINED)


def aligned(family, dtype=torch.float64, **changes):
    model = trained(family, dtype, **changes)
    align(model, batches(family))
    return model


def llama(**changes):
    return tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM, **{"tanhmax_polarity": 0.3, "tanhmax_shift": "balanced", **changes})


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def changed(model, before):
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


# What it computes


@every_family
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_heads_come_closer_to_what_softmax_computed(family, dtype):
    model, data = aligned(family, dtype), batches(family)
    before = weights(model)
    report = transfer(model, data, steps=20, learning_rate=3e-3)
    assert len(report.error_before) == len(report.error_after) == LAYERS
    assert sum(report.error_after) < 0.6 * sum(report.error_before)
    assert report.cosine_after > report.cosine_before
    assert report.rows == 20 * (40 if family == "vit" else 35)
    assert {value.dtype for value in model.parameters()} == {dtype}
    parts = {name.split(".")[-2] for name in changed(model, before)}
    assert parts == set(TRAINED[family])
    assert set(report.originals) == changed(model, before)
    for name, value in report.originals.items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)
    assert not model.training
    assert all(value.grad is None and value.requires_grad for value in model.parameters())


@pytest.mark.parametrize("parts", [("value",), ("query",), ("query", "value")])
def test_a_layer_whose_heads_compute_nothing(parts):
    """In float32, in which a quotient of two numbers that are 0 or close to it is NaN soonest."""
    model = silenced(trained("bert", torch.float32), *parts)
    report = transfer(model, batches("bert"), steps=4)
    assert all(value.isfinite().all() for value in model.parameters())
    assert all(map(math.isfinite, report.error_before + report.error_after + report.negative_mass_before + report.negative_mass_after))


def test_shared_and_rotated_keys_are_trained_by_the_model_s_own_path():
    model, data = llama(), batches("bert")
    before = weights(model)
    report = transfer(model, data, steps=20, learning_rate=3e-3)
    assert sum(report.error_after) < 0.9 * sum(report.error_before)
    assert report.cosine_after > report.cosine_before
    assert {name.split(".")[-2] for name in changed(model, before)} == {"q_proj", "k_proj"}
    assert model.config.use_cache


def by_hand(layer, batch, states, floor):
    """The loss of a BERT layer without padding, from softmax, sinh and cosh."""
    module, outer = layer.attention.self, layer.attention.output.dense.weight
    sizes = (module.num_attention_heads, module.attention_head_size)
    query, key, value = (each(states).unflatten(-1, sizes).transpose(1, 2) for each in (module.query, module.key, module.value))
    scores = query @ key.mT / math.sqrt(sizes[1])
    signed = scores.sinh() / scores.cosh().sum(-1, keepdim=True)
    wanted, found = (F.linear((each @ value).transpose(1, 2).flatten(2), outer) for each in (scores.detach().softmax(-1), signed))
    mass = -signed.clamp(max=0).sum((0, 2, 3)) / signed.abs().sum((0, 2, 3))
    error = (found - wanted).square().sum() / wanted.square().sum()
    return error, mass, error + F.relu(floor - mass).mean()


def test_the_first_step_is_adam_s_along_the_gradient_of_the_loss():
    """Adam's first step is the rate times the sign of the gradient; the rate of the only step is the highest."""
    model = aligned("bert")
    data = {"input_ids": text(4, 11)}
    with torch.no_grad():
        set_polarity(model, 0.0)
        states = model(**data, output_hidden_states=True).hidden_states
        set_polarity(model, 1.0)
    expected, errors, masses = [], [], []
    for layer, state in zip(model.encoder.layer, states, strict=False):
        error, mass, loss = by_hand(layer, data, state, 0.6)
        errors.append(float(error.detach()))
        masses.append(mass.detach())
        module = layer.attention.self
        parameters = [module.query.weight, module.query.bias, module.key.weight, module.key.bias]
        signs = [gradient.sign() for gradient in torch.autograd.grad(loss, parameters)]
        expected += [value.detach() - 1e-3 * sign for value, sign in zip(parameters, signs, strict=True)]
    assert max(float(mass.max()) for mass in masses) < 0.6
    report = transfer(model, [data], steps=1, learning_rate=1e-3, floor=0.6)
    assert report.error_before == pytest.approx(errors)
    found = [
        value.detach()
        for layer in model.encoder.layer
        for part in (layer.attention.self.query, layer.attention.self.key)
        for value in (part.weight, part.bias)
    ]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_floor_presses_for_negative_weights():
    masses = []
    for floor in (0.0, 0.6):
        model = aligned("bert")
        masses.append(sum(transfer(model, batches("bert"), steps=30, learning_rate=3e-3, floor=floor).negative_mass_after))
    assert masses[1] > 1.5 * masses[0]


def test_the_floor_is_no_higher_than_a_balanced_shift_allows():
    assert transfer(llama(tanhmax_polarity=0.1), batches("bert"), steps=1, floor=0.5).floor == pytest.approx(0.1 / 1.1)
    assert transfer(llama(tanhmax_polarity=0.1), batches("bert"), steps=1, floor=0.05).floor == 0.05


def test_the_report_is_of_the_model_that_there_is():
    model, data = aligned("bert"), batches("bert", 1)
    set_polarity(model, 0.0)
    softmax = hidden(model, data[0])
    set_polarity(model, 1.0)
    before = hidden(model, data[0])
    report = transfer(model, data, steps=5, learning_rate=3e-3)
    after = hidden(model, data[0])
    cosines = [float(F.cosine_similarity(each, softmax, dim=-1).mean()) for each in (before, after)]
    assert [report.cosine_before, report.cosine_after] == pytest.approx(cosines)


# What it is trained with


def test_padding_does_not_matter():
    (data,), found = batches("bert", 1), []
    for each in (data, {name: F.pad(value, (0, 6)) for name, value in data.items()}):
        model = aligned("bert")
        transfer(model, [each], steps=5, learning_rate=3e-3)
        found.append(weights(model))
    torch.testing.assert_close(*found, atol=1e-7, rtol=0)


def test_the_seed_decides_the_order():
    found = []
    for seed in (0, 0, 1):
        model = aligned("bert")
        transfer(model, batches("bert"), steps=4, seed=seed)
        found.append(model.encoder.layer[0].attention.self.query.weight.detach())
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    assert not torch.equal(found[0], found[2])


class Loader:
    """Batches without a length, in their own order."""

    def __init__(self, data):
        self.data, self.passes = data, 0

    def __iter__(self):
        self.passes += 1
        return iter(list(self.data))


def test_batches_begin_again_where_they_end():
    loader = Loader(batches("bert"))
    assert transfer(aligned("bert"), loader, steps=7).rows == 7 * 35
    assert loader.passes >= 3
    assert transfer(aligned("bert"), iter(batches("bert")), steps=7).rows == 7 * 35


def test_heads_and_layers_that_are_not_chosen_stay_as_they_are():
    model = aligned("bert", tanhmax_layers=[0, 2], tanhmax_heads=[1])
    before = weights(model)
    report = transfer(model, batches("bert"), steps=3, learning_rate=3e-3)
    assert len(report.error_after) == len(report.negative_mass_after) == 2
    assert all(name.startswith(("encoder.layer.0.", "encoder.layer.2.")) for name in changed(model, before))
    for name in changed(model, before):
        difference = (dict(model.named_parameters())[name] - before[name]).detach().unflatten(0, (3, 7)).flatten(1)
        assert [bool(head.any()) for head in difference] == [False, True, False]


def test_a_shared_key_is_trained_if_all_its_heads_are_chosen():
    model = llama(tanhmax_heads=[0, 1, 2])
    before = weights(model)
    transfer(model, batches("bert"), steps=2, learning_rate=3e-3)
    module = model.model.layers[0].self_attn
    query = (module.q_proj.weight - before["model.layers.0.self_attn.q_proj.weight"]).detach().unflatten(0, (4, 6))
    key = (module.k_proj.weight - before["model.layers.0.self_attn.k_proj.weight"]).detach().unflatten(0, (2, 6))
    assert [bool(head.any()) for head in query] == [True, True, True, False]
    assert [bool(head.any()) for head in key] == [True, False]


def test_a_patched_model_and_the_mode_come_along():
    softmax = hf_tanhmax.to_softmax(trained("bert", torch.float32))
    align(softmax, batches("bert"))
    use_tanhmax(softmax, TanhMaxSettings(layers=[0]))
    softmax.train()
    report = transfer(softmax, batches("bert"), steps=2)
    assert softmax.training
    assert len(report.error_after) == 1
    with pytest.raises(ValueError, match=r"the projections of this model were refitted to polarity 1\.0"):
        hf_tanhmax.restore(softmax)
    undo_refit(softmax, report.originals)
    assert hf_tanhmax.restore(softmax) == 1


def test_the_config_says_which_polarity_the_projections_belong_to(tmp_path):
    model, data = aligned("bert", torch.float32), batches("bert")
    transfer(model, data, steps=2)
    assert model.config.tanhmax_refitted_polarity == {"polarity": 1.0, "shift": None, "layers": None, "heads": None}
    model.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path)
    assert again.config.tanhmax_refitted_polarity == model.config.tanhmax_refitted_polarity
    torch.testing.assert_close(run(again, data[0]).last_hidden_state, run(model, data[0]).last_hidden_state)
    with pytest.raises(ValueError, match=r"polarity 0\.5 was asked for, but the projections of this model were refitted to polarity 1\.0"):
        set_polarity(again, 0.5)
    with pytest.raises(ValueError, match=r"the projections of this TanhMaxBertModel belong to polarity 1\.0 already, so at"):
        transfer(again, data)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_originals_lead_back_to_softmax_to_the_bit(family):
    model = llama() if family == "llama" else aligned("bert", torch.float32)
    before, data = weights(model), batches("bert")
    report = transfer(model, data, steps=2)
    with pytest.raises(ValueError, match=r"the projections of this TanhMax.* were refitted to polarity .*; pass originals=, which"):
        hf_tanhmax.to_softmax(model)
    softmax = hf_tanhmax.to_softmax(model, originals=report.originals)
    for name, value in softmax.named_parameters():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)


# What is refused


def unchanged(model, error, match, data=None, **options):
    before = weights(model)
    with pytest.raises(error, match=match):
        transfer(model, batches("bert") if data is None else data, **options)
    torch.testing.assert_close(weights(model), before, atol=0, rtol=0, equal_nan=True)
    assert getattr(model.config, "tanhmax_refitted_polarity", None) is None


@pytest.mark.parametrize("steps", [0, -3, 1.5, True, "60"])
def test_steps_that_cannot_be(steps):
    unchanged(trained("bert"), ValueError, r"steps must be a whole number of 1 or more \(60 to 120 are usual\), but is", steps=steps)


@pytest.mark.parametrize("floor", [-0.1, 1, math.nan, True, "0.15"])
def test_a_floor_that_cannot_be(floor):
    unchanged(trained("bert"), ValueError, r"floor must be in \[0, 1\)", floor=floor)


@pytest.mark.parametrize("rate", [0, -1e-3, math.inf, math.nan, "1"])
def test_a_learning_rate_that_cannot_be(rate):
    unchanged(trained("bert"), ValueError, "learning_rate must be a number above 0, such as 3e-4", learning_rate=rate)


def test_batches_that_are_none():
    unchanged(trained("bert"), ValueError, "there are no batches to transfer with", [])
    unchanged(trained("bert"), ValueError, "there are no batches to transfer with", iter([]))
    unchanged(trained("bert"), TypeError, "batches must be a list of mappings of the model's inputs, .* but holds str", batches("bert")[0])


def test_inputs_for_another_kind_of_model():
    unchanged(trained("bert"), ValueError, "TanhMaxBertModel cannot run on a batch of pixel_values", batches("vit"))


@pytest.mark.parametrize("changes", [{"tanhmax_polarity": 0.0}, {"softmax": True}])
def test_a_model_without_negative_weights(changes):
    model = hf_tanhmax.to_softmax(trained("bert")) if "softmax" in changes else trained("bert", **changes)
    unchanged(model, ValueError, r"Model computes no TanhMax at a polarity above 0, so there is nothing to transfer to; convert it first")


def test_activations_that_are_not_finite():
    model = trained("bert", torch.float32)
    model.encoder.layer[1].attention.self.value.weight.data[0, 0] = math.nan
    unchanged(model, ValueError, r"the loss of encoder\.layer\.1\.attention\.self is NaN or infinite at step 1; look for inputs")


def test_what_failed_after_the_last_step_is_undone(monkeypatch):
    measured, measure = [], Runner.measure

    def fail(self, *given):
        measured.append(given)
        if len(measured) == 2:
            raise torch.OutOfMemoryError("no memory")
        return measure(self, *given)

    monkeypatch.setattr(Runner, "measure", fail)
    unchanged(trained("bert"), torch.OutOfMemoryError, "no memory", steps=1)


def test_a_rate_that_is_too_high(monkeypatch):
    """Weights leave float32 at the first step: whatever their signs, which rounding decides, projections are NaN then."""
    real = torch.optim.AdamW.step

    def step(self, *args):
        real(self, *args)
        for group in self.param_groups:
            torch._foreach_mul_([value.data for value in group["params"]], torch.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    model = trained("bert", torch.float32)
    unchanged(model, ValueError, "the errors of layers are NaN or infinite after step 1", steps=1, learning_rate=1e30)
    unchanged(model, ValueError, "NaN or infinite at step 2", steps=9, learning_rate=1e30)


def test_queries_without_a_projection_of_their_own():
    config = transformers.GPT2Config(vocab_size=53, n_embd=24, n_head=3, n_layer=1)
    model = transformers.GPT2Model(config)
    use_tanhmax(model)
    unchanged(model, NotImplementedError, r"GPT2Attention has no query projection .*, so it cannot be trained by attention transfer")


def test_an_adapter():
    model = trained("bert")
    layer = model.encoder.layer[0].attention.self
    layer.key = torch.nn.Sequential(copy.deepcopy(layer.key))
    unchanged(model, NotImplementedError, r"the key projection of BertSelfAttention is of class Sequential and no nn\.Linear, so it")


def test_a_cache_that_is_handed_in():
    model = llama()
    with torch.no_grad():
        cache = model(text(2, 3), use_cache=True)[CACHE]
    unchanged(
        model,
        NotImplementedError,
        "LlamaAttention keeps a cache of keys, so it cannot be trained by attention transfer; pass use_cache=False",
        [{"input_ids": text(2, 3), CACHE: cache}],
    )


def test_layers_that_are_not_called():
    model = tiny_model(transformers.BertModel, is_decoder=True, add_cross_attention=True)
    use_tanhmax(model)
    unchanged(model, ValueError, r"encoder\.layer\.0\.crossattention\.self was not called for these batches, so it cannot be trained")
