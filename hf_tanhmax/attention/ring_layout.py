"""Which queries of one rank see which keys of another, as rectangles of local rows and columns.

A sequence of `size * length` positions is shared out in pieces of `length`. In a zigzag layout it is cut into `2 * size` chunks, and a rank
holds the one of its number from the front and the one of its number from the back: under causality every rank then has the same number of
scores to compute, and the same in every step. Otherwise a rank holds one piece after the other. In both, positions ascend within a rank.

Two spans of positions that are not the same one do not overlap, so that one lies before the other:

* under causality the keys behind the queries are hidden, and those before them are all seen;
* of packed sequences at most one reaches from one span into the other: the last one of the earlier span. It cuts out a rectangle;
* a window cuts off far corners.

So a mask within a rectangle is needed only where queries and keys are of one span, and along the edge of a window.
"""

from bisect import bisect_right
from typing import NamedTuple

import torch
from torch import Tensor

Span = tuple[int, int]  # half-open


class Layout(NamedTuple):
    """How a sequence is shared out: over `size` ranks, `length` positions to each."""

    size: int
    length: int
    zigzag: bool

    def spans(self, rank: int) -> list[Span]:
        """The positions that a rank holds, ascending."""
        if not self.zigzag:
            return [(rank * self.length, (rank + 1) * self.length)]
        chunk, last = self.length // 2, 2 * self.size - 1 - rank
        return [(rank * chunk, (rank + 1) * chunk), (last * chunk, (last + 1) * chunk)]

    def positions(self, rank: int) -> Tensor:
        """The position of each of a rank's rows, int64 `[length]`."""
        return torch.cat([torch.arange(*span) for span in self.spans(rank)])


class Visibility(NamedTuple):
    """What hides keys from queries, by positions.

    Attributes:
        causal: whether later keys are hidden.
        window: as in `AttentionMask`.
        bounds: where packed sequences begin and end, ascending from 0; None without packing.
    """

    causal: bool
    window: int | None
    bounds: tuple[int, ...] | None

    @property
    def nothing(self) -> bool:
        """Whether every query sees every key."""
        return not self.causal and self.window is None and self.bounds is None

    def sequence(self, position: int) -> Span:
        """The packed sequence of a position."""
        bounds = self.bounds or ()
        index = bisect_right(bounds, position)
        return bounds[index - 1], bounds[index]


def bounds_of(cu_seqlens: Tensor) -> tuple[int, ...]:
    """The bounds of packed sequences, as numbers."""
    return tuple(cu_seqlens.tolist())


class Rectangle(NamedTuple):
    """Some rows (queries of this rank) and columns (keys of another), and the mask in it, as `AttentionMask` has it."""

    rows: Span
    columns: Span
    causal: bool = False
    offset: int = 0
    window: int | None = None
    segments: Tensor | None = None

    @property
    def sides(self) -> tuple[Span, Span]:
        """Rows and columns."""
        return self.rows, self.columns

    @property
    def full(self) -> bool:
        """Whether all is visible."""
        return not self.causal and self.window is None and self.segments is None


def rectangles(layout: Layout, seen: Visibility, rank: int, other: int, queries: int) -> list[Rectangle]:
    """What the queries of `rank`, which are as many as its positions if anything is hidden, see of the keys of `other`."""
    whole = (0, layout.length)
    if seen.nothing:
        return [Rectangle((0, queries), whole)]
    if rank == other and seen.window is None:
        return [Rectangle(whole, whole, seen.causal, segments=_segments(seen, layout.positions(rank)))]
    found = []
    for row, own in _placed(layout.spans(rank)):
        for column, others in _placed(layout.spans(other)):
            if own == others:
                inside = (row, row + own[1] - own[0])
                segments = _segments(seen, torch.arange(*own))
                found.append(Rectangle(inside, inside, seen.causal, window=seen.window, segments=segments))
            elif not (seen.causal and others[0] >= own[1]):
                found += _apart(seen, (row, own), (column, others))
    return _joined(_joined(found, 0), 1)


def _placed(spans: list[Span]) -> list[tuple[int, Span]]:
    """Spans with the row at which each begins."""
    starts = [0]
    for first, stop in spans:
        starts.append(starts[-1] + stop - first)
    return list(zip(starts, spans, strict=False))


def _segments(seen: Visibility, positions: Tensor) -> Tensor | None:
    if seen.bounds is None:
        return None
    return torch.searchsorted(torch.tensor(seen.bounds), positions, right=True)


def _apart(seen: Visibility, rows: tuple[int, Span], columns: tuple[int, Span]) -> list[Rectangle]:
    """The rectangle, if any, of queries and keys that do not overlap and that causality does not hide."""
    (row, queries), (column, keys) = rows, columns
    (q_low, q_high), (k_low, k_high) = queries, keys
    if seen.bounds is not None:
        first, stop = seen.sequence(min(queries[1], keys[1]) - 1)
        q_low, q_high, k_low, k_high = max(q_low, first), min(q_high, stop), max(k_low, first), min(k_high, stop)
    window = seen.window
    if window is not None:  # far rows and columns see nothing of it
        q_low, q_high = max(q_low, k_low - window + 1), min(q_high, k_high - 1 + window)
        k_low, k_high = max(k_low, q_low - window + 1), min(k_high, q_high - 1 + window)
        if max(q_high - 1 - k_low, k_high - 1 - q_low) < window:
            window = None
    if q_low >= q_high or k_low >= k_high:
        return []
    local = (row + q_low - queries[0], row + q_high - queries[0]), (column + k_low - keys[0], column + k_high - keys[0])
    return [Rectangle(*local, offset=0 if window is None else q_low - k_low, window=window)]


def _joined(found: list[Rectangle], side: int) -> list[Rectangle]:
    """Full rectangles that lie side by side, along rows (0) or columns (1), as one."""
    joined: list[Rectangle] = []
    for each in sorted(found, key=lambda rectangle: rectangle.sides[::-1] if side == 0 else rectangle.sides):
        last = joined[-1] if joined else each
        (own, across), (before, across_before) = (tuple(one.sides[:: 1 - 2 * side]) for one in (each, last))
        if last.full and each.full and across == across_before and before[1] == own[0]:
            both = (before[0], own[1])
            joined[-1] = last._replace(rows=both) if side == 0 else last._replace(columns=both)
        else:
            joined.append(each)
    return joined
