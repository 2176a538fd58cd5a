"""Every intervention against its definition, row by row over slices in float64; no key that is hidden gets weight."""

import math
from types import SimpleNamespace

import pytest
import torch
from families import LENGTH, text, tiny_model

import hf_tanhmax
from hf_tanhmax.choices import INTERVENTIONS
from hf_tanhmax.integration.hooks import AttentionCall, replace_attention
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.interpret.ablation.interventions import MASKED, SHUFFLED, intervention, permuted

BATCH, HEADS, KEY_HEADS, QUERIES, KEYS, SIZE = 2, 6, 3, 7, 7, 5
SEEDS = [(0, row) for row in range(BATCH)]
FIXED = [name for name in INTERVENTIONS if name not in SHUFFLED]
SETTINGS = {
    "plain": {"polarity": 1.0},
    "half": {"polarity": 0.4},
    "balanced": {"polarity": 0.3, "shift": "balanced"},
    "balanced of 1": {"polarity": 1.0, "shift": "balanced"},
    "heads": {"polarity": 1.0, "heads": (0, 3)},
    "learned": {"polarity": "learned", "heads": (0, 1, 5)},
    "balanced and learned": {"polarity": "learned", "shift": "balanced"},
}


def padding_and_causal():
    """Boolean: the future is hidden, of the second input the last keys too, and its first query sees nothing."""
    keep = torch.ones(BATCH, 1, QUERIES, KEYS, dtype=torch.bool).tril()
    keep[1, ..., -2:] = False
    keep[1, :, 0] = False
    return keep


MASKS = {
    "all": lambda: None,
    "hidden": padding_and_causal,
    "fading": lambda: torch.where(padding_and_causal(), torch.randn(BATCH, 1, QUERIES, KEYS).double(), -1e9),
}


def made_call(settings, mask=None, causal=False):
    """A call in float64 and the polarity of each head."""
    module = torch.nn.Module()
    module.is_causal, module.num_attention_heads = causal, HEADS
    values = {f"tanhmax_{name}": settings.get(name) for name in ("polarity", "heads", "shift")}
    module.config = SimpleNamespace(_attn_implementation="tanhmax_eager", **values)
    module.tanhmax_score_bias = torch.linspace(-0.2, 0.7, HEADS, dtype=torch.float64)
    learned = settings["polarity"] == "learned"
    polarity = torch.exp(-2 * module.tanhmax_score_bias) if learned else torch.tensor([settings["polarity"]] * HEADS, dtype=torch.float64)
    chosen = settings.get("heads")
    if chosen is not None:
        polarity = torch.tensor([float(polarity[head]) if head in chosen else 0.0 for head in range(HEADS)], dtype=torch.float64)
    query, key, value = (torch.randn(BATCH, heads, length, SIZE).double() for heads, length in ((HEADS, QUERIES), *[(KEY_HEADS, KEYS)] * 2))
    return AttentionCall(module, 2 * query, key, value, mask, {"scaling": SIZE**-0.5}), polarity.tolist()


def mapped(scores, levels, polarity, shift):
    """The map of one row of kept keys, written out."""
    if shift == "balanced":
        shares = [torch.softmax(levels + scores, 0), torch.softmax(levels - scores, 0)]
        return (shares[0] - polarity * shares[1]) / (1 + polarity)
    up, down = torch.exp(levels + scores), polarity * torch.exp(levels - scores)
    return (up - down) / (up + down).sum()


def changed(name, scores, levels, polarity, shift):
    """One row of kept keys after an intervention."""
    weights = mapped(scores, levels, polarity, shift)
    if polarity == 0:
        return weights
    if name in ("negatives_masked", "positives_masked"):
        left = weights >= 0 if name == "negatives_masked" else weights <= 0
        found = torch.zeros_like(weights)
        if left.any():
            found[left] = mapped(scores[left], levels[left], polarity, shift)
        return found
    positive, negative = weights.relu(), -(-weights).relu()
    if name == "negatives_zeroed":
        return positive
    if name == "positives_renormalised":
        whole = weights.sum().clamp(min=0) if shift else weights.abs().sum()
        return positive / positive.sum() * whole if positive.any() else positive
    if name == "negatives_spread":
        return positive + negative.mean()
    assert name == "made_positive"
    return weights.abs()


def rows_of(call, polarity):
    """Every row: where it is, its kept keys, their scores and levels, and the polarity."""
    mask = call.mask
    for batch in range(BATCH):
        for head in range(HEADS):
            scores = call.query[batch, head] @ call.key[batch, head // (HEADS // KEY_HEADS)].mT * SIZE**-0.5
            for query in range(QUERIES):
                keep, levels = torch.ones(KEYS, dtype=torch.bool), torch.zeros(KEYS).double()
                if mask is None and call.module.is_causal:
                    keep = torch.arange(KEYS) <= query
                elif mask is not None and mask.dtype == torch.bool:
                    keep = mask[batch, 0, query]
                elif mask is not None:
                    keep, levels = mask[batch, 0, query] > -9000, mask[batch, 0, query]
                yield (batch, head, query), keep, scores[query][keep], levels[keep], polarity[head]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", FIXED)
def test_every_row_is_what_is_defined(name, settings, mask):
    call, polarity = made_call(SETTINGS[settings], MASKS[mask](), causal=mask == "all")
    output, weights = intervention(name, SEEDS)(call)
    want = torch.zeros_like(weights)
    for place, keep, scores, levels, p in rows_of(call, polarity):
        if keep.any():
            want[place][keep] = changed(name, scores, levels, p, SETTINGS[settings].get("shift"))
    torch.testing.assert_close(weights, want, atol=1e-12, rtol=1e-9)
    values = call.value.repeat_interleave(HEADS // KEY_HEADS, 1)
    torch.testing.assert_close(output, (want @ values).transpose(1, 2), atol=1e-12, rtol=1e-9)
    as_is = call.compute_with_weights()[1]
    assert (weights - as_is).abs().max() > 0.01
    unsigned = [head for head in range(HEADS) if polarity[head] == 0]
    torch.testing.assert_close(weights[:, unsigned], as_is[:, unsigned], atol=1e-12, rtol=0)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_permutations_move_what_is_negative_and_nothing_else(settings, mask):
    call, polarity = made_call(SETTINGS[settings], MASKS[mask](), causal=mask == "all")
    before = call.compute_with_weights()[1]
    moved, shuffled = (intervention(name, SEEDS)(call)[1] for name in SHUFFLED)
    for place, keep, *_, p in rows_of(call, polarity):
        whole, one, other = before[place], moved[place], shuffled[place]
        assert torch.equal(one[~keep], torch.zeros_like(one[~keep]))
        assert torch.equal(other > 0, whole > 0)
        assert torch.equal(other[whole >= 0], whole[whole >= 0])
        assert torch.equal(other.sort().values, whole.sort().values)
        parts = (one - whole.relu())[keep].sort().values
        torch.testing.assert_close(parts, -(-whole[keep]).relu().sort(descending=True).values, atol=1e-12, rtol=0)
        if p == 0:
            assert torch.equal(one, whole)
    assert not torch.equal(moved, before)
    assert not torch.equal(shuffled, before)


def test_a_permutation_reaches_every_key_equally_often():
    values, among = torch.zeros(6000, 5), torch.tensor([True, False, True, True, True]).expand(6000, 5)
    values[:, 0], values[:, 1] = 1.0, 7.0
    found = permuted(values, among, torch.rand(6000, 5))
    assert (found[:, 1] == 7).all()
    shares = (found == 1).double().mean(0)
    assert shares[1] == 0
    torch.testing.assert_close(shares[[0, 2, 3, 4]], torch.full((4,), 0.25).double(), atol=5 * math.sqrt(0.19 / 6000), rtol=0)


@pytest.mark.parametrize("name", INTERVENTIONS)
@pytest.mark.parametrize("settings", [{}, {"tanhmax_shift": "balanced", "tanhmax_polarity": 0.5}], ids=["plain", "balanced"])
def test_the_future_stays_hidden(name, settings):
    model = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM, **settings)
    ids, modules = text(2, LENGTH), attention_modules(model)
    other = ids.clone()
    other[:, 6:] = 5 + ids[:, 6:] % 7
    with torch.no_grad(), replace_attention(modules, [intervention(name, [(layer, row) for row in range(2)]) for layer in range(3)]):
        first, second = (model(input_ids=given).logits for given in (ids, other))
    torch.testing.assert_close(first[:, :6], second[:, :6])
    assert (first[:, 6:] - second[:, 6:]).abs().max() > 0.01


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_padding_stays_hidden(name):
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    ids, modules = text(2, LENGTH), attention_modules(model)
    keep = torch.ones_like(ids)
    keep[:, 8:] = 0
    other = ids.clone()
    other[:, 8:] = 5 + ids[:, 8:] % 7
    with torch.no_grad(), replace_attention(modules, [intervention(name, [(layer, row) for row in range(2)]) for layer in range(3)]):
        first, second = (model(input_ids=given, attention_mask=keep).logits for given in (ids, other))
        alone = model(input_ids=ids[:, :8]).logits
    torch.testing.assert_close(first, second)
    if name not in SHUFFLED:  # whose noise depends on the length
        torch.testing.assert_close(first, alone, atol=1e-5, rtol=1e-4)


def test_half_precision_is_computed_and_returned():
    call, _ = made_call({"polarity": 1.0})
    half = AttentionCall(call.module, *(tensor.bfloat16() for tensor in (call.query, call.key, call.value)), None, call.options)
    for name in INTERVENTIONS:
        output, weights = intervention(name, SEEDS)(half)
        assert output.dtype == weights.dtype == torch.bfloat16
        if name in MASKED:
            torch.testing.assert_close(output.double(), intervention(name, SEEDS)(call)[0], atol=0.2, rtol=0.1)
