"""The two halves of signed attention for one call, against the map itself, and the sums over them."""

import pytest
import torch
from torch import nn

from hf_tanhmax import tanhmax
from hf_tanhmax.conversion.statistics import RowSums, keys_seen, real_rows, split_rows
from hf_tanhmax.integration.hooks import AttentionCall

QUERIES, KEYS, SIZE = 5, 7, 3


class Attention(nn.Module):
    is_causal = False


def call(mask=None, *, queries=QUERIES, **options):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 3, length, size, generator=generator, dtype=torch.float64) * 2
        for length, size in ((queries, SIZE), (KEYS, SIZE), (KEYS, 11))
    )
    return AttentionCall(Attention(), query, key, value, mask, {"scaling": 0.7, **options})


def masks():
    keep = torch.ones(2, 1, QUERIES, KEYS, dtype=torch.bool)
    keep[1, :, :, 4:] = False
    return {"none": None, "boolean": keep, "additive": torch.linspace(-3, 1, KEYS, dtype=torch.float64).expand(2, 1, QUERIES, KEYS)}


@pytest.mark.parametrize("kind", masks())
def test_a_row_is_tanhmax(kind):
    """Its weights sum to 2 sigma - 1, which is tanh of half the log odds; the halves are softmax of the scores and their negatives."""
    given, mask = call(masks()[kind]), masks()[kind]
    split, scores = split_rows(given), given.query @ given.key.mT * 0.7
    options = {} if mask is None else {"keep": mask} if mask.dtype == torch.bool else {"additive_mask": mask}
    torch.testing.assert_close(split.half_odds.tanh(), tanhmax(scores, **options).sum(-1))
    halves = [tanhmax(sign * scores, polarity=0.0, **options) @ given.value for sign in (1, -1)]
    torch.testing.assert_close(split.outputs, sum(halves) / 2)
    torch.testing.assert_close(split.query, given.query * 0.7)
    assert split.real.all()


def test_the_scale_is_that_of_the_head_unless_it_is_given():
    torch.testing.assert_close(split_rows(call(scaling=None)).query, call().query * SIZE**-0.5)


def test_rows_that_are_padding():
    keep = torch.ones(2, 1, KEYS, KEYS, dtype=torch.bool)
    keep[1, :, :, :3] = False
    assert real_rows(call(keep, queries=KEYS)).tolist() == [[True] * KEYS, [False] * 3 + [True] * 4]
    assert real_rows(call(keep[:1].expand(1, 1, KEYS, KEYS), queries=KEYS)).all()
    alone = masks()["boolean"].clone()
    alone[0, :, 2] = False  # of queries that are no keys, those that see none
    assert real_rows(call(alone)).tolist() == [[True, True, False, True, True], [True] * 5]


def test_sums_of_parts_are_those_of_the_whole():
    given, parts = call(masks()["boolean"]), []
    for row in (0, 1):
        tensors = [tensor[row : row + 1] for tensor in (given.query, given.key, given.value, given.mask)]
        parts.append(RowSums.of(split_rows(AttentionCall(given.module, *tensors, given.options))))
    whole, joined = RowSums.of(split_rows(given)), parts[0] + parts[1]
    assert whole.rows == joined.rows == 2 * QUERIES
    torch.testing.assert_close(list(vars(whole).values())[1:], list(vars(joined).values())[1:])
    assert whole.finite
    given.value[0, 0, 0, 0] = torch.inf
    assert not RowSums.of(split_rows(given)).finite


def test_what_no_key_bias_can_balance():
    with pytest.raises(NotImplementedError, match="Attention caps its scores, so a key bias is no constant of a row"):
        split_rows(call(softcap=30.0))
    with pytest.raises(NotImplementedError, match="the batch for Attention is packed without a mask; align with padded batches"):
        split_rows(call(cu_seq_lens_q=torch.tensor([0, 2, 5])))
    given = call()
    shared = AttentionCall(given.module, given.query, given.key[:, :1], given.value[:, :1], None, given.options)
    with pytest.raises(NotImplementedError, match="the 3 query heads of Attention share 1 key biases"):
        split_rows(shared)


def test_how_many_keys_a_query_sees():
    assert keys_seen(call()).tolist() == [[KEYS] * QUERIES] * 2
    assert keys_seen(call(masks()["boolean"])).tolist() == [[KEYS] * QUERIES, [4] * QUERIES]
    assert keys_seen(call(queries=KEYS, is_causal=True)).tolist() == [list(range(1, KEYS + 1))] * 2
