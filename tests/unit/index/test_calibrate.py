import json

import faiss
import numpy as np
import pytest

from recsys.errors import ConfigError, WidthError
from recsys.index.build import build_searcher
from recsys.index.calibrate import MIN_RUNGS, default_specs, measure_ladder, usable_ks
from recsys.index.cells import MIN_ITEMS_FOR_IVF, num_cells
from recsys.index.rungs import Ladder
from recsys.index.specs import RungSpec
from recsys.ragged import Ragged
from recsys.widths import WidthLadder

WIDTHS = WidthLadder([4, 8, 16])
FULL = RungSpec(engine="exact", width=16)


def unit(num, width, seed):
    vector = np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def searcher():
    return build_searcher(unit(700, 16, seed=1), widths=WIDTHS, seed=1)


@pytest.fixture(scope="module")
def queries():
    return unit(12, 16, seed=2)


def measure(searcher, queries, specs, **settings):
    return measure_ladder(searcher, queries, specs=specs, **{"ks": (5, 20), "repeats": 1, **settings})


def by_name(ladder):
    return {rung.name: rung for rung in ladder.rungs}


@pytest.mark.parametrize("num_items", [25, 80, 150, 623, 624, 1682, 3706, 100_000, 10_000_000])
@pytest.mark.parametrize("widths", [(16, 32, 64, 128), (8, 16, 32), (16, 64), (64,)])
def test_default_rungs_are_many_distinct_and_none_is_silly(widths, num_items):
    widths = WidthLadder(widths)
    specs = default_specs(widths, num_items)
    cells = num_cells(num_items)
    assert len(specs) >= MIN_RUNGS or (len(widths) == 1 and num_items < 10_000)
    assert len(specs) == len(set(specs)) <= 60
    assert {spec.width for spec in specs} == set(widths)
    assert any(spec.engine == "exact" and spec.width == widths.full for spec in specs)
    for spec in specs:
        assert not (spec.rerank and spec.width == widths.full)
        assert spec.rerank < num_items
        assert (1 <= spec.nprobe < cells) if spec.engine == "ivf" else spec.nprobe == 0
    assert any(spec.engine == "ivf" for spec in specs) == (num_items >= MIN_ITEMS_FOR_IVF)


@pytest.mark.parametrize("num_items", [1, 2, 3])
def test_the_smallest_catalogues_get_the_rungs_that_exist(num_items):
    specs = default_specs(WIDTHS, num_items)
    assert len(specs) >= len(WIDTHS)
    assert all(spec.rerank < num_items for spec in specs)


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
    ladder = measure(searcher, queries, [FULL, RungSpec(engine="ivf", width=4, nprobe=1)], exclude=everything)
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
    ladder = measure(searcher, queries, default_specs(WIDTHS, 700, k=20), repeats=3)
    latencies = [rung.latency_p99_ms for rung in ladder.rungs]
    assert latencies == sorted(latencies)
    assert ladder.steps[-1].mean_overlap == 1.0


def test_what_was_measured_is_plain_json(searcher, queries, tmp_path):
    ladder = measure(searcher, queries, default_specs(WIDTHS, 700, k=20))
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
