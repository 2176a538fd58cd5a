"""A negative mass is spread over heads: with the least damage, measured as it is defined, and refused where it cannot be."""

import pytest
import torch
from families import BACKBONES, run, text, tiny_model

from hf_tanhmax.conversion.allocation import allocate, least_damage
from hf_tanhmax.conversion.refitting import refit
from hf_tanhmax.integration.registration import SCORE_BIAS

LEARNED = {"tanhmax_polarity": "learned", "tanhmax_shift": "balanced"}


def student(family="llama", **changes):
    model = tiny_model(BACKBONES[family], **{**LEARNED, **changes}).double()
    torch.manual_seed(1)
    for module in model.modules():  # scores that are far apart, as those of a trained model
        if hasattr(module, "q_proj"):
            module.q_proj.weight.data.normal_(0, 1.5)
    return model


def batches(count=3):
    mask = torch.ones(4, 11, dtype=torch.int64)
    mask[1, 8:] = 0
    return [{"input_ids": text(4, 11).roll(shift, 1), "attention_mask": mask} for shift in range(count)]


def biases(model):
    return [value.clone() for name, value in model.named_parameters() if name.endswith(SCORE_BIAS)]


@pytest.mark.parametrize("mass", [0.05, 0.23, 0.47])
def test_no_other_polarities_of_that_mass_do_less_damage(mass):
    torch.manual_seed(0)
    damage = torch.rand(7, dtype=torch.float64).square() + 1e-3
    found = least_damage(damage, mass)
    assert (found / (1 + found)).mean() == pytest.approx(mass, rel=1e-9)
    assert bool((found <= 1).all())
    for _ in range(50):
        share = (found / (1 + found) + 0.01 * torch.randn(7, dtype=torch.float64)).clamp(0, 0.5)
        other = share / (1 - share)
        short = mass - float(share.mean())
        assert (damage * other.square()).sum() > (damage * found.square()).sum() - 60 * max(0.0, -short) - 60 * max(0.0, short)


def test_heads_that_do_the_same_damage_get_the_same_polarity():
    found = least_damage(torch.tensor([0.3, 0.3, 0.3, 2.4]), 0.2)
    assert bool((found[:3] == found[0]).all())
    assert found[3] < found[0]


def test_heads_that_do_no_damage_get_the_same_polarity(either_subnormals):
    torch.testing.assert_close(least_damage(torch.zeros(3), 0.2), torch.full((3,), 0.25, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_damage_is_what_its_definition_says():
    model = student()
    layer, seen = model.layers[0], []
    handle = layer.register_forward_pre_hook(lambda _, positional, keyword: seen.append(positional[0]), with_kwargs=True)
    report = allocate(model, batches(1), mass=0.2)
    handle.remove()
    attention, hidden, real = layer.self_attn, seen[0], batches(1)[0]["attention_mask"].bool()
    heads, width = biases(model)[0].numel(), attention.head_dim
    normed = layer.input_layernorm(hidden)
    cosine, sine = model.rotary_emb(hidden, torch.arange(11)[None])

    def turned(states):
        states = states.view(4, 11, -1, width).transpose(1, 2)
        half = torch.cat([-states[..., width // 2 :], states[..., : width // 2]], -1)
        return states * cosine[:, None] + half * sine[:, None]

    query, key = turned(attention.q_proj(normed)), turned(attention.k_proj(normed))
    value = attention.v_proj(normed).view(4, 11, -1, width).transpose(1, 2)
    key, value = (each.repeat_interleave(heads // each.shape[1], 1) for each in (key, value))
    keep = torch.ones(11, 11, dtype=torch.bool).tril() & real[:, None, None, :]
    scores = query @ key.mT * width**-0.5
    positive, negative = ((sign * scores).masked_fill(~keep, -torch.inf).softmax(-1) @ value for sign in (1, -1))
    stream = hidden + attention.o_proj(positive.transpose(1, 2).flatten(2))
    weight = 1 / stream.square().sum(-1)[real]
    for head in range(heads):
        rows = negative[:, head][real] @ attention.o_proj.weight[:, head * width : (head + 1) * width].T
        mean = (weight[:, None] * rows).sum(0) / weight.sum()
        expected = (weight * (rows - mean).square().sum(-1)).mean()
        torch.testing.assert_close(report.damage[0][head], expected.item(), rtol=1e-6, atol=0)


def test_the_mass_is_what_was_asked_for_and_falls_over_the_layers():
    model = student()
    report = allocate(model, batches(), mass=0.12, fall=0.8)
    assert report.measured == pytest.approx(0.12, rel=0.011)
    assert report.rows == 3 * (4 * 11 - 3)
    for bias, polarity in zip(biases(model), report.polarity, strict=True):
        torch.testing.assert_close((-2 * bias).exp(), torch.tensor(polarity, dtype=bias.dtype))
    shares = [sum(p / (1 + p) for p in layer) for layer in report.polarity]
    assert shares[0] > 1.5 * shares[-1]
    assert "negative" in report.describe()
    refit(model, batches())  # which belongs to these polarities
    with pytest.raises(ValueError, match="refitted already; choose polarities before"):
        allocate(model, batches())


def test_softmax_is_still_there_and_a_failure_leaves_the_model_as_it_was():
    model = student()
    before = biases(model)
    with pytest.raises(ValueError, match=r"cannot be reached where the first layer has 1\.95 times that; 0\.000 was"):
        allocate(model, batches(), mass=0.45, fall=1.9)
    flat = tiny_model(BACKBONES["bert"], **LEARNED).double()  # its scores are so even that P and N nearly are the same
    with pytest.raises(ValueError, match=r"a negative mass of 0.3 cannot be reached .* times that; 0\.[12]"):
        allocate(flat, batches(), mass=0.3, fall=1)
    for mine, theirs in zip(before, biases(model), strict=True):
        assert torch.equal(mine, theirs)
    assert all(bool((each == 3).all()) for each in biases(flat))
    with pytest.raises(ValueError, match="there are no batches to measure with"):
        allocate(model, [])
    with pytest.raises(TypeError, match="mappings of the model's inputs"):
        allocate(model, [[1]])
    model.layers[0].mlp.down_proj.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite"):
        allocate(model, batches())


@pytest.mark.parametrize(
    ("changes", "match"), [({"mass": 0.5}, "between 0 and 0.5"), ({"mass": 0}, "between 0 and 0.5"), ({"fall": 2}, "below 2")]
)
def test_settings_out_of_range_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        allocate(student(), batches(), **changes)


@pytest.mark.parametrize("changes", [{"tanhmax_polarity": 0.3}, {"tanhmax_shift": None}, {"tanhmax_heads": [0]}])
def test_other_settings_are_refused(changes):
    with pytest.raises(ValueError, match="has no polarity per head with a balanced shift"):
        allocate(student(**changes), batches())


def test_bert_is_spread_too():
    model = tiny_model(BACKBONES["bert"], **LEARNED).double()
    report = allocate(model, batches(), mass=0.1)
    assert report.measured == pytest.approx(0.1, rel=0.011)
    assert run(model, batches()[0]).last_hidden_state.isfinite().all()
