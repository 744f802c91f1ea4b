from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

from recsys.errors import RequestError, WidthError
from recsys.index.build import build_searcher, default_indexes
from recsys.index.cells import MIN_ITEMS_FOR_IVF, num_cells
from recsys.index.exact import NOTHING
from recsys.index.item_set import ItemSet
from recsys.index.searcher import use_one_thread
from recsys.index.specs import RungSpec
from recsys.widths import WidthLadder, truncate

WIDTHS = WidthLadder([4, 8, 16])
FULL = RungSpec(engine="exact", width=16)
RUNGS = [
    FULL,
    RungSpec(engine="exact", width=4),
    RungSpec(engine="exact", width=8, rerank=50),
    RungSpec(engine="ivf", width=8, nprobe=16),
    RungSpec(engine="ivf", width=4, nprobe=4, rerank=50),
    RungSpec(engine="ivf", width=16, nprobe=4),
    RungSpec(engine="exact", width=16, levels=4),
    RungSpec(engine="ivf", width=16, routing=4, levels=2, nprobe=4),
    RungSpec(engine="ivf", width=8, routing=4, code="rabitq", nprobe=8, funnel=((8, 90),), rerank=50, store="fp16"),
    RungSpec(engine="ivf", width=8, routing=16, code="pq2", nprobe=8, rerank=50, store="sq8"),
    RungSpec(engine="ivf", width=8, routing=4, code="sq8", nprobe=8),
    RungSpec(engine="hnsw", width=8, ef=40, rerank=50),
    RungSpec(engine="certified", width=16, routing=4),
]


def unit(num, width, seed):
    vector = np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def searcher():
    indexes = [*default_indexes(WIDTHS, MIN_ITEMS_FOR_IVF), *(rung.index for rung in RUNGS)]
    store = unit(MIN_ITEMS_FOR_IVF, 16, seed=1)
    return build_searcher(store, widths=WIDTHS, seed=1, indexes=list(dict.fromkeys(indexes)), stores=("fp16", "sq8"))


@pytest.fixture(scope="module")
def queries():
    return unit(5, 16, seed=2)


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_answers_are_distinct_rows_best_first(searcher, queries, rung):
    found = searcher.search(queries, k=20, rung=rung)
    assert found.rows_BK.shape == found.scores_BK.shape == (5, 20)
    assert found.rows_BK.dtype == np.int64
    assert found.scores_BK.dtype == np.float32
    assert (np.diff(found.scores_BK, axis=1) <= 0).all()
    assert all(len(set(rows)) == 20 for rows in found.rows_BK.tolist())
    assert found.scan_ms > 0
    assert found.rerank_ms >= 0


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_excluded_rows_never_come_back(searcher, queries, rung):
    before = searcher.search(queries, k=20, rung=rung).rows_BK
    exclude = np.unique(before)
    after = searcher.search(queries, k=20, rung=rung, allowed=ItemSet.all_but(exclude, searcher.num_items)).rows_BK
    assert not np.isin(after, exclude).any()
    if rung.engine == "exact":
        assert (after != NOTHING).all()


def test_a_set_of_everything_filters_nothing(searcher, queries):
    free = searcher.search(queries, k=20, rung=FULL)
    everything = ItemSet.all_but(np.array([-1, 10**9]), searcher.num_items)
    assert (free.rows_BK == searcher.search(queries, k=20, rung=FULL, allowed=everything).rows_BK).all()


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_places_without_an_item_are_padded(searcher, queries, rung):
    exclude = np.arange(3, searcher.num_items)
    found = searcher.search(queries, k=10, rung=rung, allowed=ItemSet.all_but(exclude, searcher.num_items))
    assert set(found.rows_BK.ravel().tolist()) <= {0, 1, 2, NOTHING}
    assert ((found.rows_BK == NOTHING) == np.isneginf(found.scores_BK)).all()
    if rung.engine == "exact":
        assert ((found.rows_BK != NOTHING).sum(axis=1) == 3).all()


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_k_may_exceed_the_catalogue(searcher, queries, rung):
    found = searcher.search(queries, k=searcher.num_items + 7, rung=rung)
    assert found.rows_BK.shape == (5, searcher.num_items + 7)
    assert (found.rows_BK[:, -7:] == NOTHING).all()


def test_only_a_certified_search_says_what_it_read(searcher, queries):
    for rung in RUNGS:
        share = searcher.search(queries, k=5, rung=rung).touched_share
        assert (share is not None) == (rung.engine == "certified")
        assert share is None or 0 < share < 1.5  # vectors without structure: nothing is ruled out early


def test_a_funnel_ends_below_the_full_width(searcher, queries):
    for funnel, error, message in (
        (((5, 50),), WidthError, "got 5, expected a trained width"),
        (((16, 50),), RequestError, "rung: got exact4-f16x50, expected a funnel below the full width"),
    ):
        with pytest.raises(error, match=message):
            searcher.search(queries, k=1, rung=RungSpec(engine="exact", width=4, funnel=funnel))


def test_a_store_that_there_is_not_is_refused(queries):
    bare = build_searcher(unit(30, 16, seed=1), widths=WIDTHS, seed=1)
    rung = RungSpec(engine="exact", width=4, rerank=9, store="fp16")
    assert not bare.supports(rung)
    with pytest.raises(RequestError, match="stores \\['float32'\\]"):
        bare.search(queries, k=1, rung=rung)


def test_a_rung_that_reranks_answers_with_full_width_cosines(searcher, queries):
    found = searcher.search(queries, k=10, rung=RungSpec(engine="ivf", width=4, nprobe=2, rerank=30))
    expected = np.einsum("bkd,bd->bk", searcher.store_ND[found.rows_BK], queries)
    np.testing.assert_allclose(found.scores_BK, expected, atol=1e-6)


def test_rerank_scans_as_many_candidates_as_it_says(searcher, queries):
    shallow = searcher.search(queries, k=30, rung=RungSpec(engine="exact", width=4)).rows_BK
    for depth in (5, 30):  # a depth below k scans k
        found = searcher.search(queries, k=30, rung=RungSpec(engine="exact", width=4, rerank=depth)).rows_BK
        assert [set(rows) for rows in found.tolist()] == [set(rows) for rows in shallow.tolist()]


def test_equal_candidates_are_reranked_by_row():
    store = np.tile(unit(1, 16, seed=3), (30, 1))
    searcher = build_searcher(store, widths=WIDTHS, seed=1)
    found = searcher.search(store[:1], k=30, rung=RungSpec(engine="exact", width=4, rerank=30))
    assert found.rows_BK[0].tolist() == list(range(30))


def test_a_prefix_too_small_for_float32_squares_is_still_cut_to_unit_length(searcher):
    query = np.zeros((1, 16), dtype=np.float32)
    query[0, 0], query[0, 15] = 1e-25, 1.0
    found = searcher.search(query, k=1, rung=RungSpec(engine="exact", width=4))
    # The query's direction at width 4 is the first axis.
    assert found.scores_BK[0, 0] == pytest.approx(truncate(searcher.store_ND, 4, WIDTHS)[:, 0].max(), abs=1e-6)


def test_concurrent_searches_agree_with_single_ones(searcher):
    queries = unit(64, 16, seed=4)
    allowed = [ItemSet.all_but(np.arange(start, start + 200), searcher.num_items) for start in range(64)]
    jobs = [(place, rung) for place in range(64) for rung in RUNGS]

    def answer(job):
        place, rung = job
        return searcher.search(queries[place : place + 1], k=10, rung=rung, allowed=allowed[place]).rows_BK

    alone = [answer(job) for job in jobs]
    with ThreadPoolExecutor(4, initializer=use_one_thread) as pool:
        together = list(pool.map(answer, jobs))
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))


def test_an_empty_batch_gets_an_empty_answer(searcher, queries):
    for rung in RUNGS:
        assert searcher.search(queries[:0], k=3, rung=rung).rows_BK.shape == (0, 3)


def test_queries_that_cannot_be_right_are_refused(searcher, queries):
    nan, long = queries.copy(), queries * 2
    nan[3, 7] = np.nan
    for bad, message in (
        (nan, "row 3"),
        (long, "norm 2"),
        (queries[:, :8], "expected \\(batch, 16\\)"),
        (queries[0], "expected \\(batch, 16\\)"),
        (queries.astype(np.float64), "float64"),
    ):
        with pytest.raises(WidthError, match=message):
            searcher.search(bad, k=3, rung=FULL)


def test_every_vector_of_a_query_must_be_right(searcher, queries):
    own = build_searcher(searcher.store_ND, widths=WidthLadder(WIDTHS.widths, head="per_width"), seed=1)
    query = np.concatenate([unit(5, 4, seed=3), unit(5, 8, seed=4), queries], axis=1)
    narrow, full = (RungSpec(engine="exact", width=width) for width in (8, 16))
    assert (own.search(query, k=3, rung=full).rows_BK == searcher.search(queries, k=3, rung=full).rows_BK).all()
    assert (own.search(query, k=3, rung=narrow).rows_BK != searcher.search(queries, k=3, rung=narrow).rows_BK).any()
    query[2, 5] += 1
    with pytest.raises(WidthError, match="query: row 2: got L2 norm"):
        own.search(query, k=3, rung=full)
    with pytest.raises(WidthError, match="expected \\(batch, 28\\)"):
        own.search(queries, k=3, rung=full)


def test_a_query_with_an_empty_prefix_is_refused(searcher):
    query = np.eye(16, dtype=np.float32)[15:]
    assert searcher.search(query, k=1, rung=FULL).rows_BK[0, 0] >= 0
    with pytest.raises(WidthError, match="4 zeros"):
        searcher.search(query, k=1, rung=RungSpec(engine="exact", width=4))
    whole = build_searcher(searcher.store_ND, widths=WidthLadder(WIDTHS.widths, norm="full"), seed=1)
    assert whole.search(query, k=1, rung=RungSpec(engine="exact", width=4)).scores_BK[0, 0] == 0


def test_settings_that_cannot_be_right_are_refused(searcher, queries):
    with pytest.raises(RequestError, match="k: got 0"):
        searcher.search(queries, k=0, rung=FULL)
    with pytest.raises(WidthError, match="got 5, expected a trained width"):
        searcher.search(queries, k=1, rung=RungSpec(engine="exact", width=5))
    other = ItemSet.of(np.arange(3), 7)
    for search in (
        lambda: searcher.search(queries, k=1, rung=FULL, allowed=other),
        lambda: searcher.score_all(queries, k=1, allowed=other),
    ):
        with pytest.raises(RequestError, match=f"allowed: got a set of 7 items, expected one of {searcher.num_items}"):
            search()


def test_a_small_catalogue_has_no_ivf(queries):
    searcher = build_searcher(unit(MIN_ITEMS_FOR_IVF - 1, 16, seed=1), widths=WIDTHS, seed=1)
    rung = RungSpec(engine="ivf", width=8, nprobe=1)
    assert not searcher.supports(rung)
    with pytest.raises(RequestError, match="rung: got ivf8-p1, expected one of indexes"):
        searcher.search(queries, k=1, rung=rung)


def test_one_item_is_a_catalogue():
    searcher = build_searcher(unit(1, 16, seed=1), widths=WIDTHS, seed=1)
    assert searcher.search(unit(1, 16, seed=2), k=2, rung=FULL).rows_BK.tolist() == [[0, NOTHING]]


def test_bytes_count_the_index_and_the_shared_store(searcher):
    num = searcher.num_items
    cells = num_cells(num)
    assert searcher.size_bytes(FULL) == num * 16 * 4
    assert searcher.size_bytes(RungSpec(engine="exact", width=4)) == num * 4 * 4
    assert searcher.size_bytes(RungSpec(engine="exact", width=4, rerank=9)) == num * (4 + 16 + 1) * 4  # and a norm
    assert (
        searcher.size_bytes(RungSpec(engine="ivf", width=4, nprobe=1))
        == num * (4 * 4 + 8) + cells * 4 * (4 + 4 + 1) + 4 * 4
    )


def test_use_one_thread_holds_for_the_calling_thread():
    with ThreadPoolExecutor(1, initializer=use_one_thread) as pool:
        assert pool.submit(faiss.omp_get_max_threads).result() == 1
