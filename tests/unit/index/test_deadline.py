"""Work that is cut into parts: nothing twice, nothing left out, and some of it whatever the time."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.index.deadline import Deadline, Pace


def parts(pace):
    while part := pace.next():
        yield part.start, part.stop


@given(total=st.integers(0, 10_000), first=st.integers(1, 10_000), left_s=st.sampled_from([-1.0, 1e-5, 3600.0]))
def test_parts_follow_each_other_from_the_start(total, first, left_s):
    pace = Pace(total, first=first, until_s=time.perf_counter() + left_s)
    done = list(parts(pace))
    assert [start for start, _ in done] == [0, *(stop for _, stop in done)][: len(done)]
    assert all(start < stop for start, stop in done)
    assert pace.done == (done[-1][1] if done else 0)
    assert pace.done == total or (left_s < 3600 and pace.done >= first)
    assert pace.share == pytest.approx(pace.done / total if total else 1)


def test_past_the_deadline_only_the_first_part_is_done():
    assert list(parts(Pace(100, first=8, until_s=time.perf_counter()))) == [(0, 8)]


def test_with_time_two_parts_are_all():
    assert list(parts(Pace(100, first=8, until_s=time.perf_counter() + 3600))) == [(0, 8), (8, 100)]


def test_without_a_deadline_the_whole_may_be_one_part():
    assert list(parts(Pace(100, first=100, until_s=math.inf))) == [(0, 100)]


def test_a_deadline_is_to_spare_where_twice_the_usual_time_is_left():
    now_s = time.perf_counter()
    deadline = Deadline(until_s=now_s + 100, search_ms=40_000, rerank_ms=10_000)
    assert deadline.spare
    assert not deadline.times(2).spare
    assert deadline.scan_until_s == pytest.approx(now_s + 90)
