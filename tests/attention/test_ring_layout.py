"""The rectangles of a ring cover what a mask of the whole sequence shows, each score once, and a zigzag gives all ranks the same work."""

from itertools import product

import pytest
import torch

from hf_tanhmax.attention.mask import AttentionMask
from hf_tanhmax.attention.ring_layout import Layout, Rectangle, Visibility, rectangles

BOUNDS = {
    "one sequence": None,
    "packed": (0, 3, 4, 4, 17, 23, 24),
    "sequences of a chunk": (0, 3, 6, 9, 12, 15, 18, 21, 24),
    "one long sequence, and one position": (0, 23, 24),
}
LENGTH = 24


def shown(rectangle: Rectangle):
    rows, columns = (stop - first for first, stop in rectangle.sides)
    mask = AttentionMask(rows, columns, rectangle.causal, rectangle.offset, rectangle.window, segments=rectangle.segments)
    tile = mask.full(torch.device("cpu"))
    return torch.ones(rows, columns, dtype=torch.bool) if tile is None else tile


def of_whole(seen: Visibility):
    segments = None if seen.bounds is None else torch.searchsorted(torch.tensor(seen.bounds), torch.arange(LENGTH), right=True)
    found = AttentionMask(LENGTH, LENGTH, seen.causal, window=seen.window, segments=segments).full(torch.device("cpu"))
    return torch.ones(LENGTH, LENGTH, dtype=torch.bool) if found is None else found


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("window", [None, 1, 2, 5, 13])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("size", "zigzag"), [(1, True), (2, False), (2, True), (3, True), (4, True), (4, False)])
def test_every_visible_score_lies_in_one_rectangle(size, zigzag, causal, window, bounds):
    layout, seen = Layout(size, LENGTH // size, zigzag), Visibility(causal, window, BOUNDS[bounds])
    whole = of_whole(seen)
    for rank, other in product(range(size), repeat=2):
        found = torch.zeros(layout.length, layout.length, dtype=torch.int64)
        for each in rectangles(layout, seen, rank, other, layout.length):
            found[slice(*each.rows), slice(*each.columns)] += shown(each)
        wanted = whole[layout.positions(rank)][:, layout.positions(other)]
        assert torch.equal(found, wanted.long()), (rank, other)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_positions_are_torchs(size):
    """`context_parallel` shards as a zigzag layout says."""
    from torch.distributed.tensor.experimental._attention import _HeadTailLoadBalancer

    order = _HeadTailLoadBalancer(LENGTH, size, "cpu")._generate_indices()[0]
    for rank, wanted in enumerate(order.chunk(size)):
        assert torch.equal(Layout(size, LENGTH // size, zigzag=True).positions(rank), wanted)


def scores_of(layout, rank, step):
    found = rectangles(layout, Visibility(True, None, None), rank, (rank - step) % layout.size, layout.length)
    return sum(int(shown(each).sum()) for each in found), len(found)


def test_a_zigzag_gives_all_ranks_the_same_work_in_every_step():
    layout = Layout(4, 6, zigzag=True)
    for step in range(4):
        work = {scores_of(layout, rank, step) for rank in range(4)}
        assert len(work) == 1
        assert work.pop()[1] == 1  # in one call
    straight = Layout(4, 6, zigzag=False)
    assert len({scores_of(straight, rank, 1) for rank in range(4)}) == 2
