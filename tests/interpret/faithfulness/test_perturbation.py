"""Copies in batches give what each gives alone."""

import dataclasses
import io
import itertools

import numpy
import pytest
import torch
from bag_of_words import bag_of_words
from families import images, softmax_twin, text, tiny_model
from tqdm import tqdm

import hf_tanhmax
from hf_tanhmax.interpret.attribution.target import Target
from hf_tanhmax.interpret.faithfulness.perturbation import Example, Perturbation, PerturbationRunner, advance, log_odds_of
from hf_tanhmax.interpret.inputs.encoding import encode

BERT = hf_tanhmax.TanhMaxBertForSequenceClassification


def runner(model, examples, batch_size=8, layers=(0, 1, 2)):
    return PerturbationRunner(model, examples, layers=list(layers), baseline=0, batch_size=batch_size)


def example(model, inputs, position=None, grid=None):
    return Example(encode(model, inputs), Target(1, position, ""), grid)


def test_log_odds_are_those_of_the_probability():
    rows, config = torch.randn(5, 7), tiny_model(BERT).config
    index = torch.tensor([0, 6, 3, 3, 1])
    probability = rows.double().softmax(-1)[torch.arange(5), index]
    torch.testing.assert_close(log_odds_of(rows, index, config), (probability / (1 - probability)).log())
    torch.testing.assert_close(log_odds_of(rows[:, :1], index * 0, config), rows[:, 0].double())


def test_probabilities_near_one_do_not_tie():
    rows = torch.tensor([[0.0, 40.0], [0.0, 41.0]])
    one, other = log_odds_of(rows, torch.tensor([1, 1]), tiny_model(BERT).config).tolist()
    assert (one, other) == (40, 41)


@pytest.mark.parametrize("twin", [False, True], ids=["tanhmax", "softmax"])
def test_every_kind_is_the_same_alone_and_in_a_batch(twin):
    model = tiny_model(BERT)
    model = softmax_twin(model) if twin else model
    examples = {3: example(model, {"input_ids": text(1, 6)}), 5: example(model, {"input_ids": text(1, 12)[:, 5:]})}
    copies = [
        Perturbation(index, kind, frozenset(erased))
        for index in examples
        for kind in ("attention", "mask", "deletion")
        for erased in ((), (1,), (0, 4))
    ]
    copies += [Perturbation(index, kind, draw=draw) for index in examples for kind in ("permutation", "random") for draw in (0, 1)]
    together = runner(model, examples).log_odds([*copies, *copies])
    assert set(together) == set(copies)
    for copy in copies:
        assert runner(model, examples, batch_size=1).log_odds([copy])[copy] == pytest.approx(together[copy], abs=1e-5)
    values = sorted(together.values())
    different = 1 + sum(later - earlier > 1e-5 for earlier, later in itertools.pairwise(values))
    assert different == len(copies) - 2 * 2  # nothing erased is the same in three kinds


def test_deletion_moves_the_position_that_is_read():
    model = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM)
    ids = text(1, 6)
    examples = {0: example(model, {"input_ids": ids}, position=5), 1: example(model, {"input_ids": ids}, position=3)}

    def alone(kept, position):
        with torch.no_grad():
            return float(log_odds_of(model(input_ids=ids[:, kept]).logits[:, position], torch.tensor([1]), model.config))

    copies = {
        Perturbation(0, "deletion", frozenset({1})): alone([0, 2, 3, 4, 5], 4),
        Perturbation(0, "deletion", frozenset({5})): alone([0, 1, 2, 3, 4], 4),
        Perturbation(1, "deletion", frozenset({1, 5})): alone([0, 2, 3, 4], 2),
        Perturbation(1, "deletion", frozenset({5, 4})): alone([0, 1, 2, 3], 3),
        Perturbation(1, "attention", frozenset({5})): alone([0, 1, 2, 3, 4, 5], 3),
    }
    found = runner(model, examples).log_odds(copies)
    for copy, want in copies.items():
        assert found[copy] == pytest.approx(want, abs=1e-5)


def test_where_nothing_would_be_left_the_first_token_is_masked():
    model = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM)
    examples = {0: example(model, {"input_ids": text(1, 2)}, position=1)}
    copy = Perturbation(0, "deletion", frozenset({0, 1}))
    with torch.no_grad():
        want = float(log_odds_of(model(input_ids=torch.zeros(1, 1, dtype=torch.long)).logits[:, 0], torch.tensor([1]), model.config))
    assert runner(model, examples).log_odds([copy])[copy] == pytest.approx(want, abs=1e-5)


def test_only_the_explained_layers_ignore_a_position():
    model = tiny_model(BERT)
    examples, copy = {0: example(model, {"input_ids": text(1, 6)})}, Perturbation(0, "attention", frozenset({2}))
    whole = runner(model, examples).log_odds([Perturbation(0, "mask")])[Perturbation(0, "mask")]
    found = [runner(model, examples, layers=layers).log_odds([copy])[copy] for layers in ((0,), (2,), (0, 1, 2))]
    assert len({round(value, 5) for value in (whole, *found)}) == 4


def test_kinds_that_do_not_exist_are_refused():
    model = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification)
    examples = {0: example(model, {"pixel_values": images(1)}, grid=(3, 3))}
    with pytest.raises(ValueError, match="a patch cannot be deleted"):
        runner(model, examples).log_odds([Perturbation(0, "deletion", frozenset({1}))])
    with pytest.raises(ValueError, match="no way to erase called 'blur'; choose one of attention"):
        runner(model, examples).log_odds([Perturbation(0, "blur")])


def test_progress_counts_copies():
    model, done = tiny_model(BERT), []
    examples = {0: example(model, {"input_ids": text(1, 6)})}
    counting = PerturbationRunner(model, examples, layers=[0], baseline=0, batch_size=4, progress=done.append)
    counting.log_odds([Perturbation(0, "mask", frozenset({place})) for place in range(6)])
    assert done == [4, 2]


def retained(index, *chances, positions=None, **changes):
    return Perturbation(index, "soft", frozenset(positions or range(len(chances))), retained=chances, **changes)


@pytest.mark.parametrize("cls", [BERT, hf_tanhmax.TanhMaxLlamaForCausalLM], ids=["bert", "llama"])
def test_a_chance_of_one_retains_all_and_of_zero_nothing(cls):
    model, inputs = tiny_model(cls), {"input_ids": text(1, 5)}
    examples = {0: example(model, inputs, position=4 if "Causal" in cls.__name__ else None)}
    half = frozenset((1, 3))
    asked = [Perturbation(0, "mask"), retained(0, *[1.0] * 5), retained(0, *[0.0] * 5), retained(0, 0.0, 0.0, positions=half)]
    whole, kept, none, some = runner(model, examples).log_odds(asked).values()
    assert kept == pytest.approx(whole, abs=1e-5)
    embedded = model.get_input_embeddings()(inputs["input_ids"])
    for found, erased in ((none, range(5)), (some, half)):
        zeroed = embedded.clone()
        zeroed[0, list(erased)] = 0
        with torch.no_grad():
            logits = model(inputs_embeds=zeroed).logits
        rows = logits if logits.dim() == 2 else logits[:, -1]
        assert found == pytest.approx(log_odds_of(rows, torch.tensor([1]), model.config).item(), abs=1e-5)


def test_soft_copies_of_pictures_lose_pixels():
    model, inputs = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification), {"pixel_values": images(1)}
    encoded = dataclasses.replace(encode(model, inputs), words=(None, *range(9)))
    examples = {0: Example(encoded, Target(1, None, ""), (3, 3))}
    patches = frozenset(range(1, 10))
    asked = [Perturbation(0, "mask"), Perturbation(0, "mask", patches)]
    asked += [retained(0, *[chance] * 9, positions=patches) for chance in (1.0, 0.0, 0.5)]
    whole, erased, kept, none, half = runner(model, examples).log_odds(asked).values()
    assert (kept, none) == (pytest.approx(whole), pytest.approx(erased))
    assert abs(half - whole) > 1e-4 < abs(half - erased)


def test_the_share_of_an_embedding_that_is_retained():
    """The mean over seeds of a linear model is what its chances say, and a seed draws the same for all that ask."""
    worth = torch.linspace(-2, 3, 53)
    model, ids = bag_of_words(worth, shares=(0.5, 0.5)), text(1, 4)
    asked = [retained(0, 0.9, 0.1, 0.5, 0.0, seed=seed) for seed in range(400)]
    found = list(runner(model, {0: example(model, {"input_ids": ids})}, layers=(0,)).log_odds(asked).values())
    expected = float((worth[ids[0]] * torch.tensor([0.9, 0.1, 0.5, 0.0])).mean())
    assert numpy.mean(found) == pytest.approx(expected, abs=4 * numpy.std(found) / 20)
    again = retained(7, 0.9, 0.1, 0.5, 0.0, seed=3)
    alone = runner(model, {7: example(model, {"input_ids": ids})}, batch_size=1, layers=(0,)).log_odds([again])
    assert alone[again] != found[3]  # another text draws other numbers
    assert runner(model, {0: example(model, {"input_ids": ids})}, batch_size=1, layers=(0,)).log_odds([asked[3]])[asked[3]] == found[3]


@pytest.mark.parametrize("kind", ["attention", "mask", "deletion"])
def test_erasing_words_of_a_bag(kind):
    """By attention or mask a word takes its part of the mean along, and what masks puts in its own; deletion shortens the mean."""
    worth = torch.linspace(-2, 3, 53)
    model, ids = bag_of_words(worth), text(1, 6)
    values, erased = worth[ids[0]], [0, 2, 5]
    kept = [place for place in range(6) if place not in erased]
    want = {"attention": values[kept].sum() / 6, "mask": (values[kept].sum() + 3 * worth[0]) / 6, "deletion": values[kept].mean()}[kind]
    copy = Perturbation(0, kind, frozenset(erased))
    found = runner(model, {0: example(model, {"input_ids": ids})}, layers=(0,)).log_odds([copy])[copy]
    assert found == pytest.approx(float(want), rel=1e-4)


def test_a_bar_stops_at_its_end():
    with tqdm(total=1, disable=False, file=io.StringIO()) as bar:
        for _ in range(11):
            advance(bar, 0.1)
        assert bar.n == 1
