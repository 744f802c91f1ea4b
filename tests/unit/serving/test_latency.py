"""Predicted p99s on a clock of the test's own: they follow what is seen, forget it, and lean on neighbours."""

import threading

import numpy as np
import pytest

from recsys.index.rungs import Ladder, Rung
from serving.latency import LatencyModel, Stage, Tail


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def see(stage, clock, place, values_ms, *, every_s=0.01):
    for ms in values_ms:
        stage.observe(place, ms)
        clock.now_s += every_s


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_tail_knows_any_quantile_within_a_bucket(share):
    values = np.random.default_rng(1).lognormal(0.0, 1.0, size=5000)
    tail = Tail()
    for value in values:
        tail.add(value, now_s=0.0)
    exact = float(np.quantile(values, share))
    assert exact / 1.02 <= tail.quantile(share) <= exact * 1.07
    assert tail.weight(now_s=0.0) == pytest.approx(5000)


def test_a_tail_forgets_by_halves():
    tail = Tail(half_life_s=2.0)
    for _ in range(1000):
        tail.add(10.0, now_s=0.0)
    assert tail.weight(now_s=4.0) == pytest.approx(250)
    for _ in range(1000):
        tail.add(1.0, now_s=20.0)  # after ten half-lives what was seen is a thousandth of a call each
    assert 1.0 <= tail.quantile(0.99) <= 1.06
    assert tail.weight(now_s=20.0) == pytest.approx(1001, rel=0.01)


def test_a_tail_outlives_any_number_of_half_lives():
    tail = Tail(half_life_s=1.0)
    for second in range(5000):
        tail.add(2.0, now_s=float(second))
    assert tail.weight(now_s=4999.0) == pytest.approx(2.0)
    assert 2.0 <= tail.quantile(0.5) <= 2.11


def test_what_is_out_of_range_counts_as_the_nearer_end():
    tail = Tail()
    for value in (1e-9, 1e9):
        tail.add(value, now_s=0.0)
    assert tail.quantile(0.4) == pytest.approx(1e-3)
    assert tail.quantile(0.99) == pytest.approx(1e4, rel=0.06)


def test_a_stage_starts_from_its_start_and_follows_what_is_seen(clock):
    stage = Stage([1.0, 2.0, 4.0], clock=clock)
    assert stage.p99_ms() == (1.0, 2.0, 4.0)
    see(stage, clock, 1, [6.0] * 1000)
    clock.now_s += 0.1
    assert stage.p99_ms()[1] == pytest.approx(6.0, rel=0.25)


def test_places_that_are_not_used_follow_their_neighbours(clock):
    stage = Stage([1.0, 2.0, 4.0, 8.0], clock=clock)
    see(stage, clock, 0, [3.0] * 1000)
    clock.now_s += 0.1
    low, *rest = stage.p99_ms()
    assert low > 2
    slower = [ms / start for ms, start in zip(rest, stage.start_ms[1:], strict=True)]
    assert slower == sorted(slower, reverse=True)
    assert all(1.2 < ratio < 3.0 for ratio in slower)


def test_a_slow_down_that_is_over_is_forgotten_so_that_an_expensive_place_is_tried_again(clock):
    stage = Stage([1.0, 10.0], clock=clock)
    see(stage, clock, 1, [80.0] * 500)
    clock.now_s += 0.1
    assert stage.p99_ms()[1] > 40
    see(stage, clock, 0, [0.9] * 3000)  # the cheap one alone is used from here on, and is as fast as ever
    assert stage.p99_ms()[1] < 12
    clock.now_s += 1000
    assert stage.p99_ms() == pytest.approx((1.0, 10.0), rel=0.01)


def test_one_slow_call_in_many_moves_nothing(clock):
    stage = Stage([1.0], clock=clock)
    see(stage, clock, 0, [1.0] * 600 + [500.0] + [1.0] * 300)
    assert stage.p99_ms()[0] < 1.1


def test_concurrent_observations_are_all_counted(clock):
    stage = Stage([1.0, 1.0], clock=clock)
    threads = [
        threading.Thread(target=lambda place=place: [stage.observe(place, 7.0) for _ in range(4000)])
        for place in (0, 1, 0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.now_s += 0.1
    assert stage.p99_ms() == pytest.approx((7.0, 7.0), rel=0.1)


def rung(p99_ms):
    return Rung(
        engine="exact",
        width=round(p99_ms) * 16,
        overlap={10: 0.5, 100: 0.4},
        latency_p50_ms=p99_ms / 2,
        latency_p99_ms=p99_ms,
        size_bytes=1,
    )


LADDER = Ladder(rungs=(rung(1.0), rung(2.0)), measured={})


def test_search_grows_only_past_the_measured_k(clock):
    model = LatencyModel(LADDER, clock=clock)
    assert [model.predict(k).search_ms[1] for k in (1, 100, 400)] == [2.0, 2.0, 4.0]


def test_searches_for_many_items_say_the_same_of_a_rung_as_those_for_few(clock):
    model = LatencyModel(LADDER, search_ms=[3.0, 5.0], clock=clock)
    assert model.predict(10).search_ms == (3.0, 5.0)
    for _ in range(1000):
        model.searched(LADDER.rungs[1], k=400, ms=20.0)
    clock.now_s += 0.1
    assert model.predict(100).search_ms[1] == pytest.approx(10.0, rel=0.2)
    assert model.predict(400).search_ms[1] == pytest.approx(20.0, rel=0.2)
    assert model.predict(400, start=True).search_ms == (6.0, 10.0)


def test_sizes_are_predicted_by_the_smallest_measured_one_that_is_no_smaller(clock):
    model = LatencyModel(LADDER, encode_ms={1: 0.2, 257: 1.0}, after_ms={10: 0.1, 1000: 0.9, 100: 2.0}, clock=clock)
    assert [model.encode_ms(size) for size in (1, 2, 257, 9999)] == [0.2, 1.0, 1.0, 1.0]
    assert [model.predict(k).after_ms[0] for k in (5, 50, 500)] == [0.1, 2.0, 2.0]  # more never counts as cheaper
    for _ in range(1000):
        model.encoded(100, ms=3.0)
    clock.now_s += 0.1
    assert model.encode_ms(257) == pytest.approx(3.0, rel=0.2)


def test_what_comes_after_a_search_is_predicted_by_rung(clock):
    model = LatencyModel(LADDER, search_ms=[3.0, 5.0], after_ms={10: 0.1, 100: 0.2}, clock=clock)
    for _ in range(1000):
        model.finished(LADDER.rungs[0], k=7, ms=0.1)
        model.finished(LADDER.rungs[1], k=100, ms=0.8)
    clock.now_s += 0.1
    assert model.predict(10).after_ms == pytest.approx((0.1, 0.4), rel=0.2)
    assert model.predict(100).after_ms == pytest.approx((0.2, 0.8), rel=0.2)
    assert model.predict(10, start=True).after_ms == (0.1, 0.1)
    assert model.predict(100).answer_ms == pytest.approx((3.2, 5.8), rel=0.1)
    assert [model.place(rung) for rung in LADDER.rungs] == [0, 1]


def test_a_rung_is_never_predicted_to_be_faster_than_a_cheaper_one(clock):
    model = LatencyModel(LADDER, search_ms=[3.0, 5.0], clock=clock)
    for _ in range(1000):
        model.searched(LADDER.rungs[0], k=10, ms=30.0)
        model.searched(LADDER.rungs[1], k=10, ms=5.0)
    clock.now_s += 0.1
    assert model.predict(10).search_ms == pytest.approx((30.0, 5.0), rel=0.4)
    assert model.predict(10).answer_ms[0] == model.predict(10).answer_ms[1] == model.predict(10).search_ms[0]


def test_a_slow_dear_rung_makes_no_cheap_one_slower(clock):
    model = LatencyModel(LADDER, search_ms=[3.0, 5.0], after_ms={100: 1.0}, clock=clock)
    for _ in range(1000):
        model.searched(LADDER.rungs[0], k=10, ms=3.0)
        model.searched(LADDER.rungs[1], k=10, ms=50.0)
    clock.now_s += 0.1
    cheap_ms, dear_ms = model.predict(10).search_ms
    assert dear_ms > 5 * cheap_ms
    assert model.predict(10).answer_ms == (cheap_ms + 1, dear_ms + 1)


def test_what_was_not_measured_counts_as_nothing(clock):
    model = LatencyModel(LADDER, clock=clock)
    model.finished(LADDER.rungs[0], k=10, ms=5.0)
    model.encoded(1, ms=5.0)
    assert (model.predict(10).after_ms, model.encode_ms(1)) == ((0.0, 0.0), 0.0)
