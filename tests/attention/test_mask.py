"""Masks in tiles equal the rule written out, key by key."""

import itertools

import pytest
import torch

from hf_tanhmax.attention.mask import Visibility

QUERIES, KEYS = 7, 11
CPU = torch.device("cpu")


def rule(visibility, batch, head, i, j):
    position = i + visibility.offset
    seen = not visibility.causal or j <= position
    if visibility.window is not None:
        seen = seen and abs(position - j) < visibility.window
    if visibility.segments is not None:
        seen = seen and bool(visibility.segments[i] == visibility.segments[j])
    if visibility.keep is not None:
        seen = seen and bool(visibility.keep.expand(2, 3, visibility.queries, visibility.keys)[batch, head, i, j])
    return seen


def cases():
    for causal, offset, window in itertools.product((False, True), (0, KEYS - QUERIES), (None, 1, 3)):
        for keep in (None, (1, 1, 1, KEYS), (2, 1, QUERIES, KEYS), (2, 3, 1, KEYS)):
            yield Visibility(QUERIES, KEYS, causal, offset, window, None if keep is None else torch.rand(keep) > 0.4)
    segments = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    for causal in (False, True):
        yield Visibility(QUERIES, QUERIES, causal, segments=segments)


@pytest.mark.parametrize("visibility", list(cases()))
def test_tiles_and_ranges_follow_the_rule(visibility):
    full = visibility.full(CPU)
    expected = torch.tensor(
        [
            [[[rule(visibility, b, h, i, j) for j in range(visibility.keys)] for i in range(visibility.queries)] for h in range(3)]
            for b in range(2)
        ]
    )
    seen = torch.ones(1, dtype=torch.bool) if full is None else full
    assert torch.equal(seen.expand_as(expected), expected)
    low, high = visibility.row_ranges(CPU)
    inside = (torch.arange(visibility.keys) >= low[:, None]) & (torch.arange(visibility.keys) < high[:, None])
    kept = inside if visibility.keep is None else inside & visibility.keep
    assert torch.equal(kept.expand_as(expected), expected)
    for start in range(0, visibility.queries, 3):
        stop = min(start + 3, visibility.queries)
        low, high = visibility.key_range(start, stop)
        assert not expected[:, :, start:stop, :low].any()
        assert not expected[:, :, start:stop, high:].any()
        tile = visibility.tile((start, stop), (low, high), CPU, slice(1, 2), slice(1, 3))
        part = expected[1:2, 1:3, start:stop, low:high]
        assert torch.equal((torch.ones(1, dtype=torch.bool) if tile is None else tile).expand_as(part), part)
        assert (
            visibility.keep is not None or visibility.window or expected[:, :, start:stop, low : visibility.hidden_from(start, low)].all()
        )


def test_plain_visibility_has_no_mask():
    assert Visibility(QUERIES, KEYS).full(CPU) is None
