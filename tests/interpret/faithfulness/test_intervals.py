"""Means over texts and their bootstrap intervals, beside those of scipy."""

import math

import numpy
import pytest
from scipy import stats

from hf_tanhmax.interpret.faithfulness.intervals import Cell, mean_with_interval


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
