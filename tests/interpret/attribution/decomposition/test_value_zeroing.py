"""Value zeroing against a layer computed by hand, and its shares in the three families."""

import pytest
import torch
from families import hooks_of, images, softmax_twin, text, tiny_model

import hf_tanhmax
from hf_tanhmax.interpret import explain
from hf_tanhmax.interpret.attribution.decomposition import value_zeroing as module
from hf_tanhmax.interpret.attribution.decomposition.value_zeroing import value_zeroing

BERT = hf_tanhmax.TanhMaxBertForSequenceClassification
CLASSIFIERS = (BERT, hf_tanhmax.TanhMaxViTForImageClassification, hf_tanhmax.TanhMaxLlamaForSequenceClassification)


def inputs_of(cls):
    return {"pixel_values": images(1).double()} if "ViT" in cls.__name__ else {"input_ids": text(1, 5)}


def by_hand(layer, hidden, weights):
    """1 - cos of the output of a BERT layer with and without the value of each token, `[queries, keys]`."""
    heads, count = weights.shape[:2]
    values = layer.attention.self.value(hidden)[0].reshape(count, heads, -1)

    def output(zeroed):
        mine = values.clone()
        if zeroed is not None:
            mine[zeroed] = 0
        context = torch.einsum("hij,jhd->ihd", weights, mine).reshape(1, count, -1)
        attended = layer.attention.output.LayerNorm(layer.attention.output.dense(context) + hidden)
        return layer.output.LayerNorm(layer.output.dense(layer.intermediate(attended)) + attended)[0]

    whole = output(None)
    return torch.stack([1 - torch.cosine_similarity(output(key), whole, dim=-1) for key in range(count)], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("at_once", [5, 15])
def test_a_layer_of_bert_by_hand(monkeypatch, at_once):
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", at_once)  # one copy, and three, at once
    model, ids = tiny_model(BERT).double(), text(1, 5)
    output = model(input_ids=ids, output_hidden_states=True)
    model.set_attn_implementation("eager")
    weights = model(input_ids=ids, output_attentions=True).attentions
    found = value_zeroing(model, {"input_ids": ids}, (0, 1, 2))
    for index, layer in enumerate(model.bert.encoder.layer):
        want = by_hand(layer, output.hidden_states[index], weights[index][0])
        torch.testing.assert_close(found[index], (want / want.sum(1, keepdim=True)).float())


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_shares_rolled_out_over_the_layers(cls):
    model, inputs = tiny_model(cls).double(), inputs_of(cls)
    found = explain(model, inputs, 1, methods=("value_zeroing",))
    with torch.no_grad():
        matrices = value_zeroing(model, inputs, (0, 1, 2))
    torch.testing.assert_close(found.scores["value_zeroing"], (matrices[2] @ matrices[1] @ matrices[0])[found.position])
    assert bool((found.scores["value_zeroing"] >= 0).all())
    assert found.conservation["value_zeroing"].total == pytest.approx(1, abs=1e-5)
    assert (found.conservation["value_zeroing"].expected, found.conservation["value_zeroing"].expected_is) == (1, "the whole")
    if "Llama" in cls.__name__:
        assert float(matrices.triu(1).abs().max()) < 1e-9


def test_a_layer_that_is_left_out_mixes_nothing():
    model, ids = tiny_model(BERT).double(), text(1, 5)
    found = explain(model, {"input_ids": ids}, 1, methods=("value_zeroing",), layers=[0, 2])
    with torch.no_grad():
        matrices = value_zeroing(model, {"input_ids": ids}, (0, 2))
    torch.testing.assert_close(found.scores["value_zeroing"], (matrices[1] @ matrices[0])[0])


def test_a_softmax_model_works_too():
    model = softmax_twin(tiny_model(BERT))
    with pytest.warns(UserWarning, match="computes softmax"):
        found = explain(model, {"input_ids": text(1, 5)}, 1, methods=("value_zeroing",))
    assert float(found.scores["value_zeroing"].sum()) == pytest.approx(1, abs=1e-5)


def test_the_model_is_left_as_it_was():
    model, ids = tiny_model(BERT), text(1, 5)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        hooks = hooks_of(model)
        value_zeroing(model, {"input_ids": ids}, (0, 1, 2))
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=0, atol=0)
    assert hooks_of(model) == hooks
