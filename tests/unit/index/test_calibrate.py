import json

import faiss
import numpy as np
import pytest

from recsys.errors import ConfigError, WidthError
from recsys.index.build import build_for, build_searcher
from recsys.index.calibrate import (
    MAX_RUNGS,
    MIN_RUNGS,
    _num_passes,
    _with_necessary,
    calibrate,
    chosen,
    measure_ladder,
    usable_ks,
)
from recsys.index.halving import Bench, Trial
from recsys.index.rungs import Ladder
from recsys.index.space import LadderSpace
from recsys.index.specs import RungSpec
from recsys.index.timing import LadderSearch
from recsys.index.truth import Truth
from recsys.ragged import Ragged
from recsys.widths import WidthLadder

WIDTHS = WidthLadder([4, 8, 16])
FULL = RungSpec(engine="exact", width=16)
SPECS = LadderSpace(max_trials=60).specs(WIDTHS, num_items=700, k=20, seed=1)


def unit(num, width, seed):
    vector = np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def searcher():
    return build_for(unit(700, 16, seed=1), SPECS, widths=WIDTHS, seed=1)


@pytest.fixture(scope="module")
def queries():
    return unit(12, 16, seed=2)


def measure(searcher, queries, specs, **settings):
    return measure_ladder(searcher, queries, specs=specs, **{"ks": (5, 20), "repeats": 1, **settings})


def by_name(ladder):
    return {rung.name: rung for rung in ladder.rungs}


def test_ks_that_tell_rungs_apart():
    assert usable_ks((100, 10), 1682) == [10, 100]
    assert usable_ks((10, 100), 399) == [10]
    assert usable_ks((10, 100), 12) == [3]
    assert usable_ks((10,), 1) == [1]


def test_the_exact_full_width_rung_misses_nothing(searcher, queries):
    rung = by_name(measure(searcher, queries, [FULL]))["exact16"]
    assert rung.overlap == {5: 1.0, 20: 1.0}
    assert rung.mean_overlap == 1.0
    assert rung.on_ladder
    assert 0 < rung.latency_p50_ms <= rung.latency_p99_ms
    assert rung.size_bytes == searcher.size_bytes(FULL)


def test_overlap_is_the_share_of_the_best_that_came_back(searcher, queries):
    spec = RungSpec(engine="exact", width=4)
    rung = by_name(measure(searcher, queries, [FULL, spec]))["exact4"]
    for k in (5, 20):
        best = np.argsort(-(queries @ searcher.store_ND.T), axis=1)[:, :k]
        found = searcher.search(queries, k=k, rung=spec).rows_BK
        expected = np.mean([len(set(a) & set(b)) / k for a, b in zip(best.tolist(), found.tolist(), strict=True)])
        assert rung.overlap[k] == pytest.approx(expected)
        assert rung.overlap[k] < 0.9


def test_excluded_items_are_left_out_of_the_wanted_ones_too(searcher, queries):
    best = np.argsort(-(queries @ searcher.store_ND.T), axis=1)[:, :30]
    ladder = measure(searcher, queries, [FULL], exclude=Ragged.from_lists(best.tolist()))
    assert by_name(ladder)["exact16"].overlap == {5: 1.0, 20: 1.0}
    assert ladder.measured["seen_items_excluded"]


def test_a_query_that_may_get_nothing_misses_nothing(searcher, queries):
    everything = Ragged.from_lists([range(700)] * len(queries))
    ladder = measure(
        searcher, queries, [FULL, RungSpec(engine="ivf", width=4, code="sq8", nprobe=1)], exclude=everything
    )
    assert all(rung.overlap == {5: 1.0, 20: 1.0} for rung in ladder.rungs)


def test_items_that_tie_are_as_good_as_each_other():
    store = np.repeat(unit(20, 16, seed=3), 40, axis=0)  # 40 copies of each: the top 20 is any half of one group
    searcher = build_searcher(store, widths=WIDTHS, seed=1)
    ladder = measure(searcher, store[::40], [FULL, RungSpec(engine="exact", width=4, rerank=40)])
    assert by_name(ladder)["exact4-r40"].overlap == {5: 1.0, 20: 1.0}


def test_k_past_the_catalogue_counts_what_there_is():
    searcher = build_searcher(unit(15, 16, seed=3), widths=WIDTHS, seed=1)
    ladder = measure(searcher, unit(3, 16, seed=4), [FULL])
    assert by_name(ladder)["exact16"].overlap == {5: 1.0, 20: 1.0}


def test_rungs_come_cheapest_first_and_the_best_is_climbable(searcher, queries):
    ladder = measure(searcher, queries, SPECS, repeats=3)
    latencies = [rung.latency_p99_ms for rung in ladder.rungs]
    assert latencies == sorted(latencies)
    assert ladder.steps[-1].mean_overlap == 1.0


def test_what_was_measured_is_plain_json(searcher, queries, tmp_path):
    ladder = measure(searcher, queries, SPECS)
    ladder.save(tmp_path / "ladder.json")
    assert Ladder.load(tmp_path / "ladder.json") == ladder
    measured = json.loads((tmp_path / "ladder.json").read_text())["measured"]
    for key in ("cpu", "cores", "threads", "date", "versions", "num_queries", "num_items", "ks", "repeats", "seed"):
        assert measured[key], key
    assert 0 <= measured["disturbed_share"] <= 1


def test_progress_goes_from_nothing_to_all(searcher, queries):
    shares = []
    measure(searcher, queries, [FULL], progress=shares.append)
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] == 1.0


def test_the_threads_of_the_caller_are_put_back(searcher, queries):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        measure(searcher, queries, [FULL])
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"specs": []}, "specs: got 0"),
        ({"specs": [FULL, FULL]}, "expected each rung once"),
        ({"ks": ()}, "ks: got 0"),
        ({"ks": (0, 5)}, "expected positive"),
        ({"repeats": 0}, "repeats: got 0"),
        ({"exclude": Ragged.empty(3)}, r"got 3 lists, expected one per query \(12\)"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(searcher, queries, change, message):
    with pytest.raises(ConfigError, match=message):
        measure_ladder(searcher, queries, **{"specs": [FULL], **change})


def test_no_queries_or_bad_ones_are_refused(searcher, queries):
    with pytest.raises(ConfigError, match="queries: got 0"):
        measure(searcher, queries[:0], [FULL])
    with pytest.raises(WidthError, match="norm 2"):
        measure(searcher, 2 * queries, [FULL])


def trial(spec, *, overlap, ms, size_bytes):
    return Trial(
        spec=spec,
        ks=(20,),
        queries=np.arange(40),
        overlap_QK=np.full((40, 1), overlap),
        ms_PQ=np.full((1, 40), ms),
        size_bytes=size_bytes,
        disturbed_share=0.0,
    )


def test_places_go_to_small_steps_and_none_to_what_finds_next_to_nothing():
    missed = np.geomspace(0.4, 0.002, 60)
    steps = [
        trial(RungSpec(engine="ivf", width=16, nprobe=n), overlap=1 - share, ms=0.1 / share**0.3, size_bytes=10_000)
        for n, share in enumerate(missed, start=1)
    ]
    poor = [
        trial(RungSpec(engine="ivf", width=8, code="sq8", nprobe=n), overlap=n / 50, ms=n / 1e3, size_bytes=100 * n)
        for n in range(1, 20)
    ]
    only = trial(RungSpec(engine="exact", width=4), overlap=0.1, ms=1.0, size_bytes=1)
    trials = [trial(FULL, overlap=1.0, ms=9.0, size_bytes=20_000), *steps, *poor, only]
    found = chosen(trials, WIDTHS)
    assert len(found) == MAX_RUNGS
    kept = [trials[place] for place, on in found.items() if on]
    assert kept[0].spec == FULL
    assert {one.spec.width for one in kept} == {16}
    assert sorted(trials[place].spec.width for place, on in found.items() if not on) == [4, 8]
    ms = np.sort([one.p50_ms for one in kept])
    # Twelve steps cover a factor of 4.9 in time: 1.16 each where all are equal.
    assert (ms[1:-1] / ms[:-2]).max() < 1.35


def test_each_width_keeps_its_best_for_requests_that_name_it():
    steps = [
        trial(
            RungSpec(engine="exact", width=8, rerank=50 * n, store=store), overlap=0.9 + n / 100, ms=n, size_bytes=size
        )
        for n in range(1, 9)
        for store, size in (("sq8", 10_000), ("fp16", 11_000))
    ]
    best = trial(RungSpec(engine="exact", width=8, rerank=450), overlap=0.999, ms=9.5, size_bytes=30_000)
    trials = [trial(FULL, overlap=1.0, ms=9.0, size_bytes=20_000), *steps, best]
    found = chosen(trials, WIDTHS)
    assert found[len(trials) - 1] is False
    assert len(found) <= MAX_RUNGS


def test_each_width_s_best_is_measured_last_though_others_of_its_width_are_left():
    plain, deep, shallow = (RungSpec(engine="exact", width=8, rerank=rerank) for rerank in (0, 400, 50))
    first = [
        trial(FULL, overlap=1.0, ms=9.0, size_bytes=20_000),
        trial(plain, overlap=0.6, ms=1.0, size_bytes=9000),
        trial(deep, overlap=1.0, ms=8.0, size_bytes=30_000),
        trial(shallow, overlap=0.9, ms=2.0, size_bytes=30_000),
    ]
    assert _with_necessary([FULL, plain], [one.spec for one in first], [first], WIDTHS) == [FULL, plain, deep]


@pytest.fixture(scope="module")
def crowd():
    return unit(64, 16, seed=5)


def calibrated(searcher, crowd, specs=SPECS, **settings):
    return calibrate(searcher, crowd, specs=specs, **{"ks": (5, 20), "repeats": 1, **settings})


def test_a_calibrated_ladder_is_short_and_climbs(searcher, crowd):
    ladder = calibrated(searcher, crowd)
    assert MIN_RUNGS <= len(ladder.rungs) <= MAX_RUNGS
    assert ladder.steps[-1].mean_overlap == max(rung.mean_overlap for rung in ladder.rungs) == 1.0
    assert {rung.width for rung in ladder.rungs} == set(WIDTHS)
    on = [rung for rung in ladder.rungs if rung.on_frontier]
    assert not any(rung.on_ladder and not rung.on_frontier for rung in ladder.rungs)
    for rung in on[:-1]:
        if rung.engine in ("exact", "certified") and rung.width == 16:
            continue  # kept whatever is measured
        better = [
            other
            for other in on
            if other.latency_p50_ms < rung.latency_p50_ms
            and other.latency_p99_ms < rung.latency_p99_ms
            and other.size_bytes < rung.size_bytes
            and all(other.overlap[k] > rung.overlap[k] for k in rung.overlap)
        ]
        assert not better


def test_a_width_that_never_pays_is_named_and_off_the_ladder(searcher, crowd):
    # Bytes aside, nothing is lost by scanning all 16 coordinates: 4 and 8 are offered with pointless reranks only.
    slow = [RungSpec(engine="exact", width=width, rerank=600) for width in (4, 8)]
    ladder = calibrated(searcher, crowd, specs=[FULL, *slow], repeats=3)
    assert ladder.measured["widths_on_no_frontier"] == [4, 8]
    assert [rung.name for rung in ladder.steps] == ["exact16"]
    assert {rung.width for rung in ladder.rungs} == {4, 8, 16}


def test_intervals_hold_their_figures(searcher, crowd):
    for rung in calibrated(searcher, crowd).rungs:
        figures = {f"overlap@{k}": share for k, share in rung.overlap.items()}
        figures |= {"latency_p50_ms": rung.latency_p50_ms, "latency_p99_ms": rung.latency_p99_ms}
        assert rung.intervals.keys() == figures.keys()
        for name, value in figures.items():
            low, high = rung.intervals[name]
            assert low - 1e-9 <= value <= high + 1e-9


def test_every_trial_is_noted(searcher, crowd):
    measured = calibrated(searcher, crowd).measured
    assert [trial["rung"] for trial in measured["trials"][0]] == [spec.name for spec in SPECS]
    sizes = [len(trials) for trials in measured["trials"]]
    assert sizes == sorted(sizes, reverse=True)
    assert measured["trials"][-1][0]["num_queries"] == 64
    assert 0 < measured["calibration_seconds"] < measured["budget_seconds"]


def reaches(ladder, others):
    """The share of the others' frontier rungs that some rung comes near: 2 points of overlap, 1.5 times the time."""
    near = [
        any(
            mine.mean_overlap >= other.mean_overlap - 0.02 and mine.latency_p50_ms <= 1.5 * other.latency_p50_ms
            for mine in ladder.rungs
        )
        for other in others.rungs
        if other.on_frontier
    ]
    return sum(near) / len(near)


def test_twice_the_same_ladder_within_noise(searcher, crowd):
    once, again = (calibrated(searcher, crowd, seed=seed, repeats=2) for seed in (1, 2))
    assert reaches(once, again) >= 0.8
    assert reaches(again, once) >= 0.8


def test_something_exact_must_be_on_offer(searcher, crowd):
    with pytest.raises(ConfigError, match="got none that is exact"):
        calibrated(searcher, crowd, specs=[RungSpec(engine="exact", width=8)])


def test_only_rungs_that_are_not_exact_are_searched_again_for_a_smaller_k(searcher, crowd, monkeypatch):
    asked, search = [], LadderSearch.__call__

    def noted(self, query, spec, k):
        asked.append((spec.name, k))
        return search(self, query, spec, k)

    monkeypatch.setattr(LadderSearch, "__call__", noted)
    other = RungSpec(engine="exact", width=8, rerank=40)
    ladder = calibrated(searcher, crowd, specs=[FULL, other], ks=(5, 20), repeats=1)
    assert asked.count((other.name, 5)) == 64
    assert asked.count((FULL.name, 5)) == 0
    assert by_name(ladder)["exact16"].overlap == {5: 1.0, 20: 1.0}


@pytest.mark.parametrize(
    ("left_s", "num_ks", "passes"), [(9.1, 1, 9), (9.1, 2, 8), (9.1, 3, 7), (99, 1, 20), (1.5, 2, 1), (-3, 1, 1)]
)
def test_as_many_passes_as_fit_after_one_for_each_smaller_k(searcher, crowd, left_s, num_ks, passes):
    other = RungSpec(engine="exact", width=8, rerank=40)
    truth = Truth.find(crowd, searcher.store_ND, ks=(20,))
    bench = Bench(LadderSearch(searcher, crowd, None), truth, size_bytes=searcher.size_bytes, seed=1)
    trials = bench.measure([FULL, other], num_queries=8)
    for trial in trials:
        trial.ms_PQ[:] = 8 / 9
    # A pass of one of the two through a thousand queries takes a second.
    found = _num_passes([other], trials, num_queries=1000, num_ks=num_ks, left_s=left_s, most=20)
    assert found == passes


def test_a_width_that_is_not_on_offer_is_not_on_the_ladder_either(searcher, crowd):
    ladder = calibrated(searcher, crowd, specs=[FULL, RungSpec(engine="exact", width=8)], repeats=1)
    assert {rung.width for rung in ladder.rungs} == {8, 16}
    assert 4 not in ladder.measured["widths_on_no_frontier"]
