"""The table of tiles is whole, and head sizes find their row."""

import itertools

import pytest

from hf_tanhmax.attention.kernels.schedule import (
    HEAD_SIZES,
    HOPPER,
    LEAST_ROWS,
    OLDER,
    TABLE,
    decode_kernel_for,
    group_splits,
    padded_size,
    splits,
    splits_products,
    tiles,
)

KERNELS = ("forward", "balanced", "key_value", "query", "bias", "decode_16", "decode_32", "decode_64")


def test_the_table_is_whole_and_bounded():
    assert set(TABLE) == set(itertools.product(KERNELS, HEAD_SIZES, (2, 4)))
    assert all(1 <= len(rows) <= 4 and len(set(rows)) == len(rows) for rows in TABLE.values())


def test_a_hopper_has_more_rows_and_the_same_first_one():
    for (kernel, head_dim, size), rows in HOPPER.items():
        for capability in (None, (10, 0)):
            assert tiles(kernel, head_dim, size, capability) == TABLE[kernel, head_dim, size]
        assert tiles(kernel, head_dim, size, (9, 0)) == TABLE[kernel, head_dim, size] + rows
    assert not any(tile.static for rows in TABLE.values() for tile in rows)


def test_older_gpus_take_tiles_of_their_own_first():
    for (kernel, head_dim, size), rows in OLDER.items():
        for capability in ((8, 0), (8, 9)):
            assert tiles(kernel, head_dim, size, capability) == rows + TABLE[kernel, head_dim, size]
    assert tiles("forward", 64, 2, (8, 6)) == TABLE["forward", 64, 2]


def test_the_first_row_is_for_calls_of_which_nothing_is_known():
    assert not any(rows[0].crowded or rows[0].rounded for rows in (*TABLE.values(), *OLDER.values()))
    assert all(size == 4 for (_, _, size), rows in TABLE.items() if any(tile.rounded for tile in rows))


def test_a_polynomial_comes_with_a_static_shift():
    assert all(tile.static for rows in HOPPER.values() for tile in rows if tile.polynomial)


def test_tiles_are_what_a_matrix_unit_takes():
    for rows in (*TABLE.values(), *HOPPER.values(), *OLDER.values()):
        for tile in rows:
            assert {tile.rows, tile.columns} <= {16, 32, 64, 128}
            assert tile.warps in (4, 8)
            assert 1 <= tile.stages <= 4


@pytest.mark.parametrize(("head_dim", "expected"), [(1, 16), (16, 16), (17, 32), (64, 64), (80, 128), (96, 128), (129, 256), (256, 256)])
def test_head_sizes_are_padded(head_dim, expected):
    assert padded_size(head_dim) == expected
    assert tiles("forward", head_dim, 2) == TABLE["forward", expected, 2]


@pytest.mark.parametrize(
    ("rows", "kernel"), [(1, "decode_16"), (16, "decode_16"), (17, "decode_32"), (33, "decode_64"), (512, "decode_64")]
)
def test_a_group_finds_the_smallest_tile_that_holds_it(rows, kernel):
    assert decode_kernel_for(rows) == kernel


@pytest.mark.parametrize(
    ("programs", "keys", "expected"),
    [
        (8, 32768, 66),
        (8, 4096, 16),
        (8, 257, 2),
        (8, 256, 1),
        (528, 32768, 1),
        (527, 32768, 2),
        (1, 10**6, 528),
        (4096, 32768, 1),
        (1, 0, 1),
    ],
)
def test_splits_fill_the_gpu_and_are_not_short(programs, keys, expected):
    """clamp(ceil(4 * 132 / programs), 1, ceil(keys / 256))."""
    assert splits(programs, keys, 132) == expected


@pytest.mark.parametrize(
    ("programs", "groups", "queries", "expected"),
    [
        (64, 32, 8192, 5),  # one key head, 8192 keys: 64 programs for 132 multiprocessors
        (1024, 4, 8192, 1),  # enough of them
        (264, 8, 8192, 1),
        (4, 32, 512, 8),  # a share has at least 2048 rows
        (4, 32, 10, 1),
        (64, 1, 8192, 1),  # no group
        (1, 6, 10**6, 6),
        (100, 8, 8192, 3),  # in shares of 3, 3 and 2
        (0, 4, 8192, 4),
    ],
)
def test_groups_are_split_where_key_heads_are_few(programs, groups, queries, expected):
    found = group_splits(programs, groups, queries, 132)
    assert found == expected
    share = -(-groups // found)
    assert (found - 1) * share < groups <= found * share  # and no share is empty
    assert found == 1 or share * queries >= LEAST_ROWS


def test_how_float32_is_multiplied(monkeypatch):
    monkeypatch.delenv("HF_TANHMAX_FLOAT32", raising=False)
    assert not splits_products()
    for word, split in (("", False), ("ieee", False), ("tf32x3", True)):
        monkeypatch.setenv("HF_TANHMAX_FLOAT32", word)
        assert splits_products() is split
    monkeypatch.setenv("HF_TANHMAX_FLOAT32", "tf32x2")
    with pytest.raises(ValueError, match="HF_TANHMAX_FLOAT32 must be ieee or tf32x3, but is 'tf32x2'"):
        splits_products()
