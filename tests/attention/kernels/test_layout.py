"""What follows from sizes, strides and numbers alone is found out once for all calls that share them."""

import pytest
import torch

from hf_tanhmax.attention.mask import AttentionMask

launch = pytest.importorskip("hf_tanhmax.attention.kernels.launch", reason="needs triton")
from hf_tanhmax.attention.kernels.layout import ALIGN, launch_constants, launch_numbers
from hf_tanhmax.attention.kernels.schedule import Tile

TILE = Tile(16, 16, 4, 1)


def problem(queries=19, scale=0.5, **changes):
    query, key, value = (torch.randn(2, heads, length, 64).half() for heads, length in ((4, queries), (2, 37), (2, 37)))
    numbers = {"polarity": None, "signed": True, "bias": None, "softcap": None, "dropout_p": 0.0, "seed": None, "exact": False}
    visibility = AttentionMask(queries, 37, causal=True)
    return launch.FusedProblem(query, key, value, visibility=visibility, scale=scale, **numbers | changes)


def test_calls_of_one_layout_share_what_follows_from_it():
    """A model's layers are called alike; only tensors are gathered anew."""
    one, other = problem(), problem()
    assert one.layout == other.layout
    assert launch_numbers(one.layout, TILE) is launch_numbers(other.layout, TILE)
    arguments = one.arguments(TILE)
    assert arguments["Q"] is one.query
    arguments["queries"] = -1
    assert other.arguments(TILE)["queries"] == 19
    changes = ({"scale": 0.25}, {"softcap": 3.0}, {"signed": False}, {"exact": True}, {"queries": 20})
    for change in changes:
        assert problem(**change).layout != one.layout


def test_an_additive_mask_is_another_layout_than_a_bias():
    added = torch.randn(2, 4, 19, 37).half()
    bias, mask = problem(bias=added), problem(bias=added, additive=True)
    assert bias.layout != mask.layout
    found = [launch_constants(each.layout, TILE)["ADDITIVE"] for each in (bias, mask)]
    assert found == [False, True]


def test_strides_decide_about_the_alignment():
    assert problem().layout.alignment == ALIGN
    assert problem().layout._replace(row_strides=(8, 8, 7) * 3).alignment == 1
