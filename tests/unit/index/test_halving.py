"""Successive halving on searches whose speed and overlap are known."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.index.halving import Bench, Trial, _survivors, fastest_reaching, pass_s
from recsys.index.truth import Truth


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(1)
    item_ND = rng.standard_normal((400, 8)).astype(np.float32)
    item_ND /= np.linalg.norm(item_ND, axis=1, keepdims=True)
    return Truth.find(item_ND[:120], item_ND, ks=(5, 20))


def way(right, ms, size=1):
    """A search that finds the first ``right`` of 20 and takes ``ms``."""
    return SimpleNamespace(name=f"{right}-{ms}", right=right, ms=ms, size=size)


def bench_of(truth):
    def search(query, spec, k):
        started = time.perf_counter()
        rows = truth.exact_QK[query].copy()
        rows[spec.right :] = -1
        while 1e3 * (time.perf_counter() - started) < spec.ms:
            pass
        return rows[:k]

    return Bench(search, truth, size_bytes=lambda spec: spec.size, seed=1)


def test_overlap_and_time_are_measured(truth):
    slow, fast = bench_of(truth).measure([way(10, 0.5), way(20, 0.05)], num_queries=30, repeats=2)
    assert slow.overlap == {5: 1.0, 20: 0.5}
    assert fast.overlap == {5: 1.0, 20: 1.0}
    assert slow.p50_ms == pytest.approx(0.5, rel=0.3)
    assert slow.ms_PQ.shape == (2, 30)
    assert slow.summary().keys() == {"num_queries", "overlap", "p50_ms", "p99_ms", "size_bytes"}


def test_what_survives_is_the_frontier(truth):
    good = [way(20, 0.4), way(15, 0.2), way(10, 0.1)]
    bad = [way(right, 0.6 + 0.05 * n) for n in range(5) for right in (3, 7)]
    left, rounds = bench_of(truth).halve([*bad, *good], keep=3)
    assert left == good
    assert [len(one) for one in rounds] == [13, 5]
    assert [len(one[0].overlap_QK) for one in rounds] == [8, 24]


def test_few_ways_are_not_halved(truth):
    ways = [way(20, 0.1), way(3, 0.1)]
    assert bench_of(truth).halve(ways, keep=3) == (ways, [])


def test_no_round_starts_that_would_pass_the_budget_and_no_more_than_wanted_are_left(truth):
    slow = [way(20 - n, 2.0 - 0.1 * n) for n in range(10)]
    useless = [way(1, 0.02) for _ in range(20)]
    told = []
    # The first round takes about 10 * 8 * 1.6 ms, the second would take three times as long.
    left, rounds = bench_of(truth).halve([*useless, *slow], keep=2, budget_s=0.4, progress=told.append)
    assert len(rounds) == 1
    assert len(left) == 2
    assert told[-1] == 1.0


def test_a_pass_takes_the_time_of_its_calls_and_of_those_that_warm_the_caches(truth):
    trials = bench_of(truth).measure([way(20, 1.0), way(20, 3.0)], num_queries=16)
    for trial in trials:
        trial.ms_PQ[:] = trial.spec.ms
    assert pass_s(trials, num_queries=1000) == pytest.approx(4.0 * 9 / 8)
    assert pass_s([], num_queries=1000) == 0


def test_a_smaller_k_is_searched_for_anew_where_that_is_asked_for(truth):
    asked = []

    def search(query, spec, k):
        asked.append((spec.name, k))
        return truth.exact_QK[query][:k]

    again, cut = way(20, 1), way(19, 1)
    bench = Bench(search, truth, size_bytes=lambda spec: spec.size, seed=1)
    trials = bench.measure([again, cut], num_queries=8, exact_ks=lambda spec: spec is again)
    assert all(trial.overlap == {5: 1.0, 20: 1.0} for trial in trials)
    assert asked.count((again.name, 5)) == 8
    assert asked.count((cut.name, 5)) == 0


def test_progress_never_goes_back(truth):
    told = []
    bench_of(truth).halve([way(20, 0.05 + 0.01 * n) for n in range(12)], keep=2, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def trial(name, share_Q, ms):
    overlap_QK = np.array(share_Q)[:, None]
    return Trial(name, (20,), np.arange(8), overlap_QK, np.full((1, 8), ms), size_bytes=1, disturbed_share=0.0)


def test_what_reaches_a_floor_surely_is_kept_beside_what_may_by_luck():
    lucky = trial("lucky", [1.0, 0.92] * 4, ms=0.1)  # .96 +- .04
    sure = trial("sure", [0.955] * 8, ms=0.2)  # which lucky dominates
    others = [trial(f"{share}", [share] * 8, ms=share / 10) for share in (0.3, 0.5, 0.6)]
    trials = [lucky, sure, *others]
    assert fastest_reaching(trials, each=1, surely=False) == [0]
    assert fastest_reaching(trials, each=1, surely=True) == [0, 1]
    assert {"lucky", "sure"} < {trials[place].spec for place in _survivors(trials, num=3)}


def test_of_what_misses_nothing_slower_ones_are_kept_too():
    """Each of these is dominated by the first; of two in one step of time the faster one is next in line."""
    perfect = [trial(name, [1.0] * 8, ms) for name, ms in (("a", 0.1), ("b", 0.15), ("c", 0.151), ("d", 0.2), ("e", 9))]
    trials = [*(trial(f"{number}", [0.3] * 8, ms=0.09 - number / 1e3) for number in range(20)), *perfect]
    kept = {trials[place].spec for place in _survivors(trials, num=5)}
    assert {"a", "b", "d"} < kept
    assert not {"c", "e"} & kept


def test_where_everything_misses_something_nobody_is_next_in_line():
    assert _survivors([trial("a", [0.9] * 8, 0.1), trial("b", [0.8] * 8, 0.05)], num=1) == [0]
