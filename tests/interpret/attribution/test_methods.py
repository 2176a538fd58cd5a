"""Scores of positions from the weights and contributions of the heads."""

from dataclasses import replace

import pytest
import torch
from families import images, text, tiny_model

import hf_tanhmax
from hf_tanhmax.integration.hooks import replace_attention
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.interpret import explain, rollout
from hf_tanhmax.interpret.attribution.methods import AttributionOptions

BERT = hf_tanhmax.TanhMaxBertForSequenceClassification


def test_scores_of_one_layer_are_the_row_that_is_read():
    found = explain(tiny_model(BERT), {"input_ids": text(1, 5)}, 1, layers=-1, methods=("weights", "oriented", "contributions"))
    torch.testing.assert_close(found.scores["weights"], found.weights[0, :, 0].mean(0))
    torch.testing.assert_close(found.scores["oriented"], found.oriented[0, :, 0].mean(0))
    torch.testing.assert_close(found.scores["contributions"], found.contributions[0, :, 0].sum(0))


def test_scores_of_all_layers():
    found = explain(tiny_model(BERT), {"input_ids": text(1, 5)}, 1, methods=("weights", "contributions", "rollout"))
    rows = torch.stack([found.weights[0].mean((0, 1)), found.weights[1].mean((0, 1)), found.weights[2, :, 0].mean(0)])
    torch.testing.assert_close(found.scores["weights"], rows.mean(0))
    torch.testing.assert_close(found.scores["contributions"], found.contributions.sum((0, 1, 2)))
    torch.testing.assert_close(found.scores["rollout"], rollout(found.oriented)[0])


def test_contributions_are_the_first_order_of_attention_erasure():
    """The derivative of the logit along the erased columns, by finite differences in float64, through all layers at once."""
    model, ids, step = tiny_model(BERT).double(), text(1, 5), 1e-6
    found = explain(model, {"input_ids": ids}, 1, methods=("contributions",))

    def reduced(position):
        def attend(call):
            factor = torch.ones(1, 1, 5, 1, dtype=call.value.dtype)
            factor[0, 0, position] -= step
            return replace(call, value=call.value * factor).compute()

        return attend

    with torch.no_grad():
        whole = float(model(input_ids=ids).logits[0, 1])
        for position in range(5):
            with replace_attention(attention_modules(model), reduced(position)):
                slope = (whole - float(model(input_ids=ids).logits[0, 1])) / step
            assert float(found.scores["contributions"][position]) == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_pixels_are_gathered_in_patches():
    found = explain(tiny_model(hf_tanhmax.TanhMaxViTForImageClassification), {"pixel_values": images(1)}, methods=("input_x_gradient",))
    assert found.grid == (3, 3)
    assert found.tokens[:3] == ("[CLS]", "0, 0", "0, 1")
    assert found.scores["input_x_gradient"].shape == (10,)
    assert float(found.scores["input_x_gradient"][0]) == 0


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (("lime",), "there is no method 'lime'; choose from weights"),
        ((), "methods is empty"),
        ("weights", "methods must be a tuple of names"),
    ],
)
def test_methods_that_do_not_exist_are_refused(methods, message):
    with pytest.raises(ValueError, match=message):
        AttributionOptions(methods, [0], 0)


@pytest.mark.parametrize(("steps", "advice"), [(1, True), (512, False)])
def test_too_few_steps_are_said_to_be(steps, advice):
    pytest.importorskip("captum")
    model = tiny_model(hf_tanhmax.TanhMaxLlamaForSequenceClassification)
    found = explain(model, {"input_ids": text(1, 5)}, 1, methods=("integrated_gradients",), steps=steps)
    assert ("give more steps" in found.notes[-1]) == advice


def with_small_embeddings(cls, factor=1e-4):
    """A model in float16 whose gradients at its embeddings are beyond what float16 holds, as they are small and a norm comes next."""
    model = tiny_model(cls)
    for name, values in model.named_parameters():
        if "embed" in name and "norm" not in name.lower():
            values.data.mul_(factor)
    return model.half()


@pytest.mark.parametrize("method", ["gradient", "input_x_gradient", "integrated_gradients"])
@pytest.mark.parametrize("name", ["BertForSequenceClassification", "LlamaForCausalLM"])
def test_scores_that_half_precision_does_not_hold_are_refused(name, method):
    """And named, of several methods."""
    model = with_small_embeddings(getattr(hf_tanhmax, f"TanhMax{name}"), 3e-5 if "Bert" in name else 1e-4)
    given, position = {"input_ids": text(1, 7)}, -1 if "Llama" in name else None
    with pytest.raises(ValueError, match=f"the scores of {method} hold NaN or infinity, so there is nothing to explain: try float32"):
        explain(model, given, 1, position=position, methods=("weights", method))
    assert explain(model, given, 1, position=position, methods=("weights",)).scores["weights"].isfinite().all()
    assert explain(model.float(), given, 1, position=position, methods=(method,)).scores[method].isfinite().all()


@pytest.mark.parametrize("method", ["attnlrp", "alti", "alti_logit"])
@pytest.mark.parametrize("name", ["BertForSequenceClassification", "ViTForImageClassification"])
def test_norms_of_small_numbers_have_their_rules_in_half_precision_too(name, method):
    """Their squares are 0 in float16, and LayerNorm's own are taken in float32."""
    model = with_small_embeddings(getattr(hf_tanhmax, f"TanhMax{name}"))
    given = {"pixel_values": images(1)} if "ViT" in name else {"input_ids": text(1, 7)}
    found = explain(model, given, 1, methods=(method,)).scores[method]
    wanted = explain(model.float(), given, 1, methods=(method,)).scores[method]
    torch.testing.assert_close(found, wanted, atol=0.05 * float(wanted.abs().max()), rtol=0)
