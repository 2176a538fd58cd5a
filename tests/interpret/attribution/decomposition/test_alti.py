"""ALTI against loops over tokens and heads, and the parts of a logit that add up to it."""

import pytest
import torch
from families import hooks_of, images, softmax_twin, text, tiny_model

import hf_tanhmax
from hf_tanhmax.interpret import explain
from hf_tanhmax.interpret.attribution.decomposition import alti as module
from hf_tanhmax.interpret.attribution.decomposition.alti import alti, alti_logit, direct_logit
from hf_tanhmax.interpret.attribution.hooks import record_attention
from hf_tanhmax.interpret.attribution.target import Target

BERT = hf_tanhmax.TanhMaxBertForSequenceClassification
LLAMA = hf_tanhmax.TanhMaxLlamaForCausalLM
CASES = ((BERT, None), (hf_tanhmax.TanhMaxViTForImageClassification, None), (LLAMA, 4))


def inputs_of(cls):
    return {"pixel_values": images(1).double()} if "ViT" in cls.__name__ else {"input_ids": text(1, 5)}


def with_biases(model):
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model.double()


def by_hand(weights, values, projection, hidden, norm):
    """Shares of one layer, one query, token and head after the other."""
    heads, count = weights.shape[:2]
    size = values.shape[-1]
    matrix = torch.zeros(count, count, dtype=torch.double)
    bias = 0 if projection.bias is None else projection.bias
    for query in range(count):
        vectors = []
        for key in range(count):
            vector = sum(
                weights[head, query, key] * (projection.weight[:, head * size : (head + 1) * size] @ values[head, key])
                for head in range(heads)
            )
            vectors.append(vector + hidden[query] if key == query else vector)
        output = sum(vectors) + bias
        if norm is not None:
            deviation = (output.var(unbiased=False) + norm.eps).sqrt()
            vectors = [(vector - vector.mean()) / deviation * norm.weight for vector in vectors]
            output = sum(vectors) + (0 if projection.bias is None else (bias - bias.mean()) / deviation * norm.weight) + norm.bias
        for key, vector in enumerate(vectors):
            matrix[query, key] = output.abs().sum() - (output - vector).abs().sum()
    kept = matrix.clamp(min=0)
    return (kept / kept.sum(1, keepdim=True)).float(), ((kept - matrix).sum() / matrix.abs().sum()).float()


@torch.no_grad()
@pytest.mark.parametrize("at_once", [2**24, 1])
@pytest.mark.parametrize("cls", [BERT, LLAMA])
def test_shares_by_hand(monkeypatch, cls, at_once):
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", at_once)  # all queries at once, and one by one
    model, ids = with_biases(tiny_model(cls)), text(1, 5)
    found, away = alti(model, {"input_ids": ids})
    with record_attention(model, [0, 1, 2]) as records:
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    layers = model.bert.encoder.layer if cls is BERT else model.model.layers
    for index, (layer, record) in enumerate(zip(layers, records, strict=True)):
        projection = layer.attention.output.dense if cls is BERT else layer.self_attn.o_proj
        norm = layer.attention.output.LayerNorm if cls is BERT else None
        want = by_hand(record.weights[0], record.values[0], projection, states[index][0], norm)
        torch.testing.assert_close((found[index], away[index]), want)
    assert bool((away > 0).any())


@pytest.mark.parametrize(("cls", "position"), CASES)
def test_parts_of_the_logit_add_up_to_it(cls, position):
    model, inputs, target = tiny_model(cls).double(), inputs_of(cls), Target(1, position, "")
    logit = float(target.of(model(**inputs).logits).detach())
    hooks = hooks_of(model)
    found = direct_logit(model, inputs, target)
    assert float(found.attention.sum() + found.embeddings.sum()) + found.mlps == pytest.approx(logit, abs=1e-5)
    scores = alti_logit(found, alti(model, inputs)[0], (0, 1, 2))
    assert float(scores.sum()) + found.mlps == pytest.approx(logit, abs=1e-5)  # shares of 1 lose nothing
    assert hooks_of(model) == hooks


def test_the_direct_path_of_a_language_model_is_its_unembedding():
    """What LLaMA's last attention writes, by the head's own weights and the last norm's scale."""
    model, ids = tiny_model(LLAMA).double(), text(1, 5)
    found = direct_logit(model, {"input_ids": ids}, Target(1, 4, ""))
    with torch.no_grad(), record_attention(model, [2]) as records:
        output = model(input_ids=ids, output_hidden_states=True)
        stream = []
        model.model.norm.register_forward_pre_hook(lambda _, arguments: stream.append(arguments[0]))
        model(input_ids=ids)
        scale = (stream[0][0, 4].pow(2).mean() + model.model.norm.variance_epsilon).rsqrt()
        direction = model.lm_head.weight[1] * model.model.norm.weight * scale
        written = model.model.layers[2].self_attn.o_proj(records[0].outputs.flatten(2))[0, 4]
    assert float(found.attention[2].sum()) == pytest.approx(float(written @ direction), abs=1e-6)
    assert float(found.embeddings[4]) == pytest.approx(float(output.hidden_states[0][0, 4] @ direction), abs=1e-6)
    assert found.embeddings[:4].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("cls", "position"), CASES)
def test_scores_of_both(cls, position):
    model, inputs = tiny_model(cls).double(), inputs_of(cls)
    found = explain(model, inputs, 1, methods=("alti", "alti_logit"), position=position)
    shares, away = alti(model, inputs)
    torch.testing.assert_close(found.scores["alti"], (shares[2] @ shares[1] @ shares[0])[found.position])
    assert found.conservation["alti"].total == pytest.approx(1, abs=1e-5)
    direct = direct_logit(model, inputs, Target(1, position, ""))
    want = direct.embeddings + direct.attention[0] + direct.attention[1] @ shares[0] + direct.attention[2] @ shares[1] @ shares[0]
    torch.testing.assert_close(found.scores["alti_logit"], want)
    told = found.conservation["alti_logit"]
    assert told.gap == pytest.approx(direct.mlps, abs=1e-5)
    assert any(note == f"ALTI-Logit gives the {direct.mlps:+.3g} logits that the MLPs write to no token" for note in found.notes)
    assert any(note.startswith("ALTI counts") for note in found.notes) == bool(away.mean() > 0.1)


def test_signs_that_query_and_value_weights_change_together_change_nothing():
    model, ids = tiny_model(BERT).double(), text(1, 5)
    methods = ("weights", "value_zeroing", "alti", "alti_logit", "attnlrp")
    before = explain(model, {"input_ids": ids}, 1, methods=methods).scores
    with torch.no_grad():
        for name in ("query", "value"):
            for parameter in getattr(model.bert.encoder.layer[1].attention.self, name).parameters():
                parameter[:7] *= -1  # of the first of three heads
    after = explain(model, {"input_ids": ids}, 1, methods=methods).scores
    assert not torch.allclose(after["weights"], before["weights"], atol=1e-3)
    for method in methods[1:]:
        torch.testing.assert_close(after[method], before[method])


def test_a_softmax_model_works_too():
    model = softmax_twin(tiny_model(BERT))
    with pytest.warns(UserWarning, match="computes softmax"):
        found = explain(model, {"input_ids": text(1, 5)}, 1, methods=("alti", "alti_logit"))
    assert bool((found.scores["alti"] >= 0).all())
    assert bool(found.scores["alti_logit"].all())
