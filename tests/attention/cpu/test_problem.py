"""An attention call on the CPU, cut into blocks."""

import torch
from blocked_problems import problem

from hf_tanhmax.attention.mask import AttentionMask


def test_blocks_cover_every_visible_score_once():
    query, key = torch.randn(3, 6, 300, 5), torch.randn(3, 2, 500, 5)
    case = problem(query, key, key, mask=AttentionMask(300, 500, causal=True, offset=7))
    seen = torch.zeros(3, 6, 300, 500, dtype=torch.int64)
    for block in case.blocks():
        seen[block.batch, block.heads, slice(*block.rows), slice(*block.columns)] += 1
    visible = case.mask.tile((0, 300), (0, 500), query.device).expand_as(seen)
    assert int(seen.max()) == 1
    assert bool((seen[visible] == 1).all())


def test_bounds_hold_and_are_reached():
    query, key = torch.randn(3, 6, 30, 5), torch.randn(3, 2, 50, 5)
    case = problem(query, key, key)
    scores = torch.einsum("bghqd,bgkd->bghqk", query.view(3, 2, 3, 30, 5), key)
    assert bool((scores.abs().amax((2, 3, 4)) <= case.bounds).all())
    alike = problem(query, query[:, ::3], query[:, ::3])
    assert bool((alike.bounds >= query[:, ::3].square().sum(-1).amax(-1)).all())


def test_nothing_is_widened_before_it_is_asked_for():
    query = torch.randn(1, 2, 4, 5).bfloat16()
    case = problem(query, query, query)
    assert not {"query", "key", "value"} & vars(case).keys()
    assert case.key.dtype == torch.float32
