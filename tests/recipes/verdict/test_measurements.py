"""What is measured of trained models, beside what can be worked out otherwise."""

from types import SimpleNamespace

import pytest
import torch
from verdict_models import inputs_for, made

from hf_tanhmax.integration.hooks import replace_attention
from hf_tanhmax.integration.patching import attention_modules
from recipes.verdict.data.batches import LABELS
from recipes.verdict.maps.registry import MAPS
from recipes.verdict.measurements.activations import kurtosis, linear_layers, quantised, rounded
from recipes.verdict.measurements.attention import attention_signs
from recipes.verdict.measurements.contributions import _contributions, contributions_tau
from recipes.verdict.measurements.measure import measure
from recipes.verdict.measurements.signs import INTERVENTIONS, _changed, sign_effects
from recipes.verdict.plan import CAUSAL, IMAGES, MASKED, SYNTHETIC
from recipes.verdict.training import evaluate

SIGNED = [name for name, each in MAPS.items() if each.signed]


def batch_for(task, padded=True):
    inputs = inputs_for(task)
    if padded and "attention_mask" in inputs:
        inputs["attention_mask"][0, 7:] = 0
    return {**inputs, LABELS: torch.tensor([0, 2, 1])}


def test_softmax_has_one_sign_and_sinks_as_eager_weights_say():
    model, task = made("softmax", SYNTHETIC)
    batch = batch_for(task)
    found = attention_signs(model, "softmax", [batch, batch])
    assert (found["negative_mass"], found["two_signed"], found["polarities"]) == (0.0, 0.0, [])
    assert found["weight_sum"] == pytest.approx(1)
    model.set_attn_implementation("eager")
    inputs = {name: value for name, value in batch.items() if name != LABELS}
    weights = torch.stack(model(**inputs, output_attentions=True).attentions)  # [layers, batch, heads, queries, keys]
    real = inputs["attention_mask"].bool()
    first = weights[..., 0].transpose(0, 1).transpose(2, 3).transpose(1, 2)[real]  # [tokens, layers, heads]
    assert found["sink_share"] == pytest.approx(first.mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", SIGNED)
def test_signs_of_signed_maps(name):
    model, task = made(name, CAUSAL)
    batch = {"input_ids": inputs_for(task)["input_ids"], LABELS: torch.zeros(3)}
    found = attention_signs(model, name, [batch])
    assert 0 < found["negative_mass"] < 1
    assert 0 < found["two_signed"] <= 1
    if name == "sign_softmax":
        assert found["weight_sum"] == pytest.approx(1)
    assert len(found["polarities"]) == (2 if name == "balanced" else 0)


@pytest.mark.parametrize("kind", [SYNTHETIC, CAUSAL])
@pytest.mark.parametrize("name", SIGNED)
def test_interventions_do_what_they_say(name, kind):
    model, task = made(name, kind)
    batch = batch_for(task)
    seen = {}

    def _attend(call):
        seen["before"] = MAPS[name].weights(call)
        for each in INTERVENTIONS:
            seen[each] = _changed(each, name, [(0, row, 0) for row in range(3)])(call)[1]
        return call.weighted(seen["before"]) if name != "differential" else _changed("made_positive", name, [])(call)[0], None

    with torch.no_grad(), replace_attention(attention_modules(model)[:1], _attend):
        model(**{key: value for key, value in batch.items() if key != LABELS})
    before = seen["before"]
    negative, positive = before < 0, before > 0
    visible = negative | positive
    assert negative.any()
    assert not seen["negatives_masked"][negative].any()
    assert not seen["positives_masked"][positive].any()
    if name in ("tanhmax", "sign_softmax"):
        assert seen["negatives_masked"].min() >= 0
        assert seen["positives_masked"].max() <= 0
    torch.testing.assert_close(seen["made_positive"], before.abs())
    assert seen["positives_renormalised"].min() >= 0
    for each in ("negatives_spread", "negatives_permuted"):
        torch.testing.assert_close(seen[each].sum(-1), before.sum(-1), atol=1e-5, rtol=1e-5)
        assert not seen[each][~visible].any()
        assert not torch.allclose(seen[each], before)


@pytest.mark.parametrize("name", SIGNED)
def test_what_changes_cost_is_paired_with_the_model_as_it_is(name):
    model, task = made(name, SYNTHETIC)
    batches = [batch_for(task), batch_for(task, padded=False)]
    found = sign_effects(model, name, task, batches)
    assert found["as_is"] == evaluate(model, task, batches)["accuracy"]
    assert found["rows"] == 6
    assert all(effect["low"] <= effect["cost"] <= effect["high"] for effect in found["effects"].values())
    with torch.no_grad():
        model.classifier.weight.zero_()
    assert all(effect["cost"] == 0 for effect in sign_effects(model, name, task, batches)["effects"].values())
    assert sign_effects(model, "softmax", task, batches) == {}


class Fixed(torch.nn.Module):
    """A model with given hidden states."""

    def __init__(self, *states):
        super().__init__()
        self.states = states

    def forward(self, output_hidden_states, **inputs):
        return SimpleNamespace(hidden_states=[torch.zeros(1), *self.states])


def test_kurtosis():
    flat = torch.tensor([1.0, -1.0]).repeat(2, 3, 8)
    outlier = torch.zeros(2, 3, 16)
    outlier[..., 0] = 1
    share = 1 / 16
    peak = (share * (1 - share) ** 4 + (1 - share) * share**4) / (share * (1 - share)) ** 2
    batch = {"input_ids": torch.zeros(2, 3), "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]]), LABELS: torch.zeros(2)}
    assert kurtosis(Fixed(flat, outlier, flat), [batch]) == {"largest": pytest.approx(peak), "last": pytest.approx(1)}
    outlier[0, 2] = flat[0, 2]  # padding
    assert kurtosis(Fixed(outlier), [batch])["last"] == pytest.approx(peak)


def test_rounding():
    values = torch.randn(5, 7)
    for bits in (4, 8):
        found, levels = rounded(values, bits, dim=1), 2 ** (bits - 1) - 1
        scale = values.abs().amax(1, keepdim=True) / levels
        assert ((found - values).abs() <= scale / 2 + 1e-6).all()
        assert (found / scale).round().unique().numel() <= 2 * levels + 1
        torch.testing.assert_close(found.abs().amax(1), values.abs().amax(1))
    assert not rounded(torch.zeros(3), 8).any()


def test_zeros_are_rounded_to_zeros_where_subnormal_numbers_count_as_0(flushed_subnormals):
    assert not rounded(torch.zeros(3), 8).any()


@pytest.mark.parametrize("kind", [SYNTHETIC, MASKED, CAUSAL, IMAGES])
def test_models_are_rounded_and_put_back(kind):
    model, task = made("differential", kind)
    batch = batch_for(task)
    if kind in (MASKED, CAUSAL):
        batch[LABELS] = batch["input_ids"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = quantised(model, task, [batch])
    assert found["float"]["loss"] == evaluate(model, task, [batch])["loss"]
    assert abs(found["int8"]["loss"] - found["float"]["loss"]) < abs(found["int4"]["loss"] - found["float"]["loss"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(linear_layers(model)) == {CAUSAL: 2 * 8}.get(kind, 2 * 7)  # seven of LLaMA and six of the others, and the gate


@pytest.mark.parametrize("name", MAPS)
def test_contributions_sum_to_what_attention_gives_the_answer(name):
    model, task = made(name, SYNTHETIC)
    row = {key: value[:1] for key, value in inputs_for(task).items()}
    contributions, _, answer = _contributions(model, name, row)
    outputs = []
    hook = attention_modules(model)[-1].register_forward_hook(lambda _, __, output: outputs.append(output[0]))
    logit = model(**row).logits[0, answer]
    hook.remove()
    (gradient,) = torch.autograd.grad(logit, outputs[0])
    torch.testing.assert_close(contributions.sum(), (outputs[0] * gradient)[0, 0].sum(), atol=1e-5, rtol=1e-4)
    found = contributions_tau(model, name, [batch_for(task)])
    assert found["texts"] == 3
    assert -1 <= found["tau"] <= 1


@pytest.mark.parametrize("kind", [SYNTHETIC, MASKED, CAUSAL, IMAGES])
@pytest.mark.parametrize("name", ["balanced", "differential"])
def test_all_of_it(name, kind, plan):
    model, task = made(name, kind)
    batch = batch_for(task)
    if kind in (MASKED, CAUSAL):
        batch[LABELS] = batch["input_ids"]
    found = measure(model, name, task, plan, [batch, batch])
    assert set(found) == {"attention", "signs", "kurtosis", "quantised", "collapse"}
    assert len(found["collapse"]["attention_alone"]) == 3
    assert all(0 <= ratio <= 1 + 1e-6 for ratio in found["collapse"]["attention_alone"])
