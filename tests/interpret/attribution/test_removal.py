"""Occlusion and KernelSHAP against brute force over subsets, captum's own numbers, and a model whose answer is known."""

import itertools
import math
import sys
from dataclasses import replace

import pytest
import torch
from families import images, text, tiny_model
from transformers import PreTrainedConfig

import hf_tanhmax
from hf_tanhmax.choices import METHODS, SAMPLED_METHODS
from hf_tanhmax.interpret import explain
from hf_tanhmax.interpret.attribution.evaluation_mode import evaluation_mode
from hf_tanhmax.interpret.attribution.methods import AttributionOptions, attribute, scored_again
from hf_tanhmax.interpret.attribution.removal import Removal, kernel_shap, occlusion
from hf_tanhmax.interpret.attribution.target import Target
from hf_tanhmax.interpret.inputs.encoding import EncodedInput, encode

BERT = hf_tanhmax.TanhMaxBertForSequenceClassification
LLAMA = hf_tanhmax.TanhMaxLlamaForCausalLM
captum = pytest.importorskip("captum.attr")


def removal_of(count, cls=BERT, position=None):
    model = tiny_model(cls)
    return Removal(model, encode(model, {"input_ids": text(1, count)}), Target(1, position, ""), None, 0)


def shapley(value, count):
    """Shapley values by their definition, from the value of every subset."""
    values = {subset: value(subset) for subset in itertools.product((0, 1), repeat=count)}
    found = []
    for player in range(count):
        without = [subset for subset in values if not subset[player]]
        found.append(
            sum(
                math.factorial(sum(subset)) * math.factorial(count - sum(subset) - 1) / math.factorial(count)
                * (values[(*subset[:player], 1, *subset[player + 1 :])] - values[subset])
                for subset in without
            )
        )  # fmt: skip
    return torch.tensor(found)


@pytest.mark.parametrize(("cls", "position"), [(BERT, None), (LLAMA, 3)])
def test_four_tokens_by_brute_force(cls, position):
    model, ids = tiny_model(cls), text(1, 4)

    @torch.no_grad()
    def value(subset):
        logits = model(input_ids=torch.where(torch.tensor([subset]) > 0, ids, 0)).logits
        return float(logits[0, 1] if position is None else logits[0, position, 1])

    found = kernel_shap(removal_of(4, cls, position))
    torch.testing.assert_close(found.values, shapley(value, 4), atol=1e-5, rtol=1e-5)
    assert found.notes == ()
    assert abs(found.conservation.gap) < 1e-5
    alone = [value((1, 1, 1, 1)) - value(tuple(int(other != player) for other in range(4))) for player in range(4)]
    removed = occlusion(removal_of(4, cls, position))
    torch.testing.assert_close(removed.values, torch.tensor(alone), atol=1e-5, rtol=1e-5)
    assert removed.conservation.expected == pytest.approx(value((1, 1, 1, 1)) - value((0, 0, 0, 0)), abs=1e-5)


class Linear(torch.nn.Module):
    """A stand-in for a model, whose logit is a sum over tokens: each method must find the terms."""

    config = PreTrainedConfig()

    def forward(self, input_ids):
        return type("Output", (), {"logits": torch.stack([torch.zeros(len(input_ids)), input_ids.double().sum(1)], 1)})()


def test_terms_of_a_sum_are_found():
    encoded = EncodedInput({"input_ids": torch.tensor([[5, 3, -2, 7, 1, 4]])}, tuple("abcdef"), (None, 0, 1, 2, 3, None), tuple("bcde"))
    removal = Removal(Linear(), encoded, Target(1, None, ""), None, 1)
    want = torch.tensor([0.0, 2, -3, 6, 0, 0])
    for found in (occlusion(removal), kernel_shap(removal), kernel_shap(removal, samples=15)):
        torch.testing.assert_close(found.values, want, atol=1e-4, rtol=1e-4)
        assert (found.conservation.expected, found.conservation.is_far) == (5.0, False)


def test_drawn_subsets_are_captums():
    removal = removal_of(8)
    found = kernel_shap(removal, samples=60, seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        want = captum.KernelShap(removal.logits).attribute(torch.ones(1, 8), baselines=0, n_samples=60, perturbations_per_eval=7)[0]
    torch.testing.assert_close(found.values, want, atol=1e-3, rtol=1e-3)
    assert "KernelSHAP draws 60 of the 2.6e+02 subsets of 8 tokens" in found.notes[0]
    assert not found.conservation.is_far
    torch.testing.assert_close(kernel_shap(removal, samples=60, seed=3).values, found.values, rtol=0, atol=0)


def test_copies_that_are_the_same_are_run_once():
    rows = []

    class Counted(Linear):
        def forward(self, input_ids):
            rows.extend(map(tuple, input_ids.tolist()))
            return super().forward(input_ids)

    encoded = EncodedInput({"input_ids": torch.tensor([[5, 3, -2, 7]])}, tuple("abcd"), (0, 1, 2, 3), tuple("abcd"))
    removal = Removal(Counted(), encoded, Target(1, None, ""), None, 1)
    present = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1]])
    assert removal.logits(present).tolist() == [11, 4, 11, 13]
    assert sorted(rows) == sorted({(5, 1, -2, 7), (1, 1, 1, 1), (5, 3, -2, 7)})
    rows.clear()
    kernel_shap(removal, samples=15)
    assert len(rows) < 15 + 2  # captum asks for all players once more, and the ends are run once


def test_another_seed_needs_no_other_pass():
    pytest.importorskip("captum")
    model, inputs = tiny_model(BERT), {"input_ids": text(1, 8)}
    options = AttributionOptions(("weights",), [0, 1, 2], 0, samples=30)
    with evaluation_mode(model):
        found = attribute(model, inputs, 1, options)
        for seed in (0, 3):
            wanted = attribute(model, inputs, 1, replace(options, methods=("kernel_shap",), seed=seed)).scores["kernel_shap"]
            again = scored_again(model, found, "kernel_shap", replace(options, seed=seed))
            assert torch.equal(again, wanted)


def test_only_sampled_methods_depend_on_a_seed():
    pytest.importorskip("captum")
    model, inputs = tiny_model(BERT), {"input_ids": text(1, 8)}

    def scores(seed):
        options = AttributionOptions(METHODS, [0, 1, 2], 0, samples=30, steps=4, seed=seed)
        with evaluation_mode(model):
            return attribute(model, inputs, 1, options).scores

    first, again, other = scores(0), scores(0), scores(1)
    changed = {method for method in METHODS if not torch.equal(first[method], other[method])}
    assert changed == set(SAMPLED_METHODS)
    assert all(torch.equal(first[method], again[method]) for method in METHODS)


def test_occlusion_is_captums():
    model, ids = tiny_model(BERT), text(1, 6)
    want = captum.FeatureAblation(lambda tokens: model(input_ids=tokens).logits[:, 1]).attribute(ids, baselines=0)[0]
    torch.testing.assert_close(occlusion(removal_of(6)).values, want.detach(), atol=1e-5, rtol=1e-5)


def test_one_player():
    removal = removal_of(1)
    torch.testing.assert_close(kernel_shap(removal).values, occlusion(removal).values)


def test_patches_are_removed_from_the_picture():
    model, pixels = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification), images(1)
    found = explain(model, {"pixel_values": pixels}, 1, methods=("occlusion", "kernel_shap"))
    without = pixels.clone()
    without[..., 5:10, 10:15] = 0  # row 1, column 2
    with torch.no_grad():
        loss = float((model(pixel_values=pixels).logits - model(pixel_values=without).logits)[0, 1])
        change = float((model(pixel_values=pixels).logits - model(pixel_values=torch.zeros_like(pixels)).logits)[0, 1])
    assert found.tokens[6] == "1, 2"
    assert float(found.scores["occlusion"][6]) == pytest.approx(loss, abs=1e-5)
    assert float(found.scores["occlusion"][0]) == 0
    assert float(found.scores["kernel_shap"].sum()) == pytest.approx(change, abs=1e-4)
    assert found.conservation["kernel_shap"].expected == pytest.approx(change, abs=1e-5)


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match=r"KernelSHAP of 5 tokens or patches needs at least 7 samples, but samples is 6"):
        explain(tiny_model(BERT), {"input_ids": text(1, 5)}, methods=("kernel_shap",), samples=6)


@pytest.mark.parametrize("method", ["occlusion", "kernel_shap"])
def test_a_missing_captum_is_a_sentence(monkeypatch, method):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r'occlusion and KernelSHAP need captum, which is not installed: pip install "hf-tanhmax\[inter'):
        explain(tiny_model(BERT), {"input_ids": text(1, 4)}, methods=(method,))
