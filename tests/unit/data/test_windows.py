from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.windows import batches_of_like_length, num_windows, window_at


def cut(first, stop, *, length):
    """Return the user, first event and stop of all windows."""
    num = num_windows(first, stop, length=length)
    user = np.repeat(np.arange(len(num)), num)
    nth = np.concatenate([np.arange(one) for one in num])
    return user, *window_at(first[user], stop[user], nth, length=length)


def test_windows_are_laid_from_the_latest_event_backwards():
    first, stop = np.array([0, 7, 7, 10]), np.array([7, 7, 10, 11])
    user, start, end = cut(first, stop, length=3)
    assert list(zip(user.tolist(), start.tolist(), end.tolist(), strict=True)) == [
        (0, 4, 7),
        (0, 1, 4),
        (0, 0, 1),
        (2, 7, 10),
        (3, 10, 11),
    ]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.integers(1, 9))
def test_every_event_is_in_one_window(lengths, length):
    stop = np.cumsum(lengths)
    _, start, end = cut(stop - lengths, stop, length=length)
    covered = [place for low, high in zip(start, end, strict=True) for place in range(low, high)]
    assert sorted(covered) == list(range(stop[-1]))
    assert (end - start <= length).all()


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.data())
def test_batches_share_out_all_windows_and_none_is_empty(lengths, data):
    num_batches = data.draw(st.integers(1, len(lengths)))
    batches = batches_of_like_length(np.array(lengths), num_batches=num_batches, random=np.random.default_rng(1))
    assert len(batches) == num_batches
    assert min(map(len, batches)) > 0
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))


def test_batches_have_as_many_events_and_little_padding():
    lengths = np.random.default_rng(0).integers(1, 201, size=5000)
    batches = batches_of_like_length(lengths, num_batches=40, random=np.random.default_rng(1))
    events = np.array([lengths[batch].sum() for batch in batches])
    assert events.max() - events.min() <= 2 * 200
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded / lengths.sum() < 1.2


def test_batches_are_mixed_anew_but_only_among_windows_of_like_length():
    lengths = np.repeat([10, 11, 100], 20)
    first, other = (
        batches_of_like_length(lengths, num_batches=4, random=np.random.default_rng(seed)) for seed in (1, 2)
    )
    assert any(set(one) != set(two) for one, two in zip(first, other, strict=True))
    assert all({100} == set(lengths[batch]) for batch in first[1:])


def test_more_batches_than_windows_are_refused():
    with pytest.raises(AssertionError, match="num_batches: got 3 of 2 windows"):
        batches_of_like_length(np.array([1, 1]), num_batches=3, random=np.random.default_rng(1))
