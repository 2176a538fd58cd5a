"""Intervals, the table and JSON of a report made by hand."""

import json
import math

import numpy
import pytest
from scipy import stats

from hf_tanhmax.interpret.faithfulness.intervals import Cell, mean_with_interval
from hf_tanhmax.interpret.faithfulness.report import FaithfulnessReport

VALUES = {"mask_tau": {"weights": (0.5, math.nan, 0.7), "random": (0.0, 0.1, -0.1)}, "permutation": {"": (0.2, 0.2, 0.2)}}


def report():
    cells = {measure: {method: mean_with_interval(values, 0) for method, values in of.items()} for measure, of in VALUES.items()}
    return FaithfulnessReport("m", (True, False), ("weights", "random"), ("mask_tau", "permutation"), VALUES, cells)


def test_the_interval_is_scipys_and_seeded():
    values = tuple(float(value) for value in numpy.random.default_rng(5).normal(size=19))
    found = mean_with_interval(values, 3)
    rng = numpy.random.default_rng(3)
    want = stats.bootstrap((values,), numpy.mean, n_resamples=2000, method="percentile", rng=rng).confidence_interval
    assert (found.low, found.high) == (want.low, want.high)
    assert found == mean_with_interval(values, 3) != mean_with_interval(values, 4)
    assert found.mean == pytest.approx(numpy.mean(values))
    assert found.n == 19


def test_what_is_not_defined_is_left_out():
    assert mean_with_interval((0.5, math.nan, 0.7), 0).n == 2
    assert mean_with_interval((math.nan,), 0) == Cell(None, None, None, 0)
    assert mean_with_interval((0.5,), 0) == Cell(0.5, None, None, 1)
    assert mean_with_interval((0.2, 0.2), 0) == Cell(0.2, 0.2, 0.2, 2)


def test_the_table():
    assert report().table().splitlines() == [
        "| method  | mask tau ↑            |",
        "|---------|-----------------------|",
        "| weights | 0.600 [0.500, 0.700]  |",
        "| random  | 0.000 [-0.100, 0.100] |",
        "",
        "m (TanhMax in part), 3 texts; mean over texts and a bootstrap interval of 95%.",
        "permutation median: 0.200 [0.200, 0.200].",
        "Not defined in every text: mask tau of weights in 2.",
    ]


def test_json_has_null_where_nothing_is_defined():
    read = json.loads(report().to_json())
    assert read["values"]["mask_tau"]["weights"] == [0.5, None, 0.7]
    assert read["cells"]["mask_tau"]["weights"]["n"] == 2
    assert read["signed"] == [True, False]
