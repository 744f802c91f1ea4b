"""Orders that are computed place by place: permutations, and as random as they should be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recsys.data.shuffle import Shuffle


def order(length, seed):
    return Shuffle(length, np.random.default_rng(seed)).at(np.arange(length))


@given(st.integers(1, 3_000), st.integers(0, 2**32))
def test_every_number_comes_once(length, seed):
    assert sorted(order(length, seed).tolist()) == list(range(length))


@given(st.integers(1, 2**62), st.integers(0, 2**32), st.data())
def test_parts_of_an_order_of_any_length_are_those_of_the_whole(length, seed, data):
    places = np.array(data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=8)))
    numbers = Shuffle(length, np.random.default_rng(seed)).at(places)
    assert ((numbers >= 0) & (numbers < length)).all()
    assert len(set(numbers.tolist())) == len(set(places.tolist()))
    again = Shuffle(length, np.random.default_rng(seed))
    assert [again.at(place[None])[0] for place in places] == numbers.tolist()


def test_small_orders_are_all_alike():
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for seed in range(1_200):
        counts[tuple(order(4, seed).tolist())] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("length", [37, 500])
def test_any_number_may_be_anywhere_whatever_is_before_it(length):
    orders = np.array([order(length, seed) for seed in range(500)])
    first, middle, last = orders[:, 0], orders[:, length // 2], orders[:, -1]
    # Two of an order differ, so that their distance is any but 0.
    for values, choices in ((first, length), (middle, length), ((last - first) % length - 1, length - 1)):
        expected = np.bincount(np.arange(choices) * 6 // choices) * len(orders) / choices
        assert stats.chisquare(np.bincount(values * 6 // choices, minlength=6), expected).pvalue > 1e-4


def test_neighbours_have_nothing_to_do_with_each_other():
    numbers = order(100_000, 1)
    assert abs(stats.spearmanr(numbers[1:], numbers[:-1]).statistic) < 0.015
    assert abs(stats.spearmanr(numbers, np.arange(100_000)).statistic) < 0.015
    # A batch holds numbers from everywhere.
    assert stats.kstest(numbers[:4096] / 100_000, "uniform").pvalue > 1e-3
