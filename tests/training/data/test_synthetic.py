"""The embedded texts against their descriptions."""

import re

from hf_tanhmax.training.data.synthetic import synthetic_conversations, synthetic_splits


def test_the_synthetic_task_is_as_described():
    made = synthetic_splits()
    assert {split: len(rows["text"]) for split, rows in made.items()} == {"train": 7000, "test": 3000}
    labels = made["train"]["label"] + made["test"]["label"]
    assert sum(labels) == 5000
    classes = {0: set(), 1: set()}
    for text, label in zip(made["train"]["text"] + made["test"]["text"], labels, strict=True):
        words = text.split()
        assert len(words) == 12
        classes[label] |= set(words)
    told = {0: classes[0] - classes[1], 1: classes[1] - classes[0]}
    assert {label: len(words) for label, words in told.items()} == {0: 100, 1: 100}
    assert len(classes[0] & classes[1]) == 1800
    for text, label in zip(made["train"]["text"], made["train"]["label"], strict=True):
        assert [sum(word in told[kind] for word in text.split()) for kind in (label, 1 - label)] == [2, 0]
    assert made == synthetic_splits()


def test_every_sum_is_asked_once_and_answered_right():
    made = synthetic_conversations(largest=6)
    assert {split: len(talks) for split, talks in made.items()} == {"train": 34, "test": 15}
    asked = []
    for question, answer in made["train"] + made["test"]:
        assert (question["role"], answer["role"]) == ("user", "assistant")
        left, right = map(int, re.fullmatch(r"What is (\d+) plus (\d+)\?", question["content"]).groups())
        assert answer["content"] == f"{left} plus {right} is {left + right}."
        asked.append((left, right))
    assert sorted(asked) == [(left, right) for left in range(7) for right in range(7)]
    assert asked != sorted(asked)
    assert made == synthetic_conversations(largest=6)
