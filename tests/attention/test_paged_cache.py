"""Block tables: which key is where, dense copies of them, and tables that do not fit their tensors."""

import pytest
import torch

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.mask import AttentionMask
from hf_tanhmax.attention.paged_cache import Paging


def test_positions_in_blocks_and_in_a_flat_table():
    bounds = torch.tensor([0, 3, 3, 5])
    rows, exists = Paging(torch.tensor([[4, 1], [-1, -1], [0, -1]]), bounds).positions(2)
    assert exists.tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    assert rows.tolist() == [[8, 9, 2], [0, 0, 0], [0, 1, 0]]
    rows, _ = Paging(torch.tensor([7, 5, 6, 0, 2]), bounds).positions(1)
    assert rows[0].tolist() == [7, 5, 6]
    assert rows[2, :2].tolist() == [0, 2]


@pytest.mark.parametrize(("window", "seen"), [(None, [[1, 1, 0], [1, 1, 1]]), (2, [[1, 1, 0], [0, 1, 1]])])
def test_the_last_query_is_at_the_last_key(window, seen):
    paging = Paging(torch.tensor([2, 0, 1]), torch.tensor([0, 3]))
    query, pool = torch.randn(1, 1, 2, 4), torch.randn(3, 1, 1, 4)
    (_, key, _), mask = paging.gathered(query, pool, pool, AttentionMask(2, 1, causal=True, window=window))
    assert torch.equal(key[0, 0], pool[[2, 0, 1], 0, 0])
    assert mask.full(query.device)[0, 0].int().tolist() == seen


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"cu_seqlens": None}, ValueError, r"block_table needs cu_seqlens, \[batch \+ 1\]"),
        ({"cu_seqlens": torch.tensor([0, 3])}, ValueError, r"cu_seqlens must be \[batch \+ 1\] = \[3\], but has shape \(2,\)"),
        ({"block_table": torch.zeros(2, 3)}, TypeError, "block_table must be int32 or int64, but is torch.float32"),
        ({"block_table": torch.zeros(3, 3, dtype=torch.int32)}, ValueError, "with a batch of 2, or flat, but has shape"),
        ({"block_table": torch.zeros(6, dtype=torch.int32)}, ValueError, "blocks of one key, but key has blocks of 4"),
        ({"keep": torch.ones(1, 1, 1, 4, dtype=torch.bool)}, ValueError, "with a block_table there is no keep"),
        ({"bias": torch.ones(1, 1, 1, 4)}, ValueError, "with a block_table there is no bias"),
        ({"additive_mask": torch.ones(1, 1, 1, 4)}, ValueError, "with a block_table there is no additive_mask"),
        ({"is_causal": True}, ValueError, 'is_causal must be "lower_right", or False without a window'),
        ({"window": 3}, ValueError, "is_causal is False and window 3"),
    ],
)
def test_tables_that_do_not_fit(changes, kind, message):
    query, pool = torch.randn(2, 2, 1, 8), torch.randn(5, 1, 4, 8)
    arguments = {"block_table": torch.zeros(2, 3, dtype=torch.int32), "cu_seqlens": torch.tensor([0, 3, 9]), **changes}
    with pytest.raises(kind, match=message):
        tanhmax_attention(query, pool, pool, **arguments)
