"""Documents as token ids: the paper's synthetic task, or texts, whose vocabulary is the most frequent words of the train split.

Word 0 is padding; word 1 any word that is not among them. The published code has one number for both.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hf_tanhmax.errors import RecipeError

from .learning.training import Documents
from .settings import DataSet

PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2
GENERATOR_SEED, SPLIT_SEED = 123, 42
POLAR_IN_DOCUMENT, NEUTRAL_IN_DOCUMENT = 2, 10
TEST_SHARE, VALIDATION_SHARE = 0.3, 0.1
PUNCTUATION = re.compile(r"<br />|[()\"',.:;#&?!]")
POSITIVE, NEGATIVE, NEUTRAL = 1, -1, 0
NAMES = {POSITIVE: "positive", NEGATIVE: "negative", NEUTRAL: "neutral"}


@dataclass(frozen=True)
class Corpus:
    """A data set, ready to train on.

    Attributes:
        train: all training documents.
        fit: those that settings are tried on; with `validation` they are `train`, unless the set brings a validation split.
        validation: those that settings are chosen by.
        test: read after training only.
        words: the text of each word number; the first two are padding and the unknown.
        polarity: for each word 1, -1 or 0 where it is known to be positive, negative or neutral, and 2 where it is none of these; [V].
        fingerprint: where the documents came from.
    """

    train: Documents
    fit: Documents
    validation: Documents
    test: Documents
    words: tuple[str, ...]
    polarity: Tensor
    fingerprint: dict[str, object]

    def unknown_as_padding(self) -> "Corpus":
        """The same with padding for unknown words, as the published code has it."""

        def changed(documents: Documents) -> Documents:
            return replace(documents, input_ids=documents.input_ids.masked_fill(documents.input_ids == UNKNOWN, PADDING))

        train, fit, validation, test = map(changed, (self.train, self.fit, self.validation, self.test))
        return replace(self, train=train, fit=fit, validation=validation, test=test)


def synthetic(documents: int = 10_000, vocabulary: int = 2_000, polar: int = 200) -> Corpus:
    """The paper's synthetic task: 2 polar words of the document's class, 10 neutral ones, drawn with replacement.

    Args:
        documents: the first half is positive.
        vocabulary: V, words.
        polar: P, of which one half is positive and the next negative, after the words are permuted.
    """
    generator = np.random.RandomState(GENERATOR_SEED)
    order = generator.permutation(vocabulary)
    groups = {POSITIVE: order[: polar // 2], NEGATIVE: order[polar // 2 : polar], NEUTRAL: order[polar:]}
    rows, labels = [], []
    for number in range(documents):
        label = int(number < documents / 2)
        drawn = generator.choice(groups[POSITIVE if label else NEGATIVE], POLAR_IN_DOCUMENT)
        rows.append(np.concatenate([drawn, generator.choice(groups[NEUTRAL], NEUTRAL_IN_DOCUMENT)]))
        labels.append(label)
    made = Documents(torch.from_numpy(np.stack(rows)) + FIRST_WORD, torch.tensor(labels))
    train, test = _divided(made, TEST_SHARE)
    fit, validation = _divided(train, VALIDATION_SHARE)
    polarity = torch.full((vocabulary + FIRST_WORD,), 2)
    for sign, members in groups.items():
        polarity[torch.from_numpy(members) + FIRST_WORD] = sign
    words = ("", "", *(f"w{number}" for number in range(vocabulary)))
    fingerprint = {"source": "synthetic", "documents": documents, "vocabulary": vocabulary, "polar": polar, "sha256": _digest(made)}
    return Corpus(train, fit, validation, test, words, polarity, fingerprint)


def from_texts(tables: dict[str, tuple[list[str], list[int]]], data_set: DataSet, fingerprint: dict[str, object]) -> Corpus:
    """Texts as numbers.

    Args:
        tables: texts and labels (0 or 1) of `train`, `test`, and `validation` if there is one.
        data_set: how many words of how long texts.
        fingerprint: where they came from.

    Raises:
        RecipeError: a label that is neither 0 nor 1, one class only, or no word at all.
    """
    for split, (_, labels) in tables.items():
        wrong = next((label for label in labels if label not in (0, 1)), None)
        if wrong is not None or len(set(labels)) != 2:
            raise RecipeError(
                f"{data_set.name}: the {split} data holds {'the label ' + repr(wrong) if wrong is not None else 'one class only'}, "
                "but must hold the labels 0 and 1"
            )
    counts = Counter(word for text in tables["train"][0] for word in tokens(text, data_set.max_length))
    if not counts:
        raise RecipeError(f"{data_set.name}: the train texts hold no words")
    words = ("", "", *(word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: data_set.vocabulary]))
    numbers = {word: number for number, word in enumerate(words) if number >= FIRST_WORD}
    splits = {split: _numbered(texts, labels, numbers, data_set.max_length) for split, (texts, labels) in tables.items()}
    train = splits["train"]
    fit, validation = (train, splits["validation"]) if "validation" in splits else _divided(train, VALIDATION_SHARE)
    rows = {split: len(documents) for split, documents in splits.items()}
    return Corpus(train, fit, validation, splits["test"], words, word_polarity(train, len(words)), fingerprint | {"rows": rows})


def tokens(text: str, length: int) -> list[str]:
    """The first words of a text in lower case, punctuation removed."""
    return PUNCTUATION.sub("", text.lower()).split()[:length]


def word_polarity(documents: Documents, vocabulary: int) -> Tensor:
    """Of each word, by how often it occurs in each class: 1 positive, -1 negative, 0 neutral, 2 none of these; [V] int64.

    With P and N occurrences and c = (P - N) / (P + N), a word is positive where c > 0.5 and P > 5, negative where c < -0.5 and N > 5,
    neutral where |c| < 0.1 and |P - N| < 5 (the thresholds of the paper's code). Padding and the unknown word are none.
    """
    counts = [torch.bincount(documents.input_ids[documents.labels == label].flatten(), minlength=vocabulary) for label in (0, 1)]
    negative, positive = (count.double() for count in counts)
    lean = (positive - negative) / (positive + negative)  # NaN for a word that never occurs, which is none
    found = torch.full((vocabulary,), 2)
    found[(lean.abs() < 0.1) & ((positive - negative).abs() < 5)] = NEUTRAL
    found[(lean > 0.5) & (positive > 5)] = POSITIVE
    found[(lean < -0.5) & (negative > 5)] = NEGATIVE
    found[:FIRST_WORD] = 2
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _numbered(texts: list[str], labels: list[int], numbers: dict[str, int], length: int) -> Documents:
    ids = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in enumerate(texts):
        found = [numbers.get(word, UNKNOWN) for word in tokens(text, length)]
        ids[row, : len(found)] = torch.tensor(found, dtype=torch.int64)
    return Documents(ids, torch.tensor(labels))


def _divided(documents: Documents, share: float) -> tuple[Documents, Documents]:
    """The larger and the smaller part, by the paper's split seed."""
    from sklearn.model_selection import train_test_split

    if len(documents) < 4:
        raise RecipeError(f"{len(documents)} documents cannot be divided; give at least 4")
    large, small = train_test_split(np.arange(len(documents)), test_size=share, random_state=SPLIT_SEED)
    return documents.select(torch.from_numpy(large)), documents.select(torch.from_numpy(small))


def _digest(documents: Documents) -> str:
    return hashlib.sha256(documents.input_ids.numpy().tobytes() + documents.labels.numpy().tobytes()).hexdigest()
