"""What a slot's time costs others."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.price import FREE, Arrivals, Dimmer, Price


def dimmed(slots=1, *, every_ms=10.0, had_ms=5.0, num=400):
    """A dimmer that has seen calls come, one at a time; and the time."""
    dimmer = Dimmer(slots=slots)
    for place in range(num):
        dimmer.learn(num_before=0, had_ms=had_ms, now_s=place * every_ms / 1e3)
    return dimmer, num * every_ms / 1e3


def test_time_costs_more_the_more_calls_wait_and_the_less_they_can():
    levels = []
    for num_before, had_ms in ((0, 10.0), (1, 100.0), (1, 10.0), (5, 10.0), (1000, 10.0)):
        dimmer = Dimmer(slots=1)
        for _ in range(300):
            dimmer.learn(num_before=num_before, had_ms=had_ms, now_s=0.0)
        levels.append(dimmer.level(work_ms=5.0, now_s=0.0))
    assert levels == sorted(levels)
    assert levels[0] == 0
    assert levels[-1] < 1
    # Each delays one that has 10 ms: .1 of them lost per ms, half a call for the work of one.
    assert levels[2] == pytest.approx(0.5 / 1.5, rel=0.01)


@given(st.lists(st.floats(0.001, 1e3), max_size=20), st.floats(0.001, 1), st.floats(0, 2e3), st.floats(0, 2e3))
def test_of_those_that_come_meanwhile_the_ones_that_cannot_wait_are_lost(had_ms, per_ms, one_ms, other_ms):
    had_ms = tuple(sorted(had_ms))
    arrivals = Arrivals(had_ms=had_ms, sum_ms=tuple(itertools.accumulate(had_ms, initial=0.0)), per_ms=per_ms)
    for ms in (one_ms, other_ms):
        assert arrivals.lost(ms) == pytest.approx(per_ms * sum(max(0.0, ms - had) for had in had_ms), abs=1e-6)
    shorter, longer = sorted((one_ms, other_ms))
    assert arrivals.lost(shorter) <= arrivals.lost(longer) + 1e-6
    assert arrivals.lost((shorter + longer) / 2) <= (arrivals.lost(shorter) + arrivals.lost(longer)) / 2 + 1e-6


def test_a_call_every_ten_ms_that_can_wait_five_is_lost_in_part():
    dimmer, now_s = dimmed()
    price = dimmer.price(work_ms=1.0, used_ms=1.0, now_s=now_s)
    assert price.of(5.0) == 0  # all that come meanwhile can wait for its end
    assert price.of(25.0) == pytest.approx(2.0, rel=0.01)  # two of the two and a half that come: the last half waits
    assert price.times(0.5, pace=5.0).of(5.0) == pytest.approx(1.0, rel=0.01)


def test_who_came_is_forgotten_when_nobody_comes():
    dimmer, now_s = dimmed()
    later = dimmer.price(work_ms=1.0, used_ms=1.0, now_s=now_s + 100)
    assert later.of(25.0) < 0.1


def test_a_burst_is_no_rate():
    dimmer, now_s = dimmed(every_ms=0.01, num=20)
    assert dimmer.price(work_ms=1.0, used_ms=1.0, now_s=now_s).of(25.0) == pytest.approx(0.4, rel=0.01)


def test_other_slots_that_are_free_take_those_that_come():
    costs = []
    for work_ms in (1.0, 5.0, 100.0):
        dimmer, now_s = dimmed(slots=2)
        costs.append(dimmer.price(work_ms=work_ms, used_ms=1.0, now_s=now_s).of(25.0))
    assert costs == pytest.approx([2 * 0.05, 2 * 0.25, 2.0], rel=0.01)


def test_where_nobody_comes_time_is_free():
    assert FREE.of(1e6) == 0
    assert Dimmer(slots=1).price(work_ms=1.0, used_ms=1.0, now_s=0.0).of(1e6) == 0
    assert Price(waiting=0.5, arrivals=Arrivals()).of(2.0) == 1
