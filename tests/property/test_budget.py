"""Choosing a rung: whatever was measured, more budget never buys less."""

import copy
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import RequestError
from recsys.testing import ladders
from serving.budget import Budget, Degraded, choose
from serving.price import Arrivals, Price

WIDTHS = (16, 32, 64, 128)

times_ms = st.floats(0.001, 1000, allow_nan=False)
overlaps = st.floats(0, 1)
ks = st.integers(1, 1000)
waiting = st.just(0.0) | st.floats(0, 10)


@st.composite
def prices(draw):
    """Of those that wait and of those that come, most of them sooner lost than any search ends."""
    had_ms = tuple(sorted(draw(st.lists(st.floats(0.001, 100), max_size=5))))
    sum_ms = tuple(itertools.accumulate(had_ms, initial=0.0))
    arrivals = Arrivals(had_ms=had_ms, sum_ms=sum_ms, per_ms=draw(st.floats(0, 1)))
    return Price(waiting=draw(waiting), arrivals=arrivals)


@st.composite
def worlds(draw):
    """A ladder, and what its searches take now: anything, whatever they took when it was published."""
    ladder = draw(ladders())
    some_ms = st.sampled_from([0.5, 1.0, 4.0]) | st.floats(0.01, 1000)
    return ladder, draw(st.lists(some_ms, min_size=len(ladder.rungs), max_size=len(ladder.rungs)))


def priced(world, k, num_searches=1):
    """Each rung with its predicted time, and the steps among them that no other one dominates at k."""
    ladder, p99_ms = world
    of_rung = [(rung, num_searches * ms) for rung, ms in zip(ladder.rungs, p99_ms, strict=True)]
    steps = [(rung, ms) for rung, ms in of_rung if rung.on_ladder]
    rising = [
        (rung, ms)
        for n, (rung, ms) in enumerate(steps)
        if all(rung.overlap_at(k) > earlier.overlap_at(k) for earlier, _ in steps[:n])
    ]
    return of_rung, [
        (rung, ms) for n, (rung, ms) in enumerate(rising) if all(ms <= later for _, later in rising[n + 1 :])
    ]


def choice_of(world, budget, **rest):
    return choose(world[0], budget, p99_ms=world[1], **rest)


@given(worlds(), times_ms, times_ms, ks, times_ms, st.integers(1, 9), prices())
def test_a_larger_time_budget_never_gets_less(world, one_ms, other_ms, k, elapsed_ms, num_searches, price):
    low_ms, high_ms = sorted((one_ms, other_ms))
    spent = {"k": k, "elapsed_ms": elapsed_ms, "num_searches": num_searches, "price": price}
    less = choice_of(world, Budget(time_ms=low_ms), **spent)
    more = choice_of(world, Budget(time_ms=high_ms), **spent)
    assert more.expected_overlap >= less.expected_overlap
    assert more.rung.width >= less.rung.width
    assert more.degraded is not Degraded.TIME_TOO_SHORT or less.degraded is Degraded.TIME_TOO_SHORT


@given(worlds(), times_ms, times_ms, ks, prices())
def test_time_already_spent_counts_like_a_smaller_budget(world, time_ms, spent_ms, k, price):
    late = choice_of(world, Budget(time_ms=time_ms + spent_ms), k=k, elapsed_ms=spent_ms, price=price)
    left = choice_of(world, Budget(time_ms=time_ms + spent_ms - spent_ms), k=k, price=price)
    early = choice_of(world, Budget(time_ms=time_ms + spent_ms), k=k, price=price)
    assert late == left
    assert late.rung.width <= early.rung.width
    assert late.expected_overlap <= early.expected_overlap


@given(worlds(), times_ms, ks, st.integers(1, 9))
def test_the_choice_fits_and_no_step_that_fits_is_better(world, time_ms, k, num_searches):
    choice = choice_of(world, Budget(time_ms=time_ms), k=k, num_searches=num_searches)
    _, undominated = priced(world, k, num_searches)
    fitting = [(rung, ms) for rung, ms in undominated if ms <= time_ms]
    assert choice.expected_overlap == choice.rung.overlap_at(k)
    if not fitting:
        assert choice.degraded is Degraded.TIME_TOO_SHORT
        assert choice.rung == world[0].steps[0]
        return
    assert choice.degraded is None
    assert (choice.rung, choice.ms) in undominated
    assert choice.ms <= time_ms
    assert choice.expected_overlap == max(rung.overlap_at(k) for rung, _ in fitting)
    assert not [rung for rung, ms in fitting if rung.overlap_at(k) >= choice.expected_overlap and ms < choice.ms]


@given(worlds(), st.none() | times_ms, ks, prices())
def test_a_price_buys_what_is_worth_most_and_says_so_where_it_costs_overlap(world, time_ms, k, price):
    budget = Budget(time_ms=time_ms)
    free, choice = choice_of(world, budget, k=k), choice_of(world, budget, k=k, price=price)
    if free.degraded is Degraded.TIME_TOO_SHORT:
        assert choice == free
        return
    assert (choice.degraded is Degraded.OVERLOADED) == (choice.expected_overlap < free.expected_overlap)
    assert choice.degraded in (None, Degraded.OVERLOADED)
    _, undominated = priced(world, k)
    fitting = [(rung, ms) for rung, ms in undominated if ms <= (time_ms or ms)]
    assert (choice.rung, choice.ms) in fitting

    def worth(rung):
        return rung.overlap_at(k) - price.of(rung.latency_p50_ms)

    assert worth(choice.rung) >= max(worth(rung) for rung, _ in fitting) - 1e-9


@given(worlds(), times_ms, ks, waiting, waiting)
def test_a_higher_price_never_buys_more_time(world, time_ms, k, one, other):
    low, high = sorted((one, other))
    prices = (Price(waiting=each, arrivals=Arrivals()) for each in (high, low))
    less, more = (choice_of(world, Budget(time_ms=time_ms), k=k, price=price) for price in prices)
    assert less.rung.latency_p50_ms <= more.rung.latency_p50_ms * (1 + 1e-9)


@given(worlds(), times_ms, times_ms, ks, prices())
def test_a_deadline_only_cuts_a_time_budget_short(world, time_ms, deadline_ms, k, price):
    both = choice_of(world, Budget(time_ms=time_ms), k=k, deadline_ms=deadline_ms, price=price)
    assert both == choice_of(world, Budget(time_ms=min(time_ms, deadline_ms)), k=k, price=price)
    alone = choice_of(world, Budget(), k=k, deadline_ms=deadline_ms, price=price)
    assert alone == choice_of(world, Budget(time_ms=deadline_ms), k=k, price=price)


@given(worlds(), ks)
def test_no_budget_is_an_endless_one(world, k):
    assert choice_of(world, Budget(), k=k) == choice_of(world, Budget(time_ms=1e9), k=k)


@given(worlds(), overlaps, overlaps, ks, prices())
def test_a_higher_overlap_floor_never_gets_less(world, one, other, k, price):
    low, high = sorted((max(one, 1e-6), max(other, 1e-6)))
    less = choice_of(world, Budget(min_overlap=low), k=k, price=price)
    more = choice_of(world, Budget(min_overlap=high), k=k, price=price)
    of_rung, _ = priced(world, k)
    for floor, choice in ((low, less), (high, more)):
        reaching = [rung.latency_p99_ms for rung, _ in of_rung if rung.overlap_at(k) >= floor]
        if reaching:
            assert choice.degraded is None
            assert choice.rung.latency_p99_ms == min(reaching)
        else:
            assert choice.degraded is Degraded.OVERLAP_OUT_OF_REACH
            assert choice.expected_overlap == max(rung.overlap_at(k) for rung, _ in of_rung)
    if more.degraded is None:
        assert more.rung.latency_p99_ms >= less.rung.latency_p99_ms


@given(worlds(), st.integers(1, 200), ks, st.none() | times_ms, prices())
def test_a_width_is_honoured_or_refused(world, width, k, deadline_ms, price):
    of_rung, _ = priced(world, k)
    of_width = [(rung, ms) for rung, ms in of_rung if rung.width == width]
    if of_width:
        choice = choice_of(world, Budget(width=width), k=k, deadline_ms=deadline_ms, price=price)
        assert (choice.rung, choice.ms) in of_width
        best = max(rung.overlap_at(k) for rung, _ in of_width)
        assert choice.expected_overlap == best
        equals = [rung.latency_p99_ms for rung, _ in of_width if rung.overlap_at(k) == best]
        assert choice.rung.latency_p99_ms == min(equals)
        assert choice.degraded is None
    else:
        widths = str(sorted({rung.width for rung, _ in of_rung}))
        with pytest.raises(RequestError, match=re.escape(widths)):
            choice_of(world, Budget(width=width), k=k, deadline_ms=deadline_ms, price=price)


@given(worlds(), times_ms, ks, prices())
def test_choosing_is_pure(world, time_ms, k, price):
    before = copy.deepcopy(world)
    first = choice_of(world, Budget(time_ms=time_ms), k=k, price=price)
    assert choice_of(world, Budget(time_ms=time_ms), k=k, price=price) == first
    assert world == before
