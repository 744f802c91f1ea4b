from __future__ import annotations

import numpy as np
import pytest

from recsys.data.negatives import NegativeSampler, WholeCatalogue

RATE = np.array([0.0, 1.0, 0.0, 0.2, 0.8, 0.0])
"""Of two positives per row."""
NOTHING = np.zeros(0, dtype=np.int64)


@pytest.mark.parametrize(("uniform", "popular"), [(40, 0), (0, 40), (10, 30)])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_items_come_as_often_as_is_said(uniform, popular, power):
    sampler = NegativeSampler(RATE, batch_size=1, num_uniform=uniform, num_popular=popular, popularity_power=power)
    random, num_draws = np.random.default_rng(1), 2000
    drawn = np.concatenate([sampler.draw(random, NOTHING) for _ in range(num_draws)])
    assert len(drawn) == num_draws * (uniform + popular)
    counts = np.bincount(drawn, minlength=len(RATE))
    error = np.sqrt(sampler.expected / num_draws)
    assert (np.abs(counts / num_draws - sampler.expected) <= 5 * error).all()
    assert sampler.expected.sum() == pytest.approx(uniform + popular)


@pytest.mark.parametrize("num_batch", [None, 0, 3])
def test_other_rows_positives_come_as_often_as_is_said(num_batch):
    sampler = NegativeSampler(RATE, batch_size=5, num_batch=num_batch)
    random, num_draws = np.random.default_rng(1), 4000
    counts, others = np.zeros(len(RATE)), np.arange(10) >= 2
    for _ in range(num_draws):
        # Of five rows with two positives each, the first row is not among its own negatives.
        place = sampler.draw(random, np.arange(10))
        assert len(np.unique(place)) == len(place) == (10 if num_batch is None else num_batch)
        item = random.choice(len(RATE), p=RATE / 2, size=10)
        counts += np.bincount(item[place[others[place]]], minlength=len(RATE))
    np.testing.assert_allclose(counts / num_draws, sampler.expected, atol=5 * np.sqrt(8 / num_draws))


def test_popularity_is_smoothed_by_the_power():
    expected = NegativeSampler(RATE, batch_size=1, num_popular=10, popularity_power=0.5).expected
    np.testing.assert_allclose(expected, 10 * np.sqrt(RATE) / np.sqrt(RATE).sum())


def test_uniform_draws_do_not_depend_on_others():
    draws = [
        NegativeSampler(
            RATE, batch_size=4, num_batch=num_batch, num_uniform=5, num_popular=popular, popularity_power=1.0
        ).draw(np.random.default_rng(3), np.arange(4))
        for popular, num_batch in ((0, None), (7, 2))
    ]
    assert [len(drawn) for drawn in draws] == [5 + 4, 5 + 7 + 2]
    np.testing.assert_array_equal(draws[0][:5], draws[1][:5])
    np.testing.assert_array_equal(draws[0][:5], np.random.default_rng(3).integers(len(RATE), size=5))


def test_the_whole_catalogue_is_every_item_once():
    catalogue = WholeCatalogue(4)
    assert catalogue.draw(np.random.default_rng(1), np.array([2, 2])).tolist() == [0, 1, 2, 3]
    assert catalogue.expected.tolist() == [1, 1, 1, 1]
