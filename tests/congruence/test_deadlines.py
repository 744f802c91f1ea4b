"""Searches with a deadline against those without one: the same where there was time, a shorter search where not."""

import time
from dataclasses import replace

import numpy as np
import pytest

from recsys.index.build import build_searcher
from recsys.index.deadline import Deadline
from recsys.index.exact import NOTHING
from recsys.index.filtered import search_filtered
from recsys.index.item_set import ItemSet
from recsys.index.specs import RungSpec
from recsys.widths import WidthLadder, unit_queries

NUM_ITEMS, K = 20_000, 40
WIDTHS = WidthLadder([8, 16, 32])
WHOLE = [
    RungSpec(engine="ivf", width=32, nprobe=60),
    RungSpec(engine="ivf", width=8, nprobe=60, rerank=200),
    RungSpec(engine="ivf", width=16, routing=8, code="fp16", nprobe=60, funnel=((16, 200),), rerank=100),
    RungSpec(engine="ivf", width=16, routing=8, code="sq8", nprobe=60, rerank=100),
    RungSpec(engine="ivf", width=16, routing=8, levels=2, nprobe=60),
]
FAST_SCAN = [
    RungSpec(engine="ivf", width=32, routing=8, code="rabitq", nprobe=60, rerank=400),
    RungSpec(engine="ivf", width=32, routing=8, code="pq2", nprobe=60, rerank=400),
]
RUNGS = [*WHOLE, *FAST_SCAN]
FIRST_CELLS, FIRST_SCORED = 8, 4096
EVERYTHING = ItemSet.all_but(np.zeros(0, dtype=np.int64), NUM_ITEMS)


@pytest.fixture(scope="module")
def world():
    """Clustered items, and queries that are like some of them."""
    random = np.random.default_rng(1)
    themes = random.normal(size=(50, 32)) * 0.9 ** np.arange(32)
    vector_ND = themes[random.integers(50, size=NUM_ITEMS)] + 0.3 * random.normal(size=(NUM_ITEMS, 32))
    item_ND = unit_queries(vector_ND.astype(np.float32), WIDTHS)
    indexes = list(dict.fromkeys([rung.index for rung in RUNGS]))
    return build_searcher(item_ND, widths=WIDTHS, seed=1, indexes=indexes), item_ND[:8].copy()


def spare():
    return Deadline(until_s=time.perf_counter() + 3600, search_ms=1.0)


def enough():
    """Time for all, but not so much that nobody need look at the clock."""
    return Deadline(until_s=time.perf_counter() + 3600, search_ms=3.6e6)


def passed():
    return Deadline(until_s=time.perf_counter(), search_ms=1.0, rerank_ms=1.0)


def same(found, expected):
    return np.array_equal(found.rows_BK, expected.rows_BK) and np.array_equal(found.scores_BK, expected.scores_BK)


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_with_time_to_spare_an_answer_is_the_same_bit_for_bit(world, rung):
    searcher, query_QU = world
    found = searcher.search(query_QU, k=K, rung=rung, deadline=spare())
    assert found.done_share == 1
    assert same(found, searcher.search(query_QU, k=K, rung=rung))


@pytest.mark.parametrize("rung", WHOLE, ids=lambda rung: rung.name)
def test_cells_that_are_scanned_in_parts_give_the_same_bit_for_bit(world, rung):
    searcher, query_QU = world
    found = searcher.search(query_QU, k=K, rung=rung, deadline=enough())
    assert found.done_share == 1
    assert same(found, searcher.search(query_QU, k=K, rung=rung))


@pytest.mark.parametrize("rung", FAST_SCAN, ids=lambda rung: rung.name)
def test_codes_that_are_rounded_by_the_cells_scanned_give_nearly_the_same(world, rung):
    searcher, query_QU = world
    found = searcher.search(query_QU, k=K, rung=rung, deadline=enough())
    whole = searcher.search(query_QU, k=K, rung=rung)
    shared = [len(np.intersect1d(*pair)) / K for pair in zip(found.rows_BK, whole.rows_BK, strict=True)]
    assert np.mean(shared) > 0.98


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_past_the_deadline_the_nearest_cells_answer(world, rung):
    searcher, query_QU = world
    found = searcher.search(query_QU, k=K, rung=rung, deadline=passed())
    assert found.done_share == FIRST_CELLS / rung.nprobe
    assert same(found, searcher.search(query_QU, k=K, rung=replace(rung, nprobe=FIRST_CELLS)))


def test_scoring_all_in_parts_gives_the_same_bit_for_bit(world):
    searcher, query_QU = world
    found = searcher.score_all(query_QU, k=K, allowed=EVERYTHING, deadline=enough())
    assert (found.num_scored, found.done_share) == (NUM_ITEMS, 1)
    assert same(found, searcher.score_all(query_QU, k=K, allowed=EVERYTHING))


def test_past_the_deadline_the_first_items_are_scored(world):
    searcher, query_QU = world
    found = searcher.score_all(query_QU, k=K, allowed=EVERYTHING, deadline=passed())
    assert (found.num_scored, found.done_share) == (FIRST_SCORED, FIRST_SCORED / NUM_ITEMS)
    first = ItemSet.of(np.arange(FIRST_SCORED), NUM_ITEMS)
    assert same(found, searcher.score_all(query_QU, k=K, allowed=first))


@pytest.mark.parametrize("num_allowed", [50, 2000, 8000, NUM_ITEMS - 1])
@pytest.mark.parametrize("rung", [WHOLE[1], FAST_SCAN[1], RungSpec(engine="ivf", width=8, nprobe=9)])
def test_filtered_searches_stop_in_time_and_say_so(world, rung, num_allowed):
    searcher, query_QU = world
    allowed = ItemSet.of(np.random.default_rng(2).permutation(NUM_ITEMS)[:num_allowed], NUM_ITEMS)
    for k in (K, 1000):
        whole = search_filtered(searcher, query_QU, k=k, rung=rung, allowed=allowed)
        assert whole.done_share == 1
        assert same(search_filtered(searcher, query_QU, k=k, rung=rung, allowed=allowed, deadline=spare()), whole)
        found = search_filtered(searcher, query_QU, k=k, rung=rung, allowed=allowed, deadline=passed())
        given = found.rows_BK[found.rows_BK != NOTHING]
        assert set(given.tolist()) <= set(allowed.rows.tolist())
        assert found.done_share < 1 or found.num_scored == num_allowed
        assert (found.rows_BK[:, 0] != NOTHING).any()
