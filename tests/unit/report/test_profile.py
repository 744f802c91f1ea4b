"""Counts of a dataset, worked out by hand, and bands of popularity."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.dataset import Dataset
from recsys.report.profile import band_shares, popularity_bands, profile_of


def test_head_and_middle_are_the_fewest_items_that_hold_one_and_two_thirds():
    assert popularity_bands(np.array([2, 6, 1, 2, 1, 0])).tolist() == [1, 0, 2, 2, 2, 2]
    assert popularity_bands(np.array([1, 1, 1, 1, 1, 1])).tolist() == [0, 0, 1, 1, 2, 2]


@given(st.lists(st.integers(0, 50), min_size=1).filter(any))
def test_a_more_popular_item_is_never_in_a_later_band(counts):
    count_N = np.array(counts)
    band_N = popularity_bands(count_N)
    for band in (0, 1):
        inside, later = count_N[band_N <= band], count_N[band_N > band]
        assert not len(later) or inside.min() >= later.max()
    assert count_N[band_N == 0].sum() * 3 >= count_N.sum()


def test_shares_leave_out_empty_places():
    assert band_shares(np.array([0, 1, 1, 2, -1]), np.array([0, 1, 2])) == [0.25, 0.5, 0.25]
    assert band_shares(np.array([-1]), np.array([0])) == [0, 0, 0]


def test_a_simulated_world_is_counted(simulated):
    dataset = Dataset(simulated)
    profile = profile_of(dataset)
    train = dataset.events("train")
    assert (profile.num_users, profile.num_items) == (200, 60)
    assert profile.num_events == dataset.manifest["counts"]["events"]
    assert profile.density == pytest.approx(profile.num_events / 12_000)
    assert [split.name for split in profile.splits] == ["train", "validation", "test"]
    assert profile.splits[0].cold_users_share is None
    assert profile.splits[2].cold_users_share == 0
    assert profile.splits[2].num_users == 200
    assert profile.first == datetime.fromtimestamp(1_700_000_000, tz=UTC)
    assert profile.activity_U.sum() == profile.popularity_N.sum() == len(train)
