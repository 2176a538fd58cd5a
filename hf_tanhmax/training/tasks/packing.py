"""Documents packed into rows of one length, without a look from one into another.

Every row holds pieces of documents side by side. The positions of each piece count from 0, by which Transformers separates them when there
is no padding mask and no cache; the first token of a piece has no label, as nothing of its own stands before it.
"""

from collections.abc import Iterable

from .losses import IGNORED


def packed(documents: Iterable[list[int]], *, length: int, pad_token_id: int) -> dict[str, list[list[int]]]:
    """Rows of `input_ids`, `position_ids` and `labels`, each `[rows][length]`.

    Args:
        documents: tokens of each; one that does not fit in what is left of a row goes on in the next, as a piece of its own.
        length: tokens of a row.
        pad_token_id: fills the last row, as a piece without labels.
    """
    rows: dict[str, list[list[int]]] = {"input_ids": [], "position_ids": [], "labels": []}
    room = 0

    def add(ids: list[int], labels: list[int]) -> None:
        rows["input_ids"][-1] += ids
        rows["position_ids"][-1] += range(len(ids))
        rows["labels"][-1] += labels

    for document in documents:
        start = 0
        while start < len(document):
            if room == 0:
                for column in rows.values():
                    column.append([])
                room = length
            piece = document[start : start + room]
            add(piece, [IGNORED, *piece[1:]])
            start, room = start + len(piece), room - len(piece)
    if room:
        add([pad_token_id] * room, [IGNORED] * room)
    return rows
