"""Which tokens make up which word, by the character offsets of a fast tokenizer."""

import re
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

# A word with its apostrophes, a character of a script that puts no spaces between words, or a mark on its own.
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+(?:['’]\w+)*|[^\w\s]"
)


def align_words(text: str, offsets: Iterable[tuple[int, int]], special: Iterable[bool]) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """The word of each token.

    Args:
        text: the tokenized text.
        offsets: per token, where it begins and ends in the text, in characters, as fast tokenizers give it.
        special: per token, whether it is special; those have no word.

    Returns:
        Per token the index of its word, or None; and the words. A token that spans several words belongs to the first of them; words that
        no token belongs to are left out. A token of nothing but white space is a word of its own.
    """
    word_spans = [match.span() for match in WORD.finditer(text)]
    token_words: list[tuple[int, int] | None] = []
    for (begin, end), is_special in zip(offsets, special, strict=True):
        first = begin + len(text[begin:end]) - len(text[begin:end].lstrip())
        if is_special or end <= begin:
            token_words.append(None)
        else:
            token_words.append(next((span for span in word_spans if span[0] <= first < min(span[1], end)), (begin, end)))
    spans = sorted({span for span in token_words if span is not None})
    index = {span: number for number, span in enumerate(spans)}
    return (
        tuple(None if span is None else index[span] for span in token_words),
        tuple(text[begin:end] if text[begin:end].strip() else repr(text[begin:end])[1:-1] for begin, end in spans),
    )


def token_texts(tokenizer: PreTrainedTokenizerBase | None, identifiers: Iterable[int]) -> tuple[str, ...]:
    """Tokens as text: no byte-level marks, white space escaped; "id" and the number where there is no tokenizer.

    Args:
        tokenizer: of the model, or None.
        identifiers: indices of the vocabulary.
    """
    if tokenizer is None:
        return tuple(f"id {identifier}" for identifier in identifiers)
    texts = [str(tokenizer.decode([identifier])) for identifier in identifiers]
    return tuple(text.strip() or repr(text)[1:-1] for text in texts)
