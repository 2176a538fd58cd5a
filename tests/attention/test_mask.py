"""Masks in tiles equal the rule written out, key by key."""

import itertools

import pytest
import torch

from hf_tanhmax.attention.mask import AttentionMask

QUERIES, KEYS = 7, 11
CPU = torch.device("cpu")


def rule(mask, batch, head, i, j):
    position = i + mask.offset
    seen = not mask.causal or j <= position
    if mask.window is not None:
        seen = seen and abs(position - j) < mask.window
    if mask.segments is not None:
        seen = seen and bool(mask.segments[i] == mask.segments[j])
    if mask.keep is not None:
        seen = seen and bool(mask.keep.expand(2, 3, mask.queries, mask.keys)[batch, head, i, j])
    return seen


def cases():
    for causal, offset, window in itertools.product((False, True), (0, KEYS - QUERIES), (None, 1, 3)):
        for keep in (None, (1, 1, 1, KEYS), (2, 1, QUERIES, KEYS), (2, 3, 1, KEYS)):
            yield AttentionMask(QUERIES, KEYS, causal, offset, window, None if keep is None else torch.rand(keep) > 0.4)
    segments = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    for causal in (False, True):
        yield AttentionMask(QUERIES, QUERIES, causal, segments=segments)


@pytest.mark.parametrize("mask", list(cases()))
def test_tiles_and_ranges_follow_the_rule(mask):
    full = mask.full(CPU)
    expected = torch.tensor(
        [[[[rule(mask, b, h, i, j) for j in range(mask.keys)] for i in range(mask.queries)] for h in range(3)] for b in range(2)]
    )
    seen = torch.ones(1, dtype=torch.bool) if full is None else full
    assert torch.equal(seen.expand_as(expected), expected)
    low, high = mask.row_ranges(CPU)
    inside = (torch.arange(mask.keys) >= low[:, None]) & (torch.arange(mask.keys) < high[:, None])
    kept = inside if mask.keep is None else inside & mask.keep
    assert torch.equal(kept.expand_as(expected), expected)
    for start in range(0, mask.queries, 3):
        stop = min(start + 3, mask.queries)
        low, high = mask.key_range(start, stop)
        assert not expected[:, :, start:stop, :low].any()
        assert not expected[:, :, start:stop, high:].any()
        tile = mask.tile((start, stop), (low, high), CPU, slice(1, 2), slice(1, 3))
        part = expected[1:2, 1:3, start:stop, low:high]
        assert torch.equal((torch.ones(1, dtype=torch.bool) if tile is None else tile).expand_as(part), part)
        assert mask.keep is not None or mask.window or expected[:, :, start:stop, low : mask.hidden_from(start, low)].all()


def test_a_mask_that_hides_nothing_is_none():
    assert AttentionMask(QUERIES, KEYS).full(CPU) is None
