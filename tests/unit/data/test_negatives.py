from __future__ import annotations

import numpy as np
import pytest

from recsys.data.negatives import NegativeSampler, WholeCatalogue

SHARE = np.array([0.0, 0.5, 0.0, 0.1, 0.4, 0.0])


@pytest.mark.parametrize(("uniform", "popular"), [(40, 0), (0, 40), (10, 30)])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_items_come_as_often_as_is_said(uniform, popular, power):
    sampler = NegativeSampler(SHARE, num_uniform=uniform, num_popular=popular, popularity_power=power)
    random, num_draws = np.random.default_rng(1), 2000
    drawn = np.concatenate([sampler.draw(random) for _ in range(num_draws)])
    assert len(drawn) == num_draws * (uniform + popular)
    counts = np.bincount(drawn, minlength=len(SHARE))
    error = np.sqrt(sampler.expected / num_draws)
    assert (np.abs(counts / num_draws - sampler.expected) <= 5 * error).all()
    assert sampler.expected.sum() == pytest.approx(uniform + popular)


def test_popularity_is_smoothed_by_the_power():
    expected = NegativeSampler(SHARE, num_uniform=0, num_popular=10, popularity_power=0.5).expected
    np.testing.assert_allclose(expected, 10 * np.sqrt(SHARE) / np.sqrt(SHARE).sum())


def test_uniform_draws_do_not_depend_on_popular_ones():
    draws = [
        NegativeSampler(SHARE, num_uniform=5, num_popular=popular, popularity_power=1.0).draw(np.random.default_rng(3))
        for popular in (0, 7)
    ]
    np.testing.assert_array_equal(draws[0], draws[1][:5])
    np.testing.assert_array_equal(draws[0], np.random.default_rng(3).integers(len(SHARE), size=5))


def test_the_whole_catalogue_is_every_item_once():
    catalogue = WholeCatalogue(4)
    assert catalogue.draw(np.random.default_rng(1)).tolist() == [0, 1, 2, 3]
    assert catalogue.expected.tolist() == [1, 1, 1, 1]
