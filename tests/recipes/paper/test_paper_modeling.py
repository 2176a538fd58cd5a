"""The classifier and its training against the paper's formulas in float64, padding, saving, and torch's own Adadelta."""

import pytest
import torch

from recipes.paper.learning.modeling import PaperClassifier, PaperConfig
from recipes.paper.learning.row_adadelta import RowAdadelta
from recipes.paper.learning.training import Documents, Schedule, trained

IDS = torch.tensor([[5, 3, 7, 3, 0, 0], [2, 9, 4, 8, 6, 3]])


def model_of(**changes):
    torch.manual_seed(3)
    return PaperClassifier(PaperConfig(vocab_size=11, embedding_size=7, hidden_size=5, score_gain=6.0, **changes)).double().eval()


@pytest.mark.parametrize("score_function", ["dot", "additive"])
@pytest.mark.parametrize("attention", ["softmax", "tanh", "tanhmax"])
def test_the_papers_formula(score_function, attention):
    model = model_of(score_function=score_function, attention=attention, scale=0.3)
    output = model(IDS)
    for row, length in enumerate((4, 6)):
        x = model.embeddings.weight[IDS[row, :length]]
        q, k, v = (x @ part.weight.T + part.bias for part in (model.query, model.key, model.value))
        a = (q * k).sum(1) / 0.3 if score_function == "dot" else torch.tanh(q + k) @ model.score_vector
        w = {"softmax": a.exp() / a.exp().sum(), "tanh": a.tanh(), "tanhmax": a.sinh() / a.cosh().sum()}[attention]
        z = model.readout.weight[0] @ (w @ v) + model.readout.bias[0]
        torch.testing.assert_close(output.logits[row], z)
        torch.testing.assert_close(output.weights[row, :length], w)
        torch.testing.assert_close((output.weights[row] * output.effects[row]).sum() + model.readout.bias[0], z)


def test_padding_never_leaks():
    model = model_of()
    longer = torch.cat([IDS, torch.zeros(2, 3, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(model(longer).logits, model(IDS).logits)
    assert (model(IDS).weights[0, 4:] == 0).all()
    before = model(IDS).logits
    model.embeddings.weight.data[0] = 100.0
    torch.testing.assert_close(model(IDS).logits, before)
    assert not torch.allclose(model_of(mask_padding=False)(longer).logits, model_of(mask_padding=False)(IDS).logits)
    assert model(torch.zeros(1, 4, dtype=torch.int64)).logits[0] == model.readout.bias[0]


def test_saved_and_loaded(tmp_path):
    model = model_of(score_bias=1.5, score_function="additive").float()
    assert model.score_bias == 1.5
    model.save_pretrained(tmp_path)
    loaded = PaperClassifier.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.eval()(IDS).logits, model(IDS).logits, rtol=0, atol=0)


def test_embeddings_in_place_of_words():
    model = model_of()
    same = model(inputs_embeds=model.embeddings(IDS), attention_mask=model.keep(IDS))
    torch.testing.assert_close(same.logits, model(IDS).logits)
    with pytest.raises(ValueError, match="give an attention_mask"):
        model(inputs_embeds=model.embeddings(IDS))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="attention must be one of softmax, tanh, tanhmax, but is 'relu'"):
        PaperConfig(attention="relu")


def test_rows_are_trained_as_torch_does():
    table = torch.randn(2, 7, 3, dtype=torch.float64)
    whole = table.clone().requires_grad_()
    rows, torchs = RowAdadelta(table, 0.5), torch.optim.Adadelta([whole], lr=0.5)
    for _ in range(30):
        chosen, gradient = torch.randperm(7)[:3], torch.randn(2, 3, 3, dtype=torch.float64)
        rows.step(chosen, gradient)
        whole.grad = torch.zeros_like(whole).index_copy(1, chosen, gradient)
        torchs.step()
    torch.testing.assert_close(table, whole.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("score_function", ["dot", "additive"])
def test_seeds_trained_together_are_those_trained_alone_and_by_a_plain_loop(score_function):
    generator = torch.Generator().manual_seed(0)
    documents = Documents(torch.randint(0, 11, (23, 6), generator=generator), torch.randint(0, 2, (23,), generator=generator))
    config = PaperConfig(
        vocab_size=11, embedding_size=7, hidden_size=5, score_function=score_function, score_bias=0.5, readout_dropout=0.0, score_gain=3.0
    )
    schedule = Schedule(0.5, epochs=4, batch_size=5)
    together = trained(config, documents, schedule, seeds=[4, 9])
    alone = trained(config, documents, schedule, seeds=[9])[0]
    torch.manual_seed(9)
    plain = PaperClassifier(config)
    optimizer, orders = torch.optim.Adadelta(plain.parameters(), lr=0.5), torch.Generator().manual_seed(9)
    for _ in range(4):
        for rows in torch.randperm(23, generator=orders).split(5):
            torch.rand(len(rows), 5, generator=orders)
            optimizer.zero_grad()
            (plain(documents.input_ids[rows], labels=documents.labels[rows]).loss * 100).backward()
            optimizer.step()
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(dict(together[1].named_parameters())[name], weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(dict(alone.named_parameters())[name], weight, rtol=1e-3, atol=1e-4)
