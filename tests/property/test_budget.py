"""Choosing a rung: whatever was measured, more budget never buys less."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import RequestError
from recsys.testing import ladders
from serving.budget import Budget, Degraded, choose, latency_ms

WIDTHS = (16, 32, 64, 128)

times_ms = st.floats(0.001, 1000, allow_nan=False)
overlaps = st.floats(0, 1)
ks = st.integers(1, 1000)


@given(ladders(), times_ms, times_ms, ks, times_ms, times_ms, st.integers(1, 9))
def test_a_larger_time_budget_never_gets_less(ladder, one_ms, other_ms, k, elapsed_ms, overhead_ms, num_searches):
    low_ms, high_ms = sorted((one_ms, other_ms))
    spent = {"k": k, "elapsed_ms": elapsed_ms, "overhead_ms": overhead_ms, "num_searches": num_searches}
    less = choose(ladder, Budget(time_ms=low_ms), **spent)
    more = choose(ladder, Budget(time_ms=high_ms), **spent)
    assert more.expected_overlap >= less.expected_overlap
    assert more.rung.width >= less.rung.width
    assert more.rung.latency_p99_ms >= less.rung.latency_p99_ms
    assert less.degraded or not more.degraded


@given(ladders(), times_ms, times_ms, ks)
def test_time_already_spent_counts_like_a_smaller_budget(ladder, time_ms, spent_ms, k):
    late = choose(ladder, Budget(time_ms=time_ms + spent_ms), k=k, elapsed_ms=spent_ms)
    left = choose(ladder, Budget(time_ms=time_ms + spent_ms), k=k, overhead_ms=spent_ms)
    early = choose(ladder, Budget(time_ms=time_ms + spent_ms), k=k)
    assert late == left
    assert late.rung.width <= early.rung.width
    assert late.degraded or late.expected_overlap <= early.expected_overlap


@given(ladders(), times_ms, ks)
def test_the_choice_fits_and_no_step_that_fits_is_better(ladder, time_ms, k):
    choice = choose(ladder, Budget(time_ms=time_ms), k=k)
    fitting = [rung for rung in ladder.steps if latency_ms(rung, k=k) <= time_ms]
    assert choice.rung in ladder.steps
    assert choice.expected_overlap == choice.rung.overlap_at(k)
    if not fitting:
        assert choice.degraded is Degraded.TIME_TOO_SHORT
        assert choice.rung.latency_p99_ms == min(rung.latency_p99_ms for rung in ladder.steps)
        return
    assert choice.degraded is None
    assert choice.rung in fitting
    assert choice.expected_overlap == max(rung.overlap_at(k) for rung in fitting)
    dominating = [
        rung
        for rung in fitting
        if rung.overlap_at(k) >= choice.expected_overlap and rung.latency_p99_ms < choice.rung.latency_p99_ms
    ]
    assert not dominating


@given(ladders(), times_ms, times_ms, ks)
def test_a_deadline_only_cuts_a_time_budget_short(ladder, time_ms, deadline_ms, k):
    both = choose(ladder, Budget(time_ms=time_ms), k=k, deadline_ms=deadline_ms)
    assert both == choose(ladder, Budget(time_ms=min(time_ms, deadline_ms)), k=k)
    assert choose(ladder, Budget(), k=k, deadline_ms=deadline_ms) == choose(ladder, Budget(time_ms=deadline_ms), k=k)


@given(ladders(), ks)
def test_no_budget_is_an_endless_one(ladder, k):
    endless = Budget(time_ms=1e9)
    assert choose(ladder, Budget(), k=k) == choose(ladder, endless, k=k)


@given(ladders(), overlaps, overlaps, ks)
def test_a_higher_overlap_floor_never_gets_less(ladder, one, other, k):
    low, high = sorted((max(one, 1e-6), max(other, 1e-6)))
    less = choose(ladder, Budget(min_overlap=low), k=k)
    more = choose(ladder, Budget(min_overlap=high), k=k)
    for floor, choice in ((low, less), (high, more)):
        reaching = [rung for rung in ladder.rungs if rung.overlap_at(k) >= floor]
        if reaching:
            assert choice.degraded is None
            assert choice.rung.latency_p99_ms == min(rung.latency_p99_ms for rung in reaching)
        else:
            assert choice.degraded is Degraded.OVERLAP_OUT_OF_REACH
            assert choice.expected_overlap == max(rung.overlap_at(k) for rung in ladder.rungs)
    if more.degraded is None:
        assert more.rung.latency_p99_ms >= less.rung.latency_p99_ms


@given(ladders(), st.integers(1, 200), ks, st.none() | times_ms)
def test_a_width_is_honoured_or_refused(ladder, width, k, deadline_ms):
    of_width = [rung for rung in ladder.rungs if rung.width == width]
    if of_width:
        choice = choose(ladder, Budget(width=width), k=k, deadline_ms=deadline_ms)
        assert choice.rung in of_width
        best = max(rung.overlap_at(k) for rung in of_width)
        assert choice.expected_overlap == best
        equals = [rung.latency_p99_ms for rung in of_width if rung.overlap_at(k) == best]
        assert choice.rung.latency_p99_ms == min(equals)
    else:
        with pytest.raises(RequestError, match=str(sorted({rung.width for rung in ladder.rungs})).replace("[", r"\[")):
            choose(ladder, Budget(width=width), k=k, deadline_ms=deadline_ms)


@given(ladders(), times_ms, ks)
def test_choosing_is_pure(ladder, time_ms, k):
    before = copy.deepcopy(ladder)
    assert choose(ladder, Budget(time_ms=time_ms), k=k) == choose(ladder, Budget(time_ms=time_ms), k=k)
    assert ladder == before
