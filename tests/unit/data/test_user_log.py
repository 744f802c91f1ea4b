"""Each user's events over some splits, by their places, against the files read whole."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.dataset import Dataset
from recsys.data.event_files import map_events, write_events
from recsys.data.user_log import UserLog

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def dataset(simulated):
    return Dataset(simulated)


@pytest.fixture(scope="module")
def read(dataset):
    """Each user's items and times, from files that are read whole."""
    frames = [pl.read_ipc(dataset.path / f"{split}.arrow") for split in SPLITS]
    users = [[frame.filter(pl.col("user") == user) for frame in frames] for user in range(dataset.num_users)]
    return [pl.concat(parts) for parts in users]


@given(data=st.data())
def test_ranges_of_users_events_are_where_they_should_be(dataset, read, data):
    log = dataset.log(*SPLITS)
    user = np.array(data.draw(st.lists(st.integers(0, dataset.num_users - 1), max_size=9)), dtype=np.int64)
    ranges = [sorted(data.draw(st.tuples(*2 * [st.integers(0, len(read[one]))]))) for one in user]
    start, stop = np.array(ranges, dtype=np.int64).reshape(-1, 2).T
    items, times = log.items(user, start, stop), log.times(user, start, stop)
    assert items.values.dtype == times.values.dtype == np.int64
    for place, (one, (first, end)) in enumerate(zip(user, ranges, strict=True)):
        assert items[place].tolist() == read[one]["item"][first:end].to_list()
        assert times[place].tolist() == read[one]["time"][first:end].to_list()


def test_without_a_range_all_events_are_meant(dataset, read):
    log, everyone = dataset.log(*SPLITS), np.arange(dataset.num_users)
    assert log.lengths.tolist() == list(map(len, read))
    assert len(log) == sum(map(len, read))
    assert [one.tolist() for one in map(log.items(everyone).__getitem__, everyone)] == [
        frame["item"].to_list() for frame in read
    ]
    assert log.latest_time() == max(frame["time"].max() for frame in read)


def test_users_without_events_have_none_and_unknown_ones_are_a_mistake(tmp_path):
    frame = pl.DataFrame({"user": [1, 1, 4], "item": [0, 1, 2]}, schema={"user": pl.UInt32, "item": pl.UInt32})
    write_events(tmp_path / "events.arrow", [frame])
    log = UserLog([map_events(tmp_path / "events.arrow")], num_users=6)
    assert log.lengths.tolist() == [0, 2, 0, 0, 1, 0]
    assert not log.has_times
    with pytest.raises(AssertionError, match="got a log without any"):
        log.times(np.array([1]))
    with pytest.raises(AssertionError, match="user: got 1 to 4, expected increasing rows of 4"):
        UserLog([map_events(tmp_path / "events.arrow")], num_users=4)
