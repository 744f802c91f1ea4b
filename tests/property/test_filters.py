"""Any filter, any k, any engine: as many items as there are, all of them allowed, none twice."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.bundle import open_current
from recsys.index.build import build_searcher
from recsys.index.exact import NOTHING
from recsys.index.filtered import search_filtered
from recsys.index.item_set import ItemSet
from recsys.index.specs import RungSpec
from recsys.testing import small_bundle
from recsys.widths import WidthLadder, unit_queries
from serving.engine import Engine
from serving.query import Filter, Query, User

NUM_ITEMS = 700
WIDTHS = WidthLadder([4, 8])
RUNGS = [
    RungSpec(engine="exact", width=4, rerank=50),
    RungSpec(engine="exact", width=8, levels=2),
    RungSpec(engine="certified", width=8, routing=4),
    RungSpec(engine="ivf", width=4, nprobe=1),
    RungSpec(engine="ivf", width=8, routing=4, code="sq8", nprobe=2, rerank=100),
    RungSpec(engine="ivf", width=8, code="pq2", nprobe=1, rerank=20),
    RungSpec(engine="ivf", width=8, code="rabitq", nprobe=3),
    RungSpec(engine="hnsw", width=8, ef=20),
]
GENRES = ["comedy", "drama", "horror", "musical", "western", "no such genre"]


@cache
def searcher():
    item_ND = unit_queries(np.random.default_rng(1).normal(size=(NUM_ITEMS, 8)).astype(np.float32), WIDTHS)
    return build_searcher(item_ND, widths=WIDTHS, seed=1, indexes=list(dict.fromkeys(rung.index for rung in RUNGS)))


@given(
    rung=st.sampled_from(RUNGS),
    k=st.integers(1, NUM_ITEMS + 10),
    num_allowed=st.integers(0, NUM_ITEMS) | st.integers(0, 20),
    seed=st.integers(0, 99),
)
def test_every_engine_returns_as_many_allowed_items_as_there_are(rung, k, num_allowed, seed):
    random = np.random.default_rng(seed)
    allowed = ItemSet.of(random.choice(NUM_ITEMS, size=num_allowed, replace=False), NUM_ITEMS)
    query_1U = searcher().store_ND[random.integers(NUM_ITEMS)][None].copy()
    if rung.levels:
        k = min(k, NUM_ITEMS)
    found = search_filtered(searcher(), query_1U, k=k, rung=rung, allowed=allowed)
    rows = [row for row in found.rows_BK[0].tolist() if row != NOTHING]
    assert len(set(rows)) == len(rows) == min(k, num_allowed)
    assert set(rows) <= set(allowed.rows.tolist())


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    small_bundle(root, num_items=NUM_ITEMS)
    return Engine(open_current(root))


ids = st.lists(st.integers(-3, NUM_ITEMS + 3).map("i{}".format), max_size=40)
values = st.lists(st.sampled_from(GENRES), min_size=1, max_size=4)
by_feature = st.dictionaries(st.just("genre"), values, max_size=1)
filters = st.builds(Filter, include_ids=st.just([]) | ids, include=by_feature, exclude=by_feature)


@given(where=filters, exclude=ids, k=st.integers(1, NUM_ITEMS + 10), exclude_seen=st.booleans())
def test_an_answer_is_as_many_items_as_pass_the_filter(engine, where, exclude, k, exclude_seen):
    bundle = engine.bundle
    query = Query(user=User(id="u3"), k=k, where=where, exclude=exclude, exclude_seen=exclude_seen)
    seen = bundle.items.ids(bundle.users.seen(bundle.users.vocabulary.row("u3"))) if exclude_seen else []
    passing = {
        id_
        for id_, (genre,) in bundle.item_frame.select("id", "genre").iter_rows()
        if (not where.include_ids or id_ in where.include_ids)
        and genre in where.include.get("genre", GENRES)
        and genre not in where.exclude.get("genre", [])
    } - {*exclude, *seen}
    answer = engine.recommend(query)
    found = answer.candidates[0].item_ids
    assert len(set(found)) == len(found) == min(k, len(passing))
    assert set(found) <= passing
    named = [*where.include.get("genre", []), *where.exclude.get("genre", [])]
    assert answer.num_unknown_filter_values == named.count("no such genre")
