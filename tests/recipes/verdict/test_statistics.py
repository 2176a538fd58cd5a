"""Tests beside those of scipy and examples worked by hand."""

import numpy as np
import pytest
from scipy import stats

from recipes.verdict.statistics import holm, paired, t_test


def test_holm_is_the_textbook_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_difference_has_the_p_of_seeds_and_rows():
    seeds, rows = [0.02, 0.05, 0.01, 0.03, 0.04], np.random.default_rng(0).normal(0.03, 0.5, 200)
    found = paired(seeds, rows)
    assert found.p_seeds == pytest.approx(stats.ttest_1samp(seeds, 0).pvalue)
    assert found.p_rows == pytest.approx(stats.ttest_1samp(rows, 0).pvalue)
    assert found.p == max(found.p_seeds, found.p_rows)
    assert (found.low, found.high) == pytest.approx(stats.ttest_1samp(seeds, 0).confidence_interval(0.95))
    assert (found.mean, found.n) == (pytest.approx(0.03), 5)
    assert paired(seeds).p == found.p_seeds


def test_what_has_no_spread():
    assert t_test(np.zeros(5)) == 1.0
    assert t_test(np.array([0.3])) == 1.0
    assert t_test(np.full(5, 0.3)) == 0.0
    assert paired([0.3]).low == paired([0.3]).high == 0.3
    with pytest.raises(ValueError, match="there is no seed of which both models are there"):
        paired([])
