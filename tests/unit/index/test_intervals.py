"""Intervals hold what they should, about as often as they say."""

import numpy as np
import pytest

from recsys.index.intervals import mean_interval, percentile_interval
from recsys.index.timing import percentile


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(5, 2, size=400)
    low, high = mean_interval(values, seed=1)
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * 2 / 20, rel=0.25)
    assert mean_interval(values, seed=1) == (low, high)


def test_what_never_differs_has_no_width():
    assert mean_interval(np.ones(50), seed=1) == (1.0, 1.0)
    assert percentile_interval(np.full((3, 50), 2.0), 99, seed=1) == (2.0, 2.0)


def test_the_median_is_covered_nearly_always():
    rng, covered = np.random.default_rng(2), 0
    for _ in range(100):
        ms_PQ = rng.exponential(size=(1, 101))
        low, high = percentile_interval(ms_PQ, 50, seed=1)
        assert low <= percentile(ms_PQ, 50) <= high
        covered += low <= np.log(2) <= high
    assert covered >= 85
