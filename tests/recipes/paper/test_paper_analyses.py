"""The analyses against brute force, the generator, the leak, and the signs."""

import torch
from scipy.stats import kendalltau

from recipes.paper import corpus, signs
from recipes.paper.learning import analyses
from recipes.paper.learning.modeling import PaperClassifier, PaperConfig
from recipes.paper.learning.training import Documents


def small(attention="tanhmax"):
    torch.manual_seed(5)
    model = (
        PaperClassifier(PaperConfig(vocab_size=13, embedding_size=7, hidden_size=5, score_gain=9.0, attention=attention)).double().eval()
    )
    ids = torch.randint(2, 13, (6, 7))
    ids[1, 4:], ids[2, 1:] = 0, 0
    return model, Documents(ids, torch.tensor([0, 1, 1, 0, 1, 0]))


def test_erasures_by_running_the_model_again():
    model, documents = small()
    parts = analyses.parts_of(model, documents)
    attention, inputs = analyses.attention_erasure(parts), analyses.input_erasure(model, parts)
    for row, ids in enumerate(documents.input_ids):
        for place in range(int((ids > 0).sum())):
            weights = parts.weights[row].clone()
            weights[place] = 0
            value = model.value(model.embeddings(ids))
            erased = torch.sigmoid(model.readout(weights @ value))[0]
            torch.testing.assert_close(attention[row, place], parts.probability[row] - erased)
            without = torch.cat([ids[:place], ids[place + 1 :]])[None]
            torch.testing.assert_close(inputs[row, place], parts.probability[row] - model(without).logits.sigmoid()[0])


def test_differences_keep_their_digits():
    one, other = torch.tensor([60.0, 3.0, -50.0], dtype=torch.float64), torch.tensor([61.0, 1.0, -50.5], dtype=torch.float64)
    found = analyses._difference(one, other)
    assert found[0] < 0
    assert found[2] > 0
    torch.testing.assert_close(found[1], one[1].sigmoid() - other[1].sigmoid())
    assert analyses._difference(one, other, rounded=True)[0] == 0


def test_gradient_sizes_by_differences():
    model, documents = small()
    sizes = analyses.gradient_sizes(model, documents)
    embeddings = model.embeddings(documents.input_ids[:1]).detach()
    slopes = torch.zeros(7, dtype=torch.float64)
    for part in range(7):
        moved = [embeddings.clone(), embeddings.clone()]
        for side, step in zip(moved, (1e-6, -1e-6), strict=True):
            side[0, 2, part] += step
        high, low = (model(inputs_embeds=side, attention_mask=torch.ones(1, 7)).logits for side in moved)
        slopes[part] = (high - low) / 2e-6
    torch.testing.assert_close(sizes[0, 2], slopes.norm(), rtol=1e-6, atol=1e-9)


def test_tau_is_scipys_over_real_tokens():
    model, documents = small()
    parts = analyses.parts_of(model, documents)
    found = analyses.correlations(parts.weights, parts.effects, parts.keep)
    assert found.undefined == 1  # a sentence of one token
    expected = kendalltau(parts.weights[1, :4], parts.effects[1, :4])
    assert found.tau[1] == expected.statistic
    assert found.p[1] == expected.pvalue
    assert sum(found.summary()["histogram"]) == len(found.tau) == 5


def test_shuffles_keep_the_weights_and_random_ones_their_sum():
    model, documents = small()
    parts = analyses.parts_of(model, documents)
    changes = analyses.permutation_changes(parts, torch.Generator().manual_seed(0), draws=20)
    assert changes[2] == 0  # one token has one order
    assert (changes[[0, 1, 3, 4, 5]] > 0).all()
    one_word = analyses.Parts(parts.keep, parts.scores, parts.weights, torch.ones_like(parts.effects), parts.logits)
    torch.testing.assert_close(
        analyses.permutation_changes(one_word, torch.Generator().manual_seed(0), draws=5),
        torch.zeros(6, dtype=torch.float64),
        atol=1e-12,
        rtol=0,
    )
    scaled = analyses.random_changes(one_word, torch.Generator().manual_seed(0), signed=False, draws=5)
    expected = (parts.logits - parts.weights.sum(1) + parts.weights.abs().sum(1)).sigmoid() - parts.probability
    torch.testing.assert_close(scaled, expected.abs())


def test_the_leak():
    """A model that knows nothing of the words reads the label: with class 0 the TanhMax output is the bias alone."""
    model, documents = small()
    model.readout.bias.data.fill_(-1e-9)
    parts = analyses.parts_of(model, documents)
    right = [bool(logit > 0) if label else True for logit, label in zip(parts.logits, documents.labels, strict=True)]
    assert analyses.leaky_accuracy(model, documents) == sum(right) / len(right)
    model.readout.bias.data.fill_(1e-9)
    assert analyses.leaky_accuracy(model, documents) <= 0.5


def test_synthetic_documents():
    made = corpus.synthetic(documents=200, vocabulary=100, polar=20)
    assert (len(made.train), len(made.test), len(made.fit), len(made.validation)) == (140, 60, 126, 14)
    for documents in (made.train, made.test):
        polarity = made.polarity[documents.input_ids]
        sign = documents.labels * 2 - 1
        assert ((polarity == sign[:, None]).sum(1) == corpus.POLAR_IN_DOCUMENT).all()
        assert ((polarity == 0).sum(1) == corpus.NEUTRAL_IN_DOCUMENT).all()
    assert [int((made.polarity == sign).sum()) for sign in (1, -1, 0)] == [10, 10, 80]
    assert corpus.synthetic(documents=200, vocabulary=100, polar=20).fingerprint == made.fingerprint


def test_word_polarity_counts_each_word_afresh():
    """A word that no negative document has is positive, whatever word came before it."""
    rows = torch.tensor([[2] * 8, [3] * 8, [4, 4, 4, 4, 0, 0, 0, 0], [4, 4, 4, 4, 1, 1, 1, 1]])
    found = corpus.word_polarity(Documents(rows, torch.tensor([0, 1, 0, 1])), 6)
    assert found.tolist() == [2, 2, -1, 1, 0, 2]


def test_orientation_undoes_a_flip():
    model, documents = small()
    before = signs.signs_of(analyses.parts_of(model, documents))
    logits = model(documents.input_ids).logits
    for part in (model.query, model.value):
        part.weight.data.neg_()
        part.bias.data.neg_()
    after = signs.signs_of(analyses.parts_of(model, documents))
    torch.testing.assert_close(model(documents.input_ids).logits, logits)
    assert after.orientation == -before.orientation
    assert abs(after.agreement - before.agreement) < 1e-12
    assert abs(after.negative_mass - (1 - before.negative_mass)) < 1e-12


def test_kinds_of_solutions():
    assert signs.Signs(1.0, 0.99, 0.5).kind(0.9, 0.5) == "two-signed"
    assert signs.Signs(1.0, 0.99, 0.02).kind(0.9, 0.5) == "one-signed"
    assert signs.Signs(1.0, 0.7, 0.5).kind(0.9, 0.5) == "mixed"
    assert signs.Signs(1.0, 0.99, 0.5).kind(0.54, 0.5) == "not learned"


def test_separation_is_that_of_oriented_weights():
    means = {"count": torch.ones(6), "weight": torch.tensor([-3.0, -2.0, 1.0, 2.0, 0.0, 9.0])}
    polarity = torch.tensor([1, 1, -1, -1, 0, 2])
    assert signs.separation(means, polarity, -1.0) == 1.0
    assert signs.separation(means, polarity, 1.0) == 0.0
    assert signs.separation(means, torch.zeros(6), 1.0) is None
