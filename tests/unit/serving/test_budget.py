"""Budgets are checked when made; on a hand-made ladder each kind chooses the rung one would choose by hand."""

import math
from dataclasses import replace

import pytest

from recsys.errors import RequestError
from recsys.index.rungs import Ladder, Rung
from serving import budget
from serving.budget import Budget, Degraded
from serving.latency import LatencyModel
from serving.price import Arrivals, Price


def rung(width: int, p99_ms: float, overlap_10: float, overlap_100: float, **changes: object) -> Rung:
    made = Rung(
        engine="exact",
        width=width,
        overlap={10: overlap_10, 100: overlap_100},
        latency_p50_ms=p99_ms / 2,
        latency_p99_ms=p99_ms,
        size_bytes=width * 4000,
    )
    return replace(made, **changes)


NARROW = rung(16, 1.0, 0.6, 0.5)
RERANKED = rung(16, 3.0, 0.99, 0.95, rerank=400, on_ladder=False)
MIDDLE = rung(64, 2.0, 0.9, 0.85)
FULL = rung(128, 4.0, 1.0, 1.0)
LADDER = Ladder(rungs=(NARROW, MIDDLE, RERANKED, FULL), measured={})


def each(millisecond: float) -> Price:
    return Price(waiting=millisecond, arrivals=Arrivals())


def choose(ladder: Ladder, spent: Budget, *, k: int, **rest: object) -> budget.Choice:
    """Choose with the latencies of publishing, unless told others."""
    return budget.choose(ladder, spent, **{"k": k, "p99_ms": LatencyModel(ladder).predict(k).search_ms, **rest})


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("budget.time_ms", {"time_ms": 0.0}),
        ("budget.time_ms", {"time_ms": -1.0}),
        ("budget.time_ms", {"time_ms": math.nan}),
        ("budget.time_ms", {"time_ms": math.inf}),
        ("budget.min_overlap", {"min_overlap": 0.0}),
        ("budget.min_overlap", {"min_overlap": 1.01}),
        ("budget.min_overlap", {"min_overlap": math.nan}),
        ("budget", {"time_ms": 5.0, "width": 64}),
        ("budget", {"width": 64, "min_overlap": 0.9}),
    ],
)
def test_an_impossible_budget_is_refused_by_name(field, given):
    with pytest.raises(RequestError) as refused:
        Budget(**given)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("time_ms", "expected"), [(1.0, NARROW), (1.9, NARROW), (2.0, MIDDLE), (3.9, MIDDLE), (4, FULL)]
)
def test_time_buys_the_best_step_that_fits(time_ms, expected):
    assert choose(LADDER, Budget(time_ms=time_ms), k=10).rung is expected


def test_rungs_off_the_ladder_are_not_bought_with_time():
    assert choose(LADDER, Budget(time_ms=3.5), k=10).rung is MIDDLE


def test_what_was_spent_is_taken_off():
    assert choose(LADDER, Budget(time_ms=4.5), k=10, elapsed_ms=0.5).rung is FULL
    assert choose(LADDER, Budget(time_ms=4.5), k=10, elapsed_ms=0.6).rung is MIDDLE


def test_several_searches_share_the_time():
    assert choose(LADDER, Budget(time_ms=8), k=10, num_searches=2).rung is FULL
    assert choose(LADDER, Budget(time_ms=8), k=10, num_searches=3).rung is MIDDLE


def test_too_little_time_gets_the_cheapest_step_and_says_so():
    choice = choose(LADDER, Budget(time_ms=0.5), k=10)
    assert (choice.rung, choice.degraded) == (NARROW, Degraded.TIME_TOO_SHORT)


def test_without_budget_the_deadline_is_the_budget_and_without_deadline_the_best_step_answers():
    assert choose(LADDER, Budget(), k=10, deadline_ms=2.5).rung is MIDDLE
    assert choose(LADDER, Budget(), k=10).rung is FULL


def test_a_width_is_answered_by_its_best_rung_even_past_the_deadline():
    assert choose(LADDER, Budget(width=16), k=10, deadline_ms=0.1).rung is RERANKED


def test_an_unknown_width_names_the_trained_ones():
    with pytest.raises(RequestError, match=r"budget\.width: got 48, expected a trained width, one of \[16, 64, 128\]"):
        choose(LADDER, Budget(width=48), k=10)


def test_an_overlap_floor_gets_the_cheapest_rung_that_reaches_it_at_the_k_asked_for():
    assert choose(LADDER, Budget(min_overlap=0.88), k=10).rung is MIDDLE
    assert choose(LADDER, Budget(min_overlap=0.88), k=100).rung is RERANKED
    assert choose(LADDER, Budget(min_overlap=1.0), k=100).rung is FULL


def test_an_overlap_out_of_reach_gets_the_best_rung_and_says_so():
    choice = choose(Ladder(rungs=(NARROW, MIDDLE), measured={}), Budget(min_overlap=0.95), k=100)
    assert (choice.rung, choice.degraded, choice.expected_overlap) == (MIDDLE, Degraded.OVERLAP_OUT_OF_REACH, 0.85)


def test_what_a_search_takes_now_counts_not_what_it_took_when_published():
    slower, faster = [[part * rung.latency_p99_ms for rung in LADDER.rungs] for part in (2, 0.5)]
    assert choose(LADDER, Budget(time_ms=4), k=10, p99_ms=slower).rung is MIDDLE
    assert choose(LADDER, Budget(time_ms=2), k=10, p99_ms=faster).rung is FULL
    assert choose(LADDER, Budget(time_ms=8), k=10, p99_ms=slower, num_searches=2).ms == 8


def test_a_step_that_became_slower_than_a_better_one_is_passed_over():
    p99_ms = [5.0, 3.0, 9.0, 4.0]
    assert choose(LADDER, Budget(time_ms=9), k=10, p99_ms=p99_ms).rung is FULL
    assert choose(LADDER, Budget(time_ms=3.5), k=10, p99_ms=p99_ms).rung is MIDDLE
    least = choose(LADDER, Budget(time_ms=1), k=10, p99_ms=p99_ms)
    assert (least.rung, least.degraded) == (NARROW, Degraded.TIME_TOO_SHORT)


def test_a_price_on_time_buys_less_and_says_so_where_it_costs_overlap():
    # Half of the p99 is usual: a step up from NARROW gives .3 for .5 ms, one from MIDDLE .1 for another 1 ms.
    assert choose(LADDER, Budget(time_ms=9), k=10, price=each(0.09)).degraded is None
    assert choose(LADDER, Budget(time_ms=9), k=10, price=each(0.11)).rung is MIDDLE
    assert choose(LADDER, Budget(), k=10, price=each(0.11)).degraded is Degraded.OVERLOADED
    assert choose(LADDER, Budget(time_ms=9), k=10, price=each(0.61)).rung is NARROW
    assert choose(LADDER, Budget(time_ms=18), k=10, price=each(0.61), num_searches=2).rung is NARROW
    assert choose(LADDER, Budget(time_ms=18), k=10, price=each(0.59), num_searches=2).rung is MIDDLE
    assert choose(LADDER, Budget(time_ms=1.5), k=10, price=each(9.0)).degraded is None
    assert choose(LADDER, Budget(time_ms=0.5), k=10, price=each(9.0)).degraded is Degraded.TIME_TOO_SHORT


def test_time_costs_nothing_until_those_that_come_cannot_wait_so_long():
    come = Arrivals(had_ms=(1.5,), sum_ms=(0.0, 1.5), per_ms=0.2)
    less, more = (Price(arrivals=come, weight=weight) for weight in (0.9, 1.1))
    assert choose(LADDER, Budget(time_ms=9), k=10, price=less).rung is FULL  # .1 of overlap for .09 of an answer's
    assert choose(LADDER, Budget(time_ms=9), k=10, price=more).rung is MIDDLE  # takes 1 ms, so that nobody is lost
    # Two searches take twice the time, in which a tenth of an answer is lost: a twentieth for each of them.
    assert choose(LADDER, Budget(time_ms=18), k=10, price=more, num_searches=2).rung is MIDDLE


def test_who_names_a_width_or_an_overlap_pays_no_price():
    assert choose(LADDER, Budget(width=128), k=10, price=each(9.0)).rung is FULL
    assert choose(LADDER, Budget(min_overlap=0.9), k=10, price=each(9.0)).rung is MIDDLE
