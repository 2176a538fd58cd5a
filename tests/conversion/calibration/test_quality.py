"""How close a converted model is to softmax: divergence, perplexity and negative mass, against sums written out; and their edges."""

import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from families import tiny_model
from made_conversions import batches, hidden, trained

import hf_tanhmax
from hf_tanhmax import set_polarity
from hf_tanhmax.conversion.calibration import quality
from hf_tanhmax.conversion.calibration.quality import Comparison, is_language_model
from hf_tanhmax.conversion.projections import modules_to_align
from hf_tanhmax.conversion.runner import Runner


def compared(model, data, **options):
    return Comparison(Runner(model, modules_to_align(model)), data, **options)


def logits(model, batch, polarity):
    set_polarity(model, polarity)
    with torch.no_grad():
        return model(**batch).logits


def language_model(**changes):
    return tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM, tanhmax_polarity=0.4, tanhmax_shift="balanced", **changes)


def real_of(batch):
    return batch["attention_mask"].bool()


def test_divergence_and_perplexity_of_a_language_model():
    model, data = language_model(), batches("bert", 2)
    comparison = compared(model, data)
    for weight in (layer.self_attn.o_proj.weight for layer in model.model.layers):
        weight.data.mul_(0.5)
    changed = comparison.quality()
    before = tiny = language_model()
    kl, surprises, predicted, rows = [0.0, 0.0], [0.0, 0.0, 0.0], 0, 0
    for batch in data:
        real = real_of(batch)
        softmax, first = logits(before, batch, 0.0).log_softmax(-1), logits(tiny, batch, 0.4).log_softmax(-1)
        after = logits(model, batch, 0.4).log_softmax(-1)
        rows += int(real.sum())
        for index, each in enumerate((first, after)):
            kl[index] += float((softmax.exp() * (softmax - each)).sum(-1)[real].sum())
        follows = real[:, 1:]
        predicted += int(follows.sum())
        for index, each in enumerate((softmax, first, after)):
            chosen = F.cross_entropy(each[:, :-1].transpose(1, 2), batch["input_ids"][:, 1:], reduction="none")
            surprises[index] += float(chosen[follows].sum())
    assert (changed.held_out, changed.rows) == (True, rows)
    assert [changed.kl_before, changed.kl_after] == pytest.approx([each / rows for each in kl], rel=1e-4)
    found = [changed.perplexity_softmax, changed.perplexity_before, changed.perplexity_after]
    assert found == pytest.approx([math.exp(each / predicted) for each in surprises], rel=1e-4)
    assert (changed.cosine_before, changed.cosine_after) == (None, None)
    assert len({*kl}) == len({*surprises}) - 1 == 2


def test_a_backbone_has_a_cosine():
    model, data = trained("bert"), batches("bert")
    found = compared(model, data).quality()
    cosines = []
    for polarity in (0.0, 1.0):
        set_polarity(model, polarity)
        cosines.append(torch.cat([hidden(model, batch) for batch in data]))
    assert found.cosine_after == found.cosine_before == pytest.approx(float(F.cosine_similarity(*cosines, dim=-1).mean()))
    assert (found.kl_after, found.perplexity_after) == (None, None)


@pytest.mark.parametrize(
    ("cls", "rows"),
    [("TanhMaxBertForSequenceClassification", 4), ("TanhMaxBertForTokenClassification", 35), ("TanhMaxBertForMaskedLM", 35)],
)
def test_rows_of_each_head(cls, rows):
    model, (data,) = tiny_model(getattr(hf_tanhmax, cls)), batches("bert", 1)
    found = compared(model, [data]).quality()
    softmax, mine = (logits(model, data, polarity).log_softmax(-1) for polarity in (0.0, 1.0))
    divergence = (softmax.exp() * (softmax - mine)).sum(-1)
    wanted = divergence.mean() if softmax.dim() == 2 else divergence[real_of(data)].mean()
    assert found.rows == rows
    assert [found.kl_after, found.kl_before] == pytest.approx([float(wanted)] * 2, rel=1e-4)
    assert found.perplexity_after is None


def test_one_class_alone_has_a_cosine():
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification, num_labels=1)
    found = compared(model, batches("bert", 1)).quality()
    assert found.kl_after is None
    assert -1 <= found.cosine_after <= 1


def test_negative_mass_by_layer_and_by_length():
    model, (data,) = language_model(attn_implementation="eager"), batches("bert", 1)
    found = compared(model, [data]).quality()
    with torch.no_grad():
        attentions = [each.double() for each in model(**data, output_attentions=True).attentions]
    real = real_of(data)
    seen = torch.arange(1, 12).expand(4, 11)
    negative, total = (
        torch.stack([each.sum((1, 3)) for each in kind]) for kind in ([-w.clamp(max=0) for w in attentions], [w.abs() for w in attentions])
    )
    assert found.negative_mass == pytest.approx(
        [float(n[real].sum() / t[real].sum()) for n, t in zip(negative, total, strict=True)], rel=1e-5
    )
    assert [ends for *ends, _ in found.negative_mass_by_length] == [[1, 1], [2, 3], [4, 7], [8, 11]]
    for fewest, most, mass in found.negative_mass_by_length:
        chosen = real & (seen >= fewest) & (seen <= most)
        assert mass == pytest.approx(float(negative[:, chosen].sum() / total[:, chosen].sum()), rel=1e-5)


def test_of_an_encoder_the_length_is_that_of_the_input():
    found = compared(trained("bert"), batches("bert", 1)).quality()  # of 11, 8, 11 and 5 tokens
    assert [ends for *ends, _ in found.negative_mass_by_length] == [[4, 7], [8, 11]]


def test_heads_that_are_softmax_do_not_count():
    model, data = trained("bert", tanhmax_heads=[1], tanhmax_layers=[0, 2]), batches("bert", 1)
    found = compared(model, data).quality()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = [each[:, 1][real_of(data[0])] for each in model(**data[0], output_attentions=True).attentions]
    wanted = [float(-each.clamp(max=0).sum() / each.abs().sum()) for each in attentions]
    assert found.negative_mass == pytest.approx([wanted[0], wanted[2]], rel=1e-5)


def test_a_model_at_polarity_0_is_compared_at_another():
    model, data = trained("bert", tanhmax_polarity=0.0), batches("bert", 1)
    assert compared(model, data).quality().cosine_after == pytest.approx(1.0)
    assert compared(model, data, polarity=1.0).quality().cosine_after < 0.99


def test_no_more_is_kept_than_there_is_room_for(monkeypatch):
    data = batches("bert", 3)
    monkeypatch.setattr(quality, "LARGEST", 2 * 35 * 53)
    assert compared(language_model(), data).quality().rows == 2 * 35
    monkeypatch.setattr(quality, "LARGEST", 1)
    assert compared(language_model(), data).quality().rows == 35


def test_which_models_predict_the_next_token():
    assert is_language_model(language_model())
    assert not is_language_model(tiny_model(hf_tanhmax.TanhMaxLlamaModel))
    assert not is_language_model(tiny_model(hf_tanhmax.TanhMaxBertLMHeadModel))
    assert is_language_model(tiny_model(hf_tanhmax.TanhMaxBertLMHeadModel, is_decoder=True))
    assert not is_language_model(tiny_model(transformers.ViTModel))


def test_outputs_that_are_not_finite():
    model, data = trained("bert"), batches("bert", 1)
    comparison = compared(model, data)
    model.encoder.layer[0].attention.output.dense.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="converted, TanhMaxBertModel computes NaN for the held-out inputs; try float32"):
        comparison.quality()


def test_a_model_without_states():
    class Nothing(torch.nn.Module):
        def forward(self, **_):
            return ("nothing",)

    model = trained("bert")
    runner = Runner(model, modules_to_align(model))
    runner.model = Nothing()
    runner.model.weight = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="Nothing returns no logits or hidden states to compare; convert the part that does"):
        Comparison(runner, batches("bert", 1))
