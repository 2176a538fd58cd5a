"""Each map beside its formula written out in Python floats: values, gradients, masks, invariances; alone and inside models."""

import math

import pytest
import torch
from verdict_models import inputs_for, made

from recipes.verdict.data.batches import LABELS
from recipes.verdict.maps.functions import differential, sign_softmax, softmax
from recipes.verdict.maps.paired_queries import paired_queries
from recipes.verdict.maps.registry import MAPS, polarities_of
from recipes.verdict.models import build
from recipes.verdict.plan import CAUSAL, IMAGES, MASKED, SYNTHETIC, Size, Task

QUERIES, KEYS = 5, 7
SIGNED = [name for name, each in MAPS.items() if each.signed]
KINDS = (SYNTHETIC, MASKED, CAUSAL, IMAGES)


def shares(scores, kept):
    """Softmax of some of the numbers, 0 for the others."""
    if not any(kept):
        return [0.0] * len(scores)
    highest = max(score for score, keep in zip(scores, kept, strict=True) if keep)
    powers = [math.exp(score - highest) if keep else 0.0 for score, keep in zip(scores, kept, strict=True)]
    return [power / sum(powers) for power in powers]


def by_hand(name, scores, kept, second, gate):
    if name == "softmax":
        return shares(scores, kept)
    if name == "sign_softmax":
        sizes = shares([abs(score) for score in scores], kept)
        return [math.copysign(share, score) if score else 0.0 for score, share in zip(scores, sizes, strict=True)]
    return [one - gate * other for one, other in zip(shares(scores, kept), shares(second, kept), strict=True)]


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(3)
    scores, second = (4 * torch.randn(2, QUERIES, KEYS, generator=generator, dtype=torch.float64) for _ in range(2))
    keep = torch.rand(2, QUERIES, KEYS, generator=generator) < 0.6
    keep[0, 2], keep[1, 0] = False, True
    gate = torch.rand(2, QUERIES, 1, generator=generator, dtype=torch.float64)
    return scores, second, gate, keep


def weights_of(name, scores, second, gate, keep):
    return {
        "softmax": lambda: softmax(scores, keep),
        "sign_softmax": lambda: sign_softmax(scores, keep),
        "differential": lambda: differential(scores, second, gate, keep),
    }[name]()


@pytest.mark.parametrize("name", ["softmax", "sign_softmax", "differential"])
def test_the_formula(name, given):
    scores, second, gate, keep = given
    found = weights_of(name, *given)
    for place in range(2):
        for row in range(QUERIES):
            each = [tensor[place, row].tolist() for tensor in (scores, keep, second)]
            wanted = by_hand(name, each[0], each[1], each[2], gate[place, row, 0].item())
            torch.testing.assert_close(found[place, row], torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-14)
    assert not found[0, 2].any()  # no key is kept


@pytest.mark.parametrize("name", ["softmax", "sign_softmax", "differential"])
def test_gradients_and_rows_without_a_key(name, given):
    scores, second, gate, keep = (tensor[:1, 1:4] for tensor in given)

    def function(*inputs):
        return weights_of(name, *inputs, keep)

    inputs = [tensor.clone().requires_grad_() for tensor in (scores, second, gate)]
    assert torch.autograd.gradcheck(function, inputs, atol=1e-7)
    gradient = torch.autograd.grad(function(*inputs)[0, 1].square().sum(), inputs[0])[0]
    assert not gradient[0, 1].any()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["softmax", "sign_softmax", "differential"])
def test_a_hidden_score_does_not_matter(name, given):
    scores, second, gate, keep = given
    hidden = [torch.where(keep, tensor, torch.tensor(value)) for tensor, value in ((scores, math.inf), (second, -math.inf))]
    torch.testing.assert_close(weights_of(name, *hidden, gate, keep), weights_of(name, *given), rtol=0, atol=0)


def test_invariances(given):
    scores, second, gate, keep = given
    kept = keep.any(-1)
    found = sign_softmax(scores, keep)
    torch.testing.assert_close(sign_softmax(-scores, keep), -found)
    torch.testing.assert_close(found.abs().sum(-1), kept.double())
    assert not torch.allclose(sign_softmax(scores + 1, keep), found)
    shifted = differential(scores + 5, second - 3, gate, keep)
    torch.testing.assert_close(shifted, differential(scores, second, gate, keep))
    torch.testing.assert_close(shifted.sum(-1), (1 - gate[..., 0]) * kept)
    assert sign_softmax(torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)).eq(0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MAPS)
def test_every_model_trains_with_every_map_and_equal_parameters(name, kind):
    model, task = made(name, kind)
    baseline, _ = made("softmax", kind)
    unit = (3 if kind == CAUSAL else 2) * task.model.width + (kind != CAUSAL)
    difference = sum(each.numel() for each in model.parameters()) - sum(each.numel() for each in baseline.parameters())
    assert abs(difference) < unit * task.model.layers
    inputs = inputs_for(task)
    output = model(**inputs).logits
    assert output.isfinite().all()
    if name != "softmax":
        assert not torch.allclose(output, baseline(**inputs).logits, atol=1e-3)
    output.square().mean().backward()
    without = [key for key, each in model.named_parameters() if each.grad is None or not each.grad.isfinite().all()]
    assert not [key for key in without if "pooler" not in key and "token_type" not in key]
    own = [key for key, each in model.named_parameters() if (".gate." in key or "score_bias" in key) and each.grad.any()]
    assert bool(own) == (name in ("balanced", "differential"))
    assert bool(polarities_of(model)) == (name == "balanced")


@pytest.mark.parametrize("name", MAPS)
def test_padding_is_not_seen(name):
    model, task = made(name, SYNTHETIC)
    inputs = inputs_for(task)
    inputs["attention_mask"][:, 8:] = 0
    short = {key: value[:, :8] for key, value in inputs.items()}
    torch.testing.assert_close(model(**inputs).logits, model(**short).logits, atol=2e-5, rtol=2e-5)
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, 9] = 1 + other["input_ids"][:, 9] % 12
    torch.testing.assert_close(model(**other).logits, model(**inputs).logits, atol=0, rtol=0)


@pytest.mark.parametrize("name", MAPS)
def test_the_future_is_not_seen(name):
    model, task = made(name, CAUSAL)
    inputs = inputs_for(task)
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, 6] = 1 + other["input_ids"][:, 6] % 12
    before, after = model(**inputs).logits, model(**other).logits
    torch.testing.assert_close(after[:, :6], before[:, :6], atol=0, rtol=0)
    assert not torch.allclose(after[:, 6:], before[:, 6:])


def test_differential_attention_subtracts_two_softmax_models():
    """With equal halves and a gate of a half, it is half of softmax attention."""
    model, _ = made("differential", CAUSAL)
    attention = model.model.layers[0].self_attn
    found = paired_queries(attention)
    first = found.queries.weight.detach().clone().view(2, 2, 8, 16)[:, :1]
    with torch.no_grad():
        found.gate.weight.zero_()
        found.queries.weight.copy_(first.expand(2, 2, 8, 16).reshape(32, 16))
    hidden = torch.randn(2, 5, 16)
    positions = model.model.rotary_emb(hidden, torch.arange(5)[None])
    output = attention(hidden, position_embeddings=positions, attention_mask=None)[0]
    plain, _ = made("softmax", CAUSAL)
    other = plain.model.layers[0].self_attn
    other.load_state_dict({**attention.state_dict(), "q_proj.weight": first.reshape(16, 16)}, strict=False)
    torch.testing.assert_close(output, 0.5 * other(hidden, position_embeddings=positions, attention_mask=None)[0])
    with pytest.raises(ValueError, match="has one query per head, but differential attention needs two"):
        paired_queries(other)


def test_mlps_that_are_too_narrow_are_refused():
    narrow = Task("tiny", SYNTHETIC, Size(1, 16, 2, 4), 2, 3, length=11)
    with pytest.raises(ValueError, match="needs 304 parameters more than softmax, which MLPs of 4 units cannot give"):
        build(narrow, "differential", 13, 3, dropout=0.0, seed=0)


def test_labels_have_the_name_that_transformers_gives_them():
    assert LABELS == "labels"
