"""The table of tiles is whole, and head sizes find their row."""

import itertools

import pytest

from hf_tanhmax.kernels.schedule import HEAD_SIZES, TABLE, padded_size, tiles

KERNELS = ("forward", "key_value", "query", "bias")


def test_the_table_is_whole_and_bounded():
    assert set(TABLE) == set(itertools.product(KERNELS, HEAD_SIZES, (2, 4)))
    assert all(1 <= len(rows) <= 4 and len(set(rows)) == len(rows) for rows in TABLE.values())


def test_tiles_are_what_a_matrix_unit_takes():
    for rows in TABLE.values():
        for tile in rows:
            assert {tile.rows, tile.columns} <= {16, 32, 64, 128}
            assert tile.warps in (4, 8)
            assert 1 <= tile.stages <= 4


@pytest.mark.parametrize(("head_dim", "expected"), [(1, 16), (16, 16), (17, 32), (64, 64), (80, 128), (96, 128), (129, 256), (256, 256)])
def test_head_sizes_are_padded(head_dim, expected):
    assert padded_size(head_dim) == expected
    assert tiles("forward", head_dim, 2) == TABLE["forward", expected, 2]
