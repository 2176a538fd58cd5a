"""How many numbers a call of the C++ operator takes, and which of its ways a call goes."""

import pytest
import torch
from blocked_problems import problem

from hf_tanhmax.attention.cpu.build import native_library, why_no_library
from hf_tanhmax.attention.cpu.operator import Settings, _prepared, native_sizes
from hf_tanhmax.attention.cpu.sizes import NativeSizes, filled, packs_apart

pytestmark = pytest.mark.skipif(bool(why_no_library()), reason=f"the C++ operator {why_no_library()}")


def sizes(queries, keys, dtype=torch.float32, backward=False, **options):
    query, key = (torch.empty(1, 1, length, 8, device="meta", dtype=dtype) for length in (queries, keys))
    return native_sizes(problem(query, key, key, **options), native_library(), backward=backward)


def test_memory_is_linear_in_the_length():
    """A tile has at most 128 rows, and where so many would be too much, 16; few queries hold their scores alone."""
    assert [sizes(*lengths).rows for lengths in ((53, 67), (300, 300), (300, 2**16))] == [53, 128, 16]
    assert sizes(4096, 4096).share(backward=True) == 128 * (3 * 4096 + 10)
    assert sizes(4096, 4096, balanced=True).share(backward=False) == 128 * (4096 + 1) + 2 * 4096
    assert sizes(1, 4096).share(backward=False) == 3 * 4096


def test_memory_of_bfloat16():
    """Half as many rows, filled up to 16, and scores to whole panels and 16 more; keys and values are packed once for each head."""
    lengths = {"queries": 300, "keys": 1000, "width": 70, "value_width": 33}
    call = NativeSizes(**lengths, balanced=False, dtype=torch.bfloat16, half=True, few=False)
    assert (call.rows, call.filled_keys, call.tile) == (64, 1024, 64 * 1040)
    assert call.packed_share(backward=False) == (80 + 64) * 1024 // 2
    assert call.packed_share(backward=True) == (80 + 48 + 128) * 1024 // 2
    assert [filled(number, 16) for number in (0, 1, 16, 17)] == [0, 16, 16, 32]


@pytest.mark.parametrize(
    ("key_heads", "threads", "packed"), [(1, 1, 1), (96, 1, 1), (96, 2, 2), (8, 2, 2), (7, 2, 7), (1, 64, 1), (16, 64, 16)]
)
def test_what_is_packed_has_no_more_memory_than_heads_and_less_where_there_are_many(key_heads, threads, packed):
    """A thread packs its own heads where there are enough of them, so that a head is never packed twice."""
    call = NativeSizes(queries=30, keys=64, width=16, value_width=16, balanced=False, dtype=torch.bfloat16, half=True, few=False)
    numbers = {"is_signed": True, "causal": False, "window": 0, "offset": 0, "position_step": True, "scale": 1.0, "softcap": 0.0}
    prepared = _prepared(Settings(sizes=call, backward=False, batch=1, kv_heads=key_heads, groups=2, threads=threads, **numbers))
    assert prepared.scratch - threads * call.share(backward=False) == packed * call.packed_share(backward=False)
    assert prepared.call.apart == packs_apart(key_heads, threads)


def test_memory_of_numbers_that_are_widened():
    """Keys and values once for each head, the queries and results of a tile for each thread."""
    call = NativeSizes(queries=300, keys=1000, width=70, value_width=33, balanced=False, dtype=torch.float16, half=False, few=False)
    assert call.packed_share(backward=False) == call.packed_share(backward=True) == 103 * 1000
    assert call.share(backward=False) == 128 * (1000 + 1 + 2 * 70)
    assert call.share(backward=True) == 128 * (3 * 1000 + 2 + 2 * 70)


def test_the_way_follows_from_the_dtype_the_processor_and_the_number_of_queries():
    able = bool(native_library().hf_tanhmax_half())
    assert (sizes(9, 67, torch.bfloat16).half, sizes(9, 67).half, sizes(9, 67, torch.float16).half) == (able, False, False)
    assert [sizes(queries, 67, torch.bfloat16).few for queries in (1, 8, 9)] == [True, True, False]
    assert [sizes(queries, 67, torch.float16).widened for queries in (8, 9)] == [False, True]  # few are widened as they are read
    assert (sizes(9, 67, torch.bfloat16).widened, sizes(9, 67).widened) == (not able, False)
    assert not sizes(8, 67, backward=True).few
