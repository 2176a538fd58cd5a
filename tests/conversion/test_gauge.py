"""Aligned models: softmax as before at polarity 0, balanced at polarity 1, by the fit that least squares gives; and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from families import real_weights, run, text, tiny_model
from made_conversions import batches, hidden, silenced, trained

import hf_tanhmax
from hf_tanhmax import TanhMaxSettings, convert, set_polarity, use_tanhmax
from hf_tanhmax.conversion.gauge import align
from hf_tanhmax.conversion.projections import find_projections
from hf_tanhmax.integration.patching import attention_modules

FAMILIES = ["bert", "vit"]
SENTENCE = "the film is a gripping and funny story about people who are not what they seem to be in a small town"
EXACT = {torch.float32: 4e-5, torch.float64: 1e-10}
every_family = pytest.mark.parametrize("family", FAMILIES)


def biases(model):
    return [bias.detach().clone() for each in find_projections(model, attention_modules(model)) for bias in each.biases]


def weights_at_one(model, batch):
    """Weights `[rows, heads, keys]` of every layer at polarity 1, of real queries."""
    set_polarity(model, 1.0)
    model.set_attn_implementation("eager")
    batch = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in batch.items()}
    attentions = run(model, batch, output_attentions=True).attentions
    mask = batch.get("attention_mask")
    return [each.transpose(1, 2)[mask.bool()] if mask is not None else each.transpose(1, 2).flatten(0, 1) for each in attentions]


# What it computes


@every_family
@pytest.mark.parametrize("dtype", EXACT)
def test_softmax_is_as_before_and_tanhmax_comes_close_to_it(family, dtype):
    model, data = trained(family, dtype), batches(family)
    set_polarity(model, 0.0)
    before = hidden(model, data[1])
    set_polarity(model, 1.0)
    report = align(model, data)
    assert not model.training
    signed = hidden(model, data[1])
    set_polarity(model, 0.0)
    torch.testing.assert_close(hidden(model, data[1]), before, atol=EXACT[dtype], rtol=0)
    assert (signed - before).abs().max() > 1e-2
    assert report.cosine_after > report.cosine_before
    assert report.batches == 3
    assert report.rows == (3 * 40 if family == "vit" else 3 * 35)
    assert report.seconds > 0


def test_a_layer_without_queries(either_subnormals):
    """No bias of a key can change its scores, which are 0."""
    model = silenced(trained("bert"), "query")
    key = model.encoder.layer[0].attention.self.key
    before = key.bias.detach().clone()
    align(model, batches("bert"))
    assert torch.equal(key.bias, before)
    assert all(value.isfinite().all() for value in model.parameters())


@pytest.mark.weights
@pytest.mark.slow
def test_a_real_checkpoint_is_as_before_and_keeps_its_hidden_states():
    name = real_weights("bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    words = SENTENCE.split()
    texts = [[" ".join(words[i : i + 3 + i % 9]) for i in range(j, j + 9)] for j in range(6)]
    data = [tokenizer(each, padding=True, return_tensors="pt") for each in texts]
    model = convert(name, transformers.AutoModel, polarity=0.0)
    before = hidden(model, data[0])
    report = align(model, data)
    torch.testing.assert_close(hidden(model, data[0]), before, atol=4e-5, rtol=0)
    assert report.cosine_before < 0.7
    assert report.cosine_after > 0.9
    assert max(report.negative_mass_after) < 0.4


def least_squares(module, states, keep, balance, ridge):
    """Key bias `[heads, head_dim]` of a BERT layer by least squares over rows that are kept, with rows that stand for the penalty."""
    heads, size = module.num_attention_heads, module.attention_head_size
    query, key = (layer(states).unflatten(-1, (heads, size)) for layer in (module.query, module.key))
    found = []
    for head in range(heads):
        inputs, wanted = [], []
        for row, length in enumerate(keep.sum(1).tolist()):
            part = query[row, :length, head] / math.sqrt(size)
            scores = part @ key[row, :length, head].T
            positive, negative = scores.exp().sum(-1).log(), (-scores).exp().sum(-1).log()
            inputs.append(part)
            wanted.append(-math.log(balance) / 2 - (positive - negative) / 2)
        inputs, wanted = torch.cat(inputs), torch.cat(wanted)
        penalty = math.sqrt(ridge * float(inputs.square().sum()) / size) * torch.eye(size, dtype=inputs.dtype)
        padded = torch.cat([wanted, torch.zeros(size, dtype=inputs.dtype)])[:, None]
        bias = torch.linalg.lstsq(torch.cat([inputs, penalty]), padded).solution[:, 0]
        found.append((bias, (wanted - inputs @ bias).std(correction=0)))
    return torch.stack([bias for bias, _ in found]), torch.stack([left for _, left in found])


@pytest.mark.parametrize(("balance", "ridge"), [(0.2, 1e-3), (0.7, 0.3)])
def test_key_biases_are_those_of_least_squares(balance, ridge):
    model = trained("bert")
    (data,) = batches("bert", 1)
    module = attention_modules(model)[1]
    set_polarity(model, 0.0)
    with torch.no_grad():
        states = model(**data, output_hidden_states=True).hidden_states[1]
        want, left = least_squares(module, states, data["attention_mask"], balance, ridge)
    before = module.key.bias.detach().clone()
    report = align(model, [data], balance=balance, ridge=ridge)
    torch.testing.assert_close((module.key.bias - before).detach().view_as(want), want, atol=1e-9, rtol=1e-8)
    assert report.residual[1] == pytest.approx(float(left.square().mean().sqrt()), rel=1e-8)


def test_the_mean_output_moves_from_the_values_to_the_output_bias():
    """Of every head: with it taken off, the mean of (P V + N V) / 2 over rows is 0."""
    model, data = trained("bert"), batches("bert", 1)
    layer = model.encoder.layer[0].attention
    value, output = layer.self.value.bias.detach().clone(), layer.output.dense.bias.detach().clone()
    align(model, data)
    taken = value - layer.self.value.bias.detach()
    torch.testing.assert_close(layer.output.dense.bias.detach() - output, layer.output.dense.weight.detach() @ taken)
    again = layer.self.value.bias.detach().clone()
    align(model, data)
    torch.testing.assert_close(layer.self.value.bias.detach(), again)
    assert taken.abs().max() > 0.1


@every_family
@pytest.mark.parametrize("balance", [0.1, 0.2, 0.5, 1.0])
def test_rows_are_balanced_on_average(family, balance):
    """A row of weights sums to 2 sigma - 1, where sigma is 1 / (1 + r) in a balanced one."""
    model, data = trained(family), batches(family)
    align(model, data, balance=balance)
    sums = torch.cat([weights.sum(-1).flatten() for batch in data for weights in weights_at_one(model, batch)[:1]])
    assert float((1 + sums.median()) / 2) == pytest.approx(1 / (1 + balance), abs=0.07)


def test_the_report_is_of_the_model_at_polarity_1():
    model, data = trained("bert"), batches("bert")
    set_polarity(model, 0.0)
    softmax = hidden(model, data[-1])

    def measured():
        mass = [float(-each.clamp(max=0).sum() / each.abs().sum()) for each in weights_at_one(model, data[-1])]
        return mass, float(F.cosine_similarity(hidden(model, data[-1]), softmax, dim=-1).mean())

    mass_before, cosine_before = measured()
    set_polarity(model, 0.25)
    report = align(model, data)
    assert model.config.tanhmax_polarity == 0.25
    mass_after, cosine_after = measured()
    assert report.negative_mass_before == pytest.approx(mass_before)
    assert report.negative_mass_after == pytest.approx(mass_after)
    assert [report.cosine_before, report.cosine_after] == pytest.approx([cosine_before, cosine_after])


# What it is fitted to


def aligned_biases(data, **changes):
    model = trained("bert", **changes)
    align(model, data)
    return biases(model)


def test_padding_does_not_matter():
    (data,) = batches("bert", 1)
    longer = {name: F.pad(value, (0, 6)) for name, value in data.items()}
    torch.testing.assert_close(aligned_biases([longer]), aligned_biases([data]), atol=1e-9, rtol=1e-9)


def test_how_rows_are_split_into_batches_does_not_matter():
    whole = batches("bert", 2)
    apart = [{name: value[start:end] for name, value in batch.items()} for batch in whole for start, end in ((0, 1), (1, 4))]
    torch.testing.assert_close(aligned_biases(iter(apart)), aligned_biases(whole), atol=1e-9, rtol=1e-9)


def test_half_precision():
    model, data = trained("bert", torch.bfloat16), batches("bert")
    exact = trained("bert", torch.bfloat16).double()
    set_polarity(model, 0.0)
    before = hidden(model, data[0])
    report, wanted = align(model, data), align(exact, data)
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert float((hidden(model, data[0]) - before).norm() / before.norm()) < 0.05
    assert report.cosine_after == pytest.approx(wanted.cosine_after, abs=0.03)


def test_layers_and_heads_that_are_not_chosen_stay_as_they_are():
    model = trained("bert", tanhmax_layers=[0, 2], tanhmax_heads=[1])
    before, data = biases(model), batches("bert")
    report = align(model, data)
    assert len(report.residual) == len(report.negative_mass_after) == 2
    changes = [(after - each).view(3, 7) for after, each in zip(biases(model), before, strict=True)]
    for layer in range(3):
        for change in changes[3 * layer : 3 * layer + 2]:
            assert [bool(head.any()) for head in change] == [False, layer != 1, False]
    set_polarity(model, 0.0)
    assert float((hidden(model, data[0]) - hidden(trained("bert", tanhmax_polarity=0.0), data[0])).abs().max()) < 1e-10
    weights = weights_at_one(model, data[-1])[0][:, 1]
    assert report.negative_mass_after[0] == pytest.approx(float(-weights.clamp(max=0).sum() / weights.abs().sum()))


def test_a_softmax_model_may_be_aligned_before_it_is_converted():
    softmax = hf_tanhmax.to_softmax(trained("bert"))
    patched, data = hf_tanhmax.to_softmax(trained("bert")), batches("bert")
    assert align(softmax, data).cosine_after > 0.5
    assert type(softmax) is transformers.BertModel
    torch.testing.assert_close(biases(softmax), aligned_biases(data))
    use_tanhmax(patched, TanhMaxSettings(heads=[0, 1, 2]))
    align(patched, data)
    torch.testing.assert_close(biases(patched), aligned_biases(data))


def test_the_mode_and_a_head_come_along():
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    model.train()
    model.bert.pooler.eval()
    report = align(model, [{**batch, "labels": torch.tensor([0, 1, 1, 0])} for batch in batches("bert")])
    assert model.training
    assert not model.bert.pooler.training
    assert report.rows == 105


# What is refused


def unchanged(model, error, match, data=None, **options):
    """It is refused, and the biases are as they were."""
    before = biases(model)
    with pytest.raises(error, match=match):
        align(model, batches("bert") if data is None else data, **options)
    torch.testing.assert_close(biases(model), before, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("balance", [0, -0.2, 1.1, math.nan, True, "0.2"])
def test_a_balance_that_cannot_be(balance):
    unchanged(trained("bert"), ValueError, r"balance must be in \(0, 1\]", balance=balance)


@pytest.mark.parametrize("ridge", [0, -1, math.inf, math.nan])
def test_a_ridge_that_cannot_be(ridge):
    unchanged(trained("bert"), ValueError, "ridge must be a number above 0", ridge=ridge)


def test_batches_that_are_none():
    unchanged(trained("bert"), ValueError, "there are no batches to align with", [])
    unchanged(trained("bert"), TypeError, "batches must be a list of mappings of the model's inputs, .* but holds str", batches("bert")[0])


def test_too_few_rows():
    data = [{"input_ids": text(2, 3)}]
    unchanged(trained("bert"), ValueError, r"the batches have 6 rows \(.*\), but 7 are needed at least to fit the 7 numbers", data)


def test_activations_that_are_not_finite():
    model = trained("bert")
    model.encoder.layer[1].attention.self.value.weight.data[0, 0] = math.nan
    unchanged(model, ValueError, r"encoder.layer.1.attention.self has scores or values that are NaN or infinite")


def test_hidden_states_that_are_not_finite():
    model = trained("bert")
    model.encoder.layer[2].output.LayerNorm.weight.data[0] = math.nan
    unchanged(model, ValueError, "the last hidden states of TanhMaxBertModel are NaN or infinite for these batches")


def test_inputs_for_another_kind_of_model():
    unchanged(trained("bert"), ValueError, "TanhMaxBertModel cannot run on a batch of pixel_values: You must", batches("vit"))
    unchanged(trained("vit"), ValueError, "TanhMaxViTModel cannot run on a batch of input_ids, attention_mask: ", batches("bert"))
    unchanged(
        trained("bert"), ValueError, "cannot run on a batch of input_ids: index out of range", [{"input_ids": text(2, 9, vocabulary=999)}]
    )


def test_a_learned_polarity():
    unchanged(trained("bert", tanhmax_polarity="learned"), ValueError, "the polarity of this model is learned; align before")


def test_keys_without_biases():
    with pytest.raises(NotImplementedError, match="the key projection of ViTAttention has no bias, which aligning changes"):
        align(tiny_model(hf_tanhmax.TanhMaxViTModel, qkv_bias=False), batches("vit"))


def test_keys_that_are_rotated():
    with pytest.raises(NotImplementedError, match="LlamaAttention rotates its keys by their positions"):
        align(tiny_model(hf_tanhmax.TanhMaxLlamaModel, attention_bias=True), batches("bert"))


def test_keys_that_are_not_what_the_projection_returns():
    model = trained("bert")
    model.encoder.layer[1].attention.self.key.register_forward_hook(lambda _, __, output: F.layer_norm(output, output.shape[-1:]))
    unchanged(model, ValueError, r"would compute something else at polarity 0 \(by [\d.]+%\).*nothing was changed")


def test_no_attention():
    with pytest.raises(ValueError, match="Linear has no attention module that asks"):
        align(torch.nn.Linear(3, 3), batches("bert"))


def test_layers_that_are_not_called():
    model = tiny_model(transformers.BertModel, is_decoder=True, add_cross_attention=True)
    unchanged(model, ValueError, "encoder.layer.0.crossattention.self was not called for these batches")


@pytest.mark.parametrize("kind", ["causal", "additive mask"])
def test_masks_of_other_kinds(kind):
    """A decoder's rows see the keys before them; an additive mask fades keys in both halves."""
    changes = {"is_decoder": True} if kind == "causal" else {}
    model, data = trained("bert", **changes), batches("bert")
    if kind == "additive mask":
        faded = torch.linspace(-2, 0, 11, dtype=torch.float64).expand(4, 1, 11, 11)
        data = [{"input_ids": batch["input_ids"], "attention_mask": faded} for batch in data]
    report = align(model, data)
    sums = torch.cat([weights.sum(-1).flatten() for weights in all_weights(model, data[0])[:1]])
    assert float((1 + sums.median()) / 2) == pytest.approx(1 / 1.2, abs=0.05)
    assert report.rows == (105 if kind == "causal" else 132)


def test_a_causal_model_needs_no_mask():
    """Without padding Transformers leaves the mask away where attention is told to be causal; the eager one is written out."""
    data, found = [{"input_ids": text(4, 11)}], []
    for implementation in ("sdpa", "eager"):
        softmax = hf_tanhmax.to_softmax(trained("bert", is_decoder=True))
        softmax.set_attn_implementation(implementation)
        align(softmax, data)
        found.append(biases(softmax))
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-9)
    both_ways = trained("bert")
    align(both_ways, data)
    assert (biases(both_ways)[0] - found[0][0]).abs().max() > 1e-2


def all_weights(model, batch):
    set_polarity(model, 1.0)
    model.set_attn_implementation("eager")
    return run(model, batch, output_attentions=True).attentions
