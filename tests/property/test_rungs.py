"""The ladder that requests climb: a chain, ending at the best there is, and none better exists."""

import itertools
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from recsys.index.rungs import NOTICEABLE, Rung, climbable
from recsys.testing import rungs as measured_rungs


def steps(rungs):
    chosen = [rung for rung, on in zip(rungs, climbable(rungs), strict=True) if on]
    return sorted(chosen, key=lambda rung: rung.latency_p99_ms)


def is_chain(chain):
    return all(
        high.latency_p99_ms >= NOTICEABLE * low.latency_p99_ms
        and high.mean_overlap > low.mean_overlap
        and high.width >= low.width
        for low, high in itertools.pairwise(chain)
    )


def area(chain, end_ms):
    """Overlap a request can expect, averaged over budgets whose logarithms are spread evenly."""
    stops = [*(rung.latency_p99_ms for rung in chain[1:]), end_ms]
    return sum(
        rung.mean_overlap * math.log(stop / rung.latency_p99_ms) for rung, stop in zip(chain, stops, strict=True)
    )


@given(st.lists(measured_rungs(widths=(16, 32, 64)), min_size=1, max_size=30))
def test_steps_form_a_chain_that_ends_at_the_greatest_overlap(rungs):
    chain = steps(rungs)
    assert chain
    assert is_chain(chain)
    assert chain[-1].mean_overlap == max(rung.mean_overlap for rung in rungs)


@given(st.lists(measured_rungs(widths=(16, 32, 64)), min_size=1, max_size=7))
def test_no_other_chain_has_a_greater_area(rungs):
    greatest = max(rung.mean_overlap for rung in rungs)
    end_ms = max(rung.latency_p99_ms for rung in rungs)
    ordered = sorted(rungs, key=lambda rung: rung.latency_p99_ms)
    every = itertools.chain.from_iterable(itertools.combinations(ordered, n) for n in range(1, len(ordered) + 1))
    areas = [area(chain, end_ms) for chain in every if is_chain(chain) and chain[-1].mean_overlap == greatest]
    assert math.isclose(area(steps(rungs), end_ms), max(areas), rel_tol=1e-9, abs_tol=1e-9)


@given(st.lists(measured_rungs(widths=(16, 32, 64)), min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_the_order_of_measuring_does_not_change_what_is_gained(rungs, shuffler: random.Random):
    end_ms = max(rung.latency_p99_ms for rung in rungs)
    shuffled = shuffler.sample(rungs, len(rungs))
    assert math.isclose(area(steps(rungs), end_ms), area(steps(shuffled), end_ms), rel_tol=1e-9, abs_tol=1e-9)


@given(st.lists(measured_rungs(widths=(16, 32, 64)), min_size=1, max_size=10), st.floats(0.01, 100))
def test_an_exact_rung_that_is_fastest_of_all_is_the_only_step(rungs, p99_ms):
    fastest_ms = min(p99_ms, *(rung.latency_p99_ms for rung in rungs)) / 2
    exact = Rung(
        engine="exact",
        width=128,
        overlap={10: 1.0, 100: 1.0},
        latency_p50_ms=fastest_ms,
        latency_p99_ms=fastest_ms,
        size_bytes=1,
    )
    assert steps([*rungs, exact]) == [exact]
