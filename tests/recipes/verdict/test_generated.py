"""Generated rows: their answers, the best that is possible to each, and that no row of the test is one of training."""

import itertools
import math

import numpy as np
import pytest
import torch

from recipes.verdict.data import generated as module
from recipes.verdict.data.generated import GENERATORS, SYMBOLS, generated, negation, noise_cancelling, set_difference, signal_probabilities
from recipes.verdict.plan import read_plan

TASKS = {name: task for name, task in read_plan().tasks.items() if name in GENERATORS}


def split(row):
    """What is asked for, and the symbols of either side."""
    asked, *words = row.words
    sides = [[], []]
    for word in words:
        side, symbol = divmod(word - module.FIRST_WORD, SYMBOLS)
        sides[side].append(symbol)
    return asked - module.FIRST_ASKED, sides


@pytest.mark.parametrize("distractors", [1, 4, 8])
def test_the_difference_of_two_sets(distractors):
    random = np.random.default_rng(0)
    for _ in range(50):
        row = set_difference(random, distractors)
        asked, sides = split(row)
        assert len(sides[0]) == len(sides[1]) == distractors + 1
        assert {row.label} == set(sides[asked]) - set(sides[1 - asked])


@pytest.mark.parametrize("distractors", [1, 6, 12])
def test_the_signal_is_what_the_other_channel_lacks(distractors):
    random = np.random.default_rng(0)
    chances = []
    for _ in range(200):
        row = noise_cancelling(random, distractors)
        asked, sides = split(row)
        left = np.bincount(sides[asked], minlength=SYMBOLS) - np.bincount(sides[1 - asked], minlength=SYMBOLS)
        assert len(sides[asked]) == distractors + 1
        assert left.min() == 0
        assert left[row.label] >= 1
        assert row.bayes == pytest.approx(left.max() / left.sum())
        chances.append(row.bayes)
    assert min(chances) < max(chances) == 1


def test_the_probability_of_a_signal_is_that_of_counting_all_ways(monkeypatch):
    """Three symbols, three noise words: every way that the words could have come about, weighed by its probability."""
    monkeypatch.setattr(module, "SYMBOLS", 3)
    chance = {}
    for signal, noise in itertools.product(range(3), itertools.product(range(3), repeat=3)):
        for kept in itertools.product((0, 1), repeat=3):
            heard = [symbol for symbol, keep in zip(noise, kept, strict=True) if keep]
            seen = (tuple(np.bincount([*noise, signal], minlength=3)), tuple(np.bincount(heard, minlength=3) if heard else (0, 0, 0)))
            weight = math.prod(0.9 if keep else 0.1 for keep in kept)
            chance.setdefault(seen, np.zeros(3))[signal] += weight
            chance[seen, "example"] = (np.array(noise), np.array(heard, dtype=int), signal)
    for seen, weights in [(key, value) for key, value in chance.items() if "example" not in key]:
        np.testing.assert_allclose(signal_probabilities(*chance[seen, "example"]), weights / weights.sum())


def test_votes_are_turned_round():
    random = np.random.default_rng(0)
    for _ in range(100):
        row = negation(random, 5)
        yes, turned, neutral = 0, False, 0
        for word in row.words:
            kind = (word - module.FIRST_WORD) // module.WORDS_PER_VOTE
            if word == module.NOT:
                turned = True
            elif kind < 2:
                yes += 1 if (kind == 1) != turned else -1
                turned = False
            else:
                neutral += 1
        assert row.label == (yes > 0)
        assert neutral == 5


@pytest.mark.parametrize("name", TASKS)
def test_batches(name):
    task = TASKS[name]
    data = generated(task)
    assert list(data.test) == [str(number) for number in task.distractors]
    for batches in (data.validation, *data.test.values()):
        assert sum(len(batch["labels"]) for batch in batches) == module.ROWS
    assert all(0.5 < chance <= 1 for chance in data.bayes.values())
    first, again = (next(data.training(seed)) for seed in (0, 0))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["input_ids"], next(data.training(1))["input_ids"])
    assert first["input_ids"].shape == (task.batch_size, task.length)
    assert torch.equal(first["attention_mask"].bool(), first["input_ids"] != module.PADDING)
    assert int(first["input_ids"].max()) < data.words
    assert int(first["labels"].max()) < data.classes
    assert first["input_ids"][:, 0].eq(module.BEGIN).all()
    longest = [data.test[part][0]["attention_mask"].sum(1).max() for part in data.test]
    assert longest[0] < longest[1]
    assert first["input_ids"][:, -1].any()  # also late slots are used in training


def test_the_bayes_answer_of_noise_cancelling_is_harder_with_more_noise():
    bayes = generated(TASKS["noise_cancelling"]).bayes
    assert 0.5 < bayes["12"] < bayes["6"] < 1
