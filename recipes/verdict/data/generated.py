r"""Rows in which something must be subtracted, with the best answer that is possible to each.

A row has `length` slots: the first holds [CLS], in two tasks the second says what is asked for, and the words are in random other slots, in
their order; empty slots are hidden by the mask. So a row with more distractors uses no slot that training did not.

* `set_difference`: sets of symbols S1 and S2 share n distractors; S1 has one more, and S2 another one. Asked for is the one of S1 less S2,
  or of S2 less S1. A word is a symbol and its set. Bayes: right.
* `noise_cancelling`: a channel holds n noise symbols, drawn with replacement, and one signal symbol; the other holds the noise, each symbol
  of it lost with probability 0.1. Asked for is the signal, of the channel that the second slot names. With d the counts of the one less
  those of the other, the probability that the signal is s is :math:`d_s / \sum_t d_t`: counts of lost words enter by :math:`1/d_s!`, and
  one s of the :math:`d_s` is the signal instead. Bayes: the largest d.
* `negation`: three, five or seven votes, yes or no in one of ten words each; "not" before a vote turns it round; n neutral words are
  anywhere. Asked for is what most votes say. Bayes: right.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..plan import Task
from .batches import LABELS, Batch, TaskData, in_batches

PADDING, BEGIN, FIRST_ASKED, SECOND_ASKED, NOT = range(5)
FIRST_WORD = 5
SYMBOLS, LOST = 16, 0.1
VOTES, WORDS_PER_VOTE, NEUTRAL = (3, 5, 7), 10, 20
VOCABULARY = FIRST_WORD + 2 * SYMBOLS + NEUTRAL
ROWS, VALIDATION_SEED, TEST_SEED = 1000, 10_001, 10_002  # of the rows that are the same for all models

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        words: after [CLS], in order; the first is what is asked for, where something is.
        label: the class.
        bayes: the probability that the best answer is right.
    """

    words: list[int]
    label: int
    bayes: float = 1.0


def set_difference(random: np.random.Generator, distractors: int) -> Row:
    """A row of the task of this name."""
    drawn = random.permutation(SYMBOLS)[: distractors + 2]
    shared, only = drawn[2:], drawn[:2]
    asked = int(random.integers(2))
    words = [_word(side, symbol) for side in (0, 1) for symbol in (*shared, only[side])]
    return Row([FIRST_ASKED + asked, *random.permutation(words).tolist()], int(only[asked]))


def noise_cancelling(random: np.random.Generator, distractors: int) -> Row:
    """A row of the task of this name."""
    noise, signal, asked = random.integers(SYMBOLS, size=distractors), int(random.integers(SYMBOLS)), int(random.integers(2))
    heard = noise[random.random(distractors) >= LOST]
    words = [_word(asked, symbol) for symbol in (*noise, signal)] + [_word(1 - asked, symbol) for symbol in heard]
    return Row([FIRST_ASKED + asked, *random.permutation(words).tolist()], signal, signal_probabilities(noise, heard, signal).max())


def signal_probabilities(noise: Numbers, heard: Numbers, signal: int) -> NDArray[np.float64]:
    """Of each symbol, that it is the signal, given all words: [symbols]."""
    counts = np.bincount(np.append(noise, signal), minlength=SYMBOLS) - np.bincount(heard, minlength=SYMBOLS)
    found: NDArray[np.float64] = counts / counts.sum()
    return found


def negation(random: np.random.Generator, distractors: int) -> Row:
    """A row of the task of this name."""
    votes = random.integers(2, size=random.choice(VOTES))
    turned = random.integers(2, size=len(votes))
    words: list[int] = []
    for vote, turn in zip(votes, turned, strict=True):
        said = FIRST_WORD + int(vote ^ turn) * WORDS_PER_VOTE + int(random.integers(WORDS_PER_VOTE))
        words += [NOT, said] if turn else [said]
    for _ in range(distractors):
        words.insert(int(random.integers(len(words) + 1)), FIRST_WORD + 2 * WORDS_PER_VOTE + int(random.integers(NEUTRAL)))
    return Row(words, int(2 * votes.sum() > len(votes)))


GENERATORS: dict[str, Callable[[np.random.Generator, int], Row]] = {
    "set_difference": set_difference,
    "noise_cancelling": noise_cancelling,
    "negation": negation,
}


def generated(task: Task) -> TaskData:
    """Training rows with one distractor up to the first number of the task; test rows with each of its numbers."""
    make = GENERATORS[task.name]
    test, bayes = {}, {}
    for number in task.distractors:
        rows, answers = _rows(task, make, np.random.default_rng([TEST_SEED, number]), [number] * ROWS)
        test[str(number)], bayes[str(number)] = in_batches(rows), float(np.mean(answers))
    validation, _ = _rows(task, make, np.random.default_rng(VALIDATION_SEED), [task.distractors[0]] * ROWS)

    def _training(seed: int) -> Iterator[Batch]:
        random = np.random.default_rng(seed)
        while True:
            yield _rows(task, make, random, random.integers(1, task.distractors[0] + 1, size=task.batch_size).tolist())[0]

    classes = 2 if task.name == "negation" else SYMBOLS
    origin: dict[str, object] = {"generator": task.name, "rows": ROWS, "distractors": list(task.distractors)}
    return TaskData(VOCABULARY, classes, _training, in_batches(validation), test, bayes, origin)


def _rows(
    task: Task, make: Callable[[np.random.Generator, int], Row], random: np.random.Generator, distractors: list[int]
) -> tuple[Batch, list[float]]:
    rows = [make(random, number) for number in distractors]
    ids = np.full((len(rows), task.length), PADDING)
    ids[:, 0] = BEGIN
    for place, row in enumerate(rows):
        fixed = int(row.words[0] in (FIRST_ASKED, SECOND_ASKED))
        free = np.arange(1 + fixed, task.length)
        slots = np.sort(random.choice(free, len(row.words) - fixed, replace=False))
        ids[place, np.concatenate([np.arange(1, 1 + fixed), slots])] = row.words
    tokens = torch.from_numpy(ids)
    batch = {"input_ids": tokens, "attention_mask": (tokens != PADDING).long(), LABELS: torch.tensor([row.label for row in rows])}
    return batch, [row.bayes for row in rows]


def _word(side: int, symbol: int | np.integer) -> int:
    return FIRST_WORD + side * SYMBOLS + int(symbol)
