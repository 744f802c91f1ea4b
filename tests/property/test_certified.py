"""Certified search never leaves out what belongs to the best, whatever the vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.index.build import build_searcher
from recsys.index.engines.certified import CertifiedIndex
from recsys.index.exact import NOTHING, exact_top_k
from recsys.index.item_set import ItemSet
from recsys.index.specs import IndexSpec, RungSpec
from recsys.ragged import Ragged
from recsys.testing import vectors, width_ladders
from recsys.widths import WidthLadder, truncate

ROUNDING = 3e-6


@st.composite
def catalogues(draw):
    """Items with duplicates, neighbours one rounding away, and tails of nearly or really zeros; queries of any kind."""
    widths = draw(width_ladders(max_width=40, heads=("tied",)))
    pool = draw(vectors(widths, rows=draw(st.integers(1, 12))))
    items = pool[draw(st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=40))]
    items = np.where(draw(st.booleans()), np.nextafter(items, np.float32(draw(st.sampled_from([-9, 9])))), items)
    if draw(st.booleans()):
        items[draw(st.integers(0, len(items) - 1)) :, widths.widths[0] :] *= draw(st.sampled_from([0, 1e-12]))
    items[~items[:, : widths.widths[0]].any(axis=1), 0] = 1
    queries = draw(vectors(widths, rows=2)) if draw(st.booleans()) else items[:2] * draw(st.sampled_from([1, -1]))
    return widths, *(np.ascontiguousarray(truncate(rows, widths.full, widths)) for rows in (items, queries))


@given(catalogues(), st.integers(1, 12), st.data())
def test_the_answer_is_that_of_reading_everything(catalogue, k, data):
    widths, items, queries = catalogue
    rung = RungSpec(engine="certified", width=widths.full, routing=data.draw(st.sampled_from(widths.widths)))
    excluded = np.unique(data.draw(st.lists(st.integers(0, len(items) - 1), max_size=5))).astype(np.int64)
    built = CertifiedIndex.build(rung.index, items, widths=widths)
    # With errors without end nothing is ever ruled out.
    endless = built._tensors | {"errors": np.full_like(built._tensors["errors"], 1e30)}
    whole = CertifiedIndex(rung.index, store_ND=items, tensors=endless, widths=widths)
    allowed = ItemSet.all_but(excluded, len(items))
    one, other = (index.search(queries, k, effort=rung, allowed=allowed) for index in (built, whole))
    assert (one.rows_BC == other.rows_BC).all()
    assert (one.scores_BC == other.scores_BC).all()
    score_Qk, row_Qk = exact_top_k(queries, items, k=k, masked=Ragged.from_lists([excluded] * len(queries)))
    np.testing.assert_allclose(one.scores_BC, score_Qk, atol=ROUNDING)
    assert ((one.rows_BC == NOTHING) == (row_Qk == NOTHING)).all()


@given(catalogues(), st.data())
def test_no_bound_is_below_the_score(catalogue, data):
    widths, items, queries = catalogue
    rung = RungSpec(engine="certified", width=widths.full, routing=data.draw(st.sampled_from(widths.widths)))
    index = CertifiedIndex.build(rung.index, items, widths=widths)
    weight_Bw, unit_B, reach_BL, slack_BL = index._rounded_queries(queries)
    tensors, edges = index._tensors, index._edges
    score_BN = queries.astype(np.float64) @ items.T.astype(np.float64)
    known_BN, start = np.zeros_like(score_BN), 0
    for level, edge in enumerate(edges):
        block_Nw = tensors["codes"][len(items) * start : len(items) * edge].reshape(len(items), edge - start)
        known_BN += unit_B[:, None] * (weight_Bw[:, start:edge].astype(np.int64) @ block_Nw.T.astype(np.int64))
        bound_BN = known_BN + reach_BL[:, level, None] * tensors["tails"][level] + slack_BL[:, level, None]
        assert (bound_BN >= score_BN).all()
        # Nor is it idle: what it allows for rounding is little.
        assert (slack_BL[:, level] < 0.05).all()
        start = edge


@given(catalogues(), st.data())
def test_equal_items_come_in_order_of_rows(catalogue, data):
    widths, items, queries = catalogue
    items = np.repeat(items[:1], len(items), axis=0)
    rung = RungSpec(engine="certified", width=widths.full, routing=data.draw(st.sampled_from(widths.widths)))
    index = CertifiedIndex.build(rung.index, items, widths=widths)
    found = index.search(queries, len(items), effort=rung, allowed=None)
    assert (found.rows_BC == np.arange(len(items))).all()


def test_many_items_are_searched_exactly_and_read_in_part():
    widths = (8, 16, 32)
    random = np.random.default_rng(1)
    themes = random.normal(size=(64, 32)) * 0.8 ** np.arange(32)
    items = (themes[random.integers(64, size=5000)] + 0.1 * random.normal(size=(5000, 32))).astype(np.float32)
    items[2500:] = items[:2500]  # every item twice
    for norm in ("prefix", "full"):
        ladder = WidthLadder(widths, norm=norm)
        unit_ND = np.ascontiguousarray(truncate(items, 32, ladder))
        rungs = [RungSpec(engine="certified", width=32, routing=width) for width in (0, *widths)]
        searcher = build_searcher(unit_ND, widths=ladder, seed=1, indexes=[rung.index for rung in rungs[:-1]])
        queries = unit_ND[:20]
        score_Qk, row_Qk = exact_top_k(queries, unit_ND, k=50)
        for rung in rungs[:-1]:
            found = searcher.search(queries, k=50, rung=rung)
            np.testing.assert_allclose(found.scores_BK, score_Qk, atol=ROUNDING)
            assert (found.rows_BK == row_Qk).mean() > 0.95  # but for ties that another order of summing breaks
            assert found.touched_share is not None
            assert rung.routing_width / 128 < found.touched_share < 0.5


def test_another_width_than_the_full_one_is_refused():
    items = np.eye(16, dtype=np.float32)
    with pytest.raises(ConfigError, match="certified8: width: got 8, expected the full width 16"):
        CertifiedIndex.build(IndexSpec(engine="certified", width=8), items, widths=WidthLadder((8, 16)))
