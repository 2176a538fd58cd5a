"""The table of tiles is whole, and head sizes find their row."""

import itertools

import pytest

from hf_tanhmax.attention.kernels.schedule import HEAD_SIZES, HOPPER, TABLE, decode_kernel_for, padded_size, splits, tiles

KERNELS = ("forward", "balanced", "key_value", "query", "bias", "decode_16", "decode_32", "decode_64")


def test_the_table_is_whole_and_bounded():
    assert set(TABLE) == set(itertools.product(KERNELS, HEAD_SIZES, (2, 4)))
    assert all(1 <= len(rows) <= 4 and len(set(rows)) == len(rows) for rows in TABLE.values())


def test_a_hopper_has_more_rows_and_the_same_first_one():
    for (kernel, head_dim, size), rows in HOPPER.items():
        for capability in (None, (8, 0), (10, 0)):
            assert tiles(kernel, head_dim, size, capability) == TABLE[kernel, head_dim, size]
        assert tiles(kernel, head_dim, size, (9, 0)) == TABLE[kernel, head_dim, size] + rows
    assert not any(tile.static for rows in TABLE.values() for tile in rows)


def test_a_polynomial_comes_with_a_static_shift():
    assert all(tile.static for rows in HOPPER.values() for tile in rows if tile.polynomial)


def test_tiles_are_what_a_matrix_unit_takes():
    for rows in (*TABLE.values(), *HOPPER.values()):
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
