"""Ablations of models whose use of their negative weights is known, by construction; and intervals that cover."""

import math
import re

import numpy
import pytest
import torch
from families import assert_same, images, run, softmax_twin, text, tiny_model
from PIL import Image
from saved_models import TEXTS, processor_for

import hf_tanhmax
from hf_tanhmax.ablation import ACCURACY, LOSS
from hf_tanhmax.choices import INTERVENTIONS
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.interpret import ablate_negatives
from hf_tanhmax.interpret.ablation.ablate import paired_intervals

BERT = hf_tanhmax.TanhMaxBertForSequenceClassification
# Score / 3 and value of each token that a constructed model knows. The first one reads the others.
READER, PLUS, MINUS, PLUS_ONE, PLUS_OTHER, MINUS_ONE, MINUS_OTHER, ZERO_ONE, ZERO_OTHER = range(3, 12)
TOKENS = {
    READER: (0, 0),
    PLUS: (1, 0),
    MINUS: (-0.5, 0),
    PLUS_ONE: (1, 1),
    PLUS_OTHER: (1, -1),
    MINUS_ONE: (-1, 1),
    MINUS_OTHER: (-1, -1),
    ZERO_ONE: (0, 1.7),
    ZERO_OTHER: (0, -1.7),
}


def constructed(*, constant_value=0.0):
    """A classifier of one layer: class 1 if the sum of weights times values at the first token is above -0.003, else class 0."""
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 4}
    model = tiny_model(BERT, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        embeddings, layer = model.bert.embeddings, model.bert.encoder.layer[0]
        for norm in (embeddings.LayerNorm, layer.attention.output.LayerNorm, layer.output.LayerNorm):
            norm.weight.fill_(1)
        for token, (score, value) in TOKENS.items():  # with mean 0 and mean square 1, which layer norm leaves as they are
            half = torch.tensor([score, value, 0.1, math.sqrt(3.99 - score**2 - value**2)])
            embeddings.word_embeddings.weight[token] = torch.cat([half, -half])
        attention = layer.attention.self
        attention.query.bias[0], attention.key.weight[0, 0] = 3 * math.sqrt(8), 1.0
        attention.value.weight[0, 1], attention.value.bias[0] = 1.0, constant_value
        layer.attention.output.dense.weight[2, 0] = 30.0
        model.bert.pooler.dense.weight[0, 2] = 1.0
        model.classifier.weight[1, 0], model.classifier.weight[0, 0] = 1.0, -1.0
    return model


def rows_of(*classes, count=60):
    """Rows of one class or the other, each the reader and the tokens of its class."""
    labels = torch.arange(count) % 2
    return [{"input_ids": torch.tensor([[READER, *classes[label]] for label in labels]), "labels": labels}]


def measured(model, rows, *given, **options):
    return ablate_negatives(model, rows, *given, progress=False, **options)


def test_a_model_that_needs_its_negative_weights():
    """All values are 1, so the sum of the weights decides, wherever they are."""
    found = measured(constructed(constant_value=1.0), rows_of((MINUS, MINUS), (PLUS, PLUS)))
    assert found.as_is == 1
    for name in ("negatives_masked", "negatives_zeroed", "positives_renormalised", "made_positive"):
        assert found.effects[name].value == 0.5, name
    assert found.effects["negatives_spread"].difference == found.effects["negatives_permuted"].difference == 0
    assert re.match(
        r"The negative weights are used: masking them costs 50\.0 points \[\d\d\.\d, \d\d\.\d\]\. It was not found", found.verdict
    )
    assert found.matters


def test_a_model_that_needs_to_know_which_weights_are_negative():
    """A negative weight turns the value of its key around; the larger value of the other key, whose weight is 0, would say the opposite."""
    found = measured(constructed(), rows_of((MINUS_ONE, ZERO_OTHER), (MINUS_OTHER, ZERO_ONE)))
    assert found.as_is == 1
    assert found.effects["negatives_masked"].value == 0.5
    assert found.effects["negatives_spread"].value == 0
    assert 0.5 < found.effects["negatives_permuted"].value < 0.8
    assert re.match(
        r"The negative weights carry information: masking them costs 50\.0 points .*\. Which keys are negative matters: spreading them "
        r"evenly over the keys costs 100\.0 points \[100\.0, 100\.0\] and moving them to random keys costs ",
        found.verdict,
    )


def test_a_model_that_needs_them_not():
    """The positive keys decide; the value of the negative ones is 0."""
    found = measured(constructed(), rows_of((PLUS_OTHER, MINUS), (PLUS_ONE, MINUS)))
    assert found.as_is == 1
    assert found.negative_mass > 0.1
    for name, effect in found.effects.items():
        assert effect.difference == (-0.5 if name == "positives_masked" else 0), name
    assert found.verdict.startswith(
        "No effect of the negative weights was found: masking them makes a difference of 0.0 points [0.0, 0.0]."
    )
    assert not found.matters


@pytest.mark.parametrize("settings", [{}, {"tanhmax_shift": "balanced", "tanhmax_polarity": 0.5}, {"tanhmax_layers": [1]}])
@pytest.mark.parametrize("family", ["bert", "vit", "llama", "masked"])
def test_as_is_is_the_model_itself(family, settings):
    if family == "vit":
        model, batch = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification, **settings), {"pixel_values": images(6)}
    else:
        name = {"bert": "BertForSequenceClassification", "llama": "LlamaForCausalLM", "masked": "BertForMaskedLM"}[family]
        model, batch = tiny_model(getattr(hf_tanhmax, f"TanhMax{name}"), **settings), {"input_ids": text(6, 7)}
    classifies = family in ("bert", "vit")
    labels = torch.tensor([0, 1, 1, 0, 1, 1]) if classifies else text(6, 7)
    before = run(model, batch)
    found = measured(model, [{**batch, "labels": labels}], interventions=["negatives_masked"])
    assert found.metric == (ACCURACY if classifies else LOSS)
    if classifies:
        assert found.as_is == float((before.logits.argmax(-1) == labels).double().mean())
    else:
        assert found.as_is == pytest.approx(float(run(model, {**batch, "labels": labels}).loss), abs=1e-5)
    assert_same(run(model, batch), before, atol=0, rtol=0)
    assert found.rows == 6
    weights = [each.double() for each in run(set_eager(model), batch, output_attentions=True).attentions]
    masses = [float(-each.clamp(max=0).sum() / each.abs().sum()) for each in weights]
    assert found.negative_mass_per_layer == pytest.approx(masses, abs=1e-5)
    total = sum(float(each.abs().sum()) for each in weights)
    assert found.negative_mass == pytest.approx(sum(float(-each.clamp(max=0).sum()) for each in weights) / total, abs=1e-5)


def set_eager(model):
    model.set_attn_implementation("eager")
    return model


def test_neither_padding_nor_the_batch_size_changes_anything():
    model = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM)
    ids, lengths = text(5, 9), torch.tensor([9, 4, 6, 9, 6])
    keep = (torch.arange(9) < lengths[:, None]).long()
    padded = [{"input_ids": ids, "attention_mask": keep, "labels": ids}]
    left = [{"input_ids": ids.flip(1), "attention_mask": keep.flip(1), "labels": ids.flip(1)}]
    single = [{"input_ids": row[None, :length], "labels": row[None, :length]} for row, length in zip(ids, lengths, strict=True)]
    reversed_single = [{name: value.flip(1) for name, value in row.items()} for row in single]
    for batch, alone in ((padded, single), (left, reversed_single)):
        one, other = measured(model, batch), measured(model, alone, batch_size=1)
        assert one.rows == other.rows == 5
        for name in INTERVENTIONS:
            assert one.effects[name].value == pytest.approx(other.effects[name].value, abs=1e-5), name
            assert one.effects[name].low == pytest.approx(other.effects[name].low, abs=1e-5), name


def test_labels_of_packed_rows_are_not_predicted_across():
    model = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM)
    ids = text(2, 6)
    packed = {"input_ids": ids.view(1, 12), "position_ids": torch.arange(6).repeat(1, 2), "labels": ids.clone().view(1, 12)}
    packed["labels"][0, [0, 6]] = -100
    apart = measured(model, [{"input_ids": ids, "labels": ids}])
    together = measured(model, [packed])
    assert together.as_is == pytest.approx(apart.as_is, abs=1e-5)
    for name in ("negatives_masked", "negatives_spread", "made_positive"):
        assert together.effects[name].value == pytest.approx(apart.effects[name].value, abs=1e-5)


def test_the_seed_is_of_everything_random():
    model, rows = tiny_model(hf_tanhmax.TanhMaxBertForMaskedLM, vocab_size=60), [*TEXTS, "a film", "funny film to look at"]
    one, again, other = (measured(model, rows, processor_for("bert"), seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one.effects["negatives_permuted"] != other.effects["negatives_permuted"]


def test_texts_and_images_of_a_user():
    found = measured(
        tiny_model(BERT, vocab_size=60), [*TEXTS, ("a film", "not funny")], processor_for("bert"), labels=[0, "LABEL_1", 1, "0"]
    )
    assert (found.rows, found.metric, found.settings["seed"]) == (4, "accuracy", 0)
    assert found.attention == "TanhMax attention (polarity 1) in all 3 layers and all heads"
    assert {"torch", "transformers", "hf-tanhmax"} == set(found.settings["versions"])
    pictures = [Image.effect_noise((15, 15), 50).convert("RGB") for _ in range(5)]
    model = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification)
    found = measured(model, pictures, processor_for("vit"), labels=[0, 1, 1, 0, 1], batch_size=2, interventions="negatives_masked")
    assert found.rows == 5
    assert list(found.effects) == ["negatives_masked"]


def test_a_patched_model_and_heads_that_stay_softmax():
    model = softmax_twin(tiny_model(BERT))
    batch = {"input_ids": text(6, 7), "labels": torch.tensor([0, 1, 1, 0, 1, 1])}
    with hf_tanhmax.tanhmax_on(model, layers=[1], heads=[0], polarity=0.5):
        found = measured(model, [batch])
        assert [mass > 0 for mass in found.negative_mass_per_layer] == [False, True, False]
        assert found.attention == (
            "attention of polarity 0.5, between softmax (0) and TanhMax (1), in layer 1 of 3 (the others are softmax) and head 0 of each "
            "(the others are softmax)"
        )
    with pytest.raises(ValueError, match="has no negative weights to change: its attention is softmax; give a TanhMax model"):
        measured(model, [batch])


def test_a_decoder_that_classifies_reads_its_last_token():
    model = tiny_model(hf_tanhmax.TanhMaxLlamaForSequenceClassification)
    ids, keep = text(4, 6), torch.ones(4, 6).long()
    ids[1, 4:], keep[1, 4:] = model.config.pad_token_id, 0
    labels = torch.tensor([0, 1, 0, 1])
    right = run(model, {"input_ids": ids, "attention_mask": keep}).logits.argmax(-1) == labels
    assert measured(model, [{"input_ids": ids, "attention_mask": keep, "labels": labels}]).as_is == float(right.double().mean())
    assert model.config.pad_token_id == 0


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        (
            {"tanhmax_polarity": 0.0},
            {},
            "TanhMaxBertForSequenceClassification has no negative weights to change: its polarity is 0, which is",
        ),
        (
            {},
            {"interventions": ["negatives_masked", "luck"]},
            "there is no intervention 'luck'; choose from negatives_masked, positives_mask",
        ),
        ({}, {"interventions": []}, "interventions is empty; choose from"),
        ({}, {"batch_size": 0}, "batch_size must be at least 1, but is 0"),
        ({}, {"samples": 0}, "samples must be at least 1, but is 0"),
        ({}, {"labels": ["x"] * 2}, "there are 2 labels for 6 rows; give one for each"),
    ],
)
def test_mistakes(changes, options, said):
    with pytest.raises(ValueError, match=said):
        measured(tiny_model(BERT, **changes), [{"input_ids": text(6, 7), "labels": torch.ones(6).long()}], **options)


def test_rows_with_nothing_to_predict():
    model, ids = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM), text(3, 4)
    with pytest.raises(ValueError, match="no row has a token that is to be predicted; give longer texts, or labels that are not -100"):
        measured(model, [{"input_ids": ids, "labels": torch.full_like(ids, -100)}])
    found = measured(model, [{"input_ids": ids, "labels": ids}, {"input_ids": ids[:, :1], "labels": ids[:, :1]}])
    assert found.rows == 3


def test_what_is_no_model_and_what_is_not_finite():
    with pytest.raises(TypeError, match="a loaded Transformers model is explained, but got str"):
        ablate_negatives("bert", ["a"])
    model = tiny_model(BERT)
    model.classifier.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"logits hold NaN or infinity, so there is nothing to explain: classifier.weight of the model"):
        measured(model, [{"input_ids": text(2, 3), "labels": torch.ones(2).long()}])
    assert [module.config._attn_implementation for module in attention_modules(model)] == ["tanhmax"] * 3


# Intervals


def test_intervals_cover_the_difference():
    """Ratios of sums over rows of unequal length, of which one mean is 0.3 higher: 95 % of the intervals hold it, give or take chance."""
    generator, covered, excluded = numpy.random.default_rng(0), 0, 0
    for trial in range(300):
        counts = generator.integers(1, 20, 150).astype(float)
        row = generator.normal(size=150)
        as_is = counts * (2 + row)
        other = counts * (2.3 + row + 0.4 * generator.normal(size=150))
        found = paired_intervals({"as_is": as_is, "changed": other, "same": as_is}, counts, samples=400, seed=trial)
        low, high = found["changed"]
        covered += low <= 0.3 <= high
        excluded += low > 0  # as the rows are paired; their own spread is 1
        assert found["same"] == (0, 0)
    assert 0.9 < covered / 300 < 0.99
    assert excluded == 300


def test_intervals_do_not_depend_on_what_else_is_measured():
    counts, values = numpy.ones(40), numpy.random.default_rng(1).random((3, 40))
    alone = paired_intervals({"as_is": values[0], "a": values[1]}, counts, samples=250, seed=3)
    beside = paired_intervals({"as_is": values[0], "b": values[2], "a": values[1]}, counts, samples=250, seed=3)
    assert alone["a"] == beside["a"]
    assert alone != paired_intervals({"as_is": values[0], "a": values[1]}, counts, samples=250, seed=4)
