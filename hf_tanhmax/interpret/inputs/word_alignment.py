"""Which tokens make up which word, from where a fast tokenizer found them in the text."""

import re
from collections.abc import Iterable
from typing import Any

# A word with its apostrophes, a character of a script that puts no spaces between words, or a mark on its own.
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+(?:['’]\w+)*|[^\w\s]"
)


def words_of(text: str, offsets: Iterable[tuple[int, int]], special: Iterable[bool]) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """The word of each token.

    Args:
        text: what was tokenized.
        offsets: where each token begins and ends in the text, in characters, as fast tokenizers give it.
        special: for each token whether it is special; those have no word.

    Returns:
        For each token the index of its word, or None; and the words. A token that spans several words belongs to the first of them;
        words that no token belongs to are left out. A token of nothing but white space is a word of its own.
    """
    spans = [match.span() for match in WORD.finditer(text)]
    starts: list[tuple[int, int] | None] = []
    for (begin, end), is_special in zip(offsets, special, strict=True):
        first = begin + len(text[begin:end]) - len(text[begin:end].lstrip())
        if is_special or end <= begin:
            starts.append(None)
        else:
            starts.append(next((span for span in spans if span[0] <= first < min(span[1], end)), (begin, end)))
    found = sorted({span for span in starts if span is not None})
    place = {span: index for index, span in enumerate(found)}
    return (
        tuple(None if span is None else place[span] for span in starts),
        tuple(text[begin:end] if text[begin:end].strip() else repr(text[begin:end])[1:-1] for begin, end in found),
    )


def readable(tokenizer: Any, identifiers: Iterable[int]) -> tuple[str, ...]:
    """Tokens as a reader knows them: no byte-level marks, white space escaped; numbers where there is no tokenizer.

    Args:
        tokenizer: a tokenizer of Transformers, or None.
        identifiers: indices of the vocabulary.
    """
    if tokenizer is None:
        return tuple(f"id {identifier}" for identifier in identifiers)
    texts = [tokenizer.decode([identifier]) for identifier in identifiers]
    return tuple(text.strip() or repr(text)[1:-1] for text in texts)
