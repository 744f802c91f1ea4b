"""Filtered searches of every engine against the ranking of exactly the allowed items."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.index.build import build_searcher
from recsys.index.exact import NOTHING, exact_top_k
from recsys.index.filtered import search_filtered
from recsys.index.item_set import ItemSet
from recsys.index.specs import RungSpec
from recsys.ragged import Ragged
from recsys.widths import WidthLadder, unit_queries

NUM_ITEMS, K = 20_000, 40
WIDTHS = WidthLadder([8, 16, 32])
RUNGS = [
    RungSpec(engine="exact", width=32),
    RungSpec(engine="exact", width=8, rerank=100),
    RungSpec(engine="exact", width=16, levels=2),
    RungSpec(engine="certified", width=32, routing=8),
    RungSpec(engine="ivf", width=8, nprobe=1),
    RungSpec(engine="ivf", width=16, routing=8, nprobe=4, rerank=100),
    RungSpec(engine="ivf", width=16, routing=8, code="fp16", nprobe=2),
    RungSpec(engine="ivf", width=32, routing=8, code="rabitq", nprobe=4, rerank=200),
    RungSpec(engine="ivf", width=32, routing=8, code="pq2", nprobe=4, rerank=200),
    RungSpec(engine="ivf", width=16, routing=8, code="sq8", nprobe=2, rerank=100),
    RungSpec(engine="ivf", width=16, routing=8, levels=2, nprobe=2),
    RungSpec(engine="hnsw", width=16, ef=60),
]
EXACT = {RUNGS[0], RUNGS[3]}
ROUNDING = 2e-6


@pytest.fixture(scope="module")
def world():
    """Clustered items, and queries that are like some of them."""
    random = np.random.default_rng(1)
    themes = random.normal(size=(50, 32)) * 0.9 ** np.arange(32)
    vector_ND = themes[random.integers(50, size=NUM_ITEMS)] + 0.3 * random.normal(size=(NUM_ITEMS, 32))
    item_ND = unit_queries(vector_ND.astype(np.float32), WIDTHS)
    indexes = list(dict.fromkeys(rung.index for rung in RUNGS))
    return build_searcher(item_ND, widths=WIDTHS, seed=1, indexes=indexes), item_ND[:3].copy()


def filters(searcher, query_QU, share):
    """A set drawn at random, and the same number of items that are least like the first query."""
    num = round(share * NUM_ITEMS)
    yield ItemSet.of(np.random.default_rng(2).choice(NUM_ITEMS, size=num, replace=False), NUM_ITEMS)
    yield ItemSet.of(np.argsort(searcher.store_ND @ query_QU[0])[:num], NUM_ITEMS)


def ranking(searcher, query_QU, allowed):
    masked = np.setdiff1d(np.arange(NUM_ITEMS), allowed.rows)
    return exact_top_k(query_QU, searcher.store_ND, k=K, masked=Ragged.from_lists([masked] * len(query_QU)))


@pytest.mark.parametrize("share", [0, 0.0001, 0.001, 0.01, 0.1, 0.5, 0.99, 1])
@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_k_allowed_items_come_back_wherever_there_are_k(world, rung, share):
    searcher, query_QU = world
    for allowed in filters(searcher, query_QU, share):
        found = search_filtered(searcher, query_QU, k=K, rung=rung, allowed=allowed)
        for rows in found.rows_BK.tolist():
            given = [row for row in rows if row != NOTHING]
            assert len(set(given)) == len(given) == min(K, len(allowed))
            assert set(given) <= set(allowed.rows.tolist())
        assert (np.diff(found.scores_BK[:, : len(allowed)], axis=1) <= 0).all()
        assert found.num_scored in (0, len(allowed))
        if found.num_scored or rung in EXACT:
            score_QK, _ = ranking(searcher, query_QU, allowed)
            np.testing.assert_allclose(found.scores_BK, score_QK, atol=ROUNDING)


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_few_items_are_all_scored_and_many_are_left_to_the_index(world, rung):
    searcher, query_QU = world
    few, many = (next(filters(searcher, query_QU, share)) for share in (0.0005, 1))
    assert search_filtered(searcher, query_QU, k=K, rung=rung, allowed=few).num_scored == len(few) == 10
    found = search_filtered(searcher, query_QU, k=K, rung=rung, allowed=many)
    assert found.num_scored == 0
    assert (found.rows_BK == searcher.search(query_QU, k=K, rung=rung).rows_BK).all() or rung.nprobe == 1


def test_a_rung_that_reads_more_than_all_items_take_keeps_a_request_that_allows_most(world):
    searcher, query_QU = world
    rung, most = RungSpec(engine="exact", width=8, rerank=NUM_ITEMS), next(filters(searcher, query_QU, 0.51))
    found = search_filtered(searcher, query_QU, k=K, rung=rung, allowed=most)
    assert found.num_scored == 0
    assert (found.rows_BK == searcher.search(query_QU, k=K, rung=rung, allowed=most).rows_BK).all()


def test_a_filter_makes_an_inverted_file_begin_with_the_cells_that_hold_as_many_allowed_items(world):
    searcher, query_QU = world
    rung, tenth = RungSpec(engine="ivf", width=8, nprobe=3), next(filters(searcher, query_QU, 0.1))
    found = search_filtered(searcher, query_QU, k=K, rung=rung, allowed=tenth)
    alone = searcher.search(query_QU, k=K, rung=replace(rung, nprobe=30), allowed=tenth)
    assert (found.rows_BK == alone.rows_BK).all()


@pytest.mark.parametrize("rung", [RUNGS[5], RUNGS[8], RUNGS[11]], ids=lambda rung: rung.name)
def test_a_filter_hardly_changes_a_rungs_overlap(world, rung):
    searcher, _ = world
    query_QU = unit_queries(searcher.store_ND[:40].copy(), WIDTHS)
    overlaps = []
    for share in (1, 0.5, 0.1):
        allowed = next(filters(searcher, query_QU, share))
        found = search_filtered(searcher, query_QU, k=K, rung=rung, allowed=allowed).rows_BK
        exact = searcher.score_all(query_QU, k=K, allowed=allowed).rows_BK
        overlaps.append(np.mean([len(np.intersect1d(*pair)) / K for pair in zip(found, exact, strict=True)]))
    assert min(overlaps) > overlaps[0] - 0.05


def test_an_inverted_file_scans_more_cells_where_one_holds_too_little(world):
    searcher, query_QU = world
    rung, everything = RungSpec(engine="ivf", width=8, nprobe=1), next(filters(searcher, query_QU, 1))
    assert (searcher.search(query_QU, k=2000, rung=rung).rows_BK == NOTHING).any()
    found = search_filtered(searcher, query_QU, k=2000, rung=rung, allowed=everything)
    assert (found.rows_BK != NOTHING).all()
    assert found.num_scored == 0
