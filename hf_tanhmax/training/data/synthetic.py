"""The embedded texts. The paper's synthetic task (Huang et al. 2024): the class of a document is told by two of its twelve words.

The words are permuted; the first half of the polar ones is positive, the second half negative, all others are neutral. A document holds
2 polar words of its class and 10 neutral ones, drawn with replacement, in random order; half the documents are of each class.
"""

import numpy as np

POLAR_IN_DOCUMENT, NEUTRAL_IN_DOCUMENT = 2, 10
GENERATOR_SEED, SPLIT_SEED = 123, 42
TRAIN_SHARE = 0.7

Rows = dict[str, list[str] | list[int]]


def synthetic_splits(documents: int = 10_000, vocabulary: int = 2_000, polar: int = 200) -> dict[str, Rows]:
    """`{"train": ..., "test": ...}` with columns `text` and `label` (1 is positive), 70 and 30 percent of the documents.

    The seeds are fixed: the data is the same in every run, whatever the seed of the training.
    """
    generator = np.random.default_rng(GENERATOR_SEED)
    words = generator.permutation(vocabulary)
    by_class = {1: words[: polar // 2], 0: words[polar // 2 : polar]}
    neutral = words[polar:]
    labels = [int(index < documents // 2) for index in range(documents)]
    texts = []
    for label in labels:
        drawn = [generator.choice(by_class[label], POLAR_IN_DOCUMENT), generator.choice(neutral, NEUTRAL_IN_DOCUMENT)]
        texts.append(" ".join(f"w{word}" for word in generator.permutation(np.concatenate(drawn))))
    order = np.random.default_rng(SPLIT_SEED).permutation(documents)
    cut = round(documents * TRAIN_SHARE)
    return {
        split: {"text": [texts[index] for index in indices], "label": [labels[index] for index in indices]}
        for split, indices in (("train", order[:cut]), ("test", order[cut:]))
    }


def synthetic_conversations(largest: int = 40) -> dict[str, list[list[dict[str, str]]]]:
    """Sums as questions and answers, `{"train": ..., "test": ...}`, each a list of conversations of two messages.

    Args:
        largest: of the two numbers that are added; all pairs from 0 to it come once, 70 percent of them to learn from.
    """
    pairs = [(left, right) for left in range(largest + 1) for right in range(largest + 1)]
    made = [
        [
            {"role": "user", "content": f"What is {left} plus {right}?"},
            {"role": "assistant", "content": f"{left} plus {right} is {left + right}."},
        ]
        for left, right in pairs
    ]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(made))
    cut = round(len(made) * TRAIN_SHARE)
    return {"train": [made[index] for index in order[:cut]], "test": [made[index] for index in order[cut:]]}
