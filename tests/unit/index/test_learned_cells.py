"""Which cells hold what, and which of them queries are sent to, where that is learned from queries."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest

from recsys.errors import WidthError
from recsys.index import learned_cells
from recsys.index.build import build_searcher
from recsys.index.engines import ivf
from recsys.index.files import load_searcher, write_indexes
from recsys.index.item_set import ItemSet
from recsys.index.learned_cells import BEST, MAX_LEARNED_FROM, MIN_LEARNED_FROM, Lessons, learn_cells, num_learned_from
from recsys.index.specs import Code, IndexSpec, RungSpec
from recsys.widths import WidthLadder

WIDTHS = WidthLadder([8, 16])
SPEC = IndexSpec(engine="ivf", width=16, cells=64)
NUM_ITEMS = 4000


def unit(vector_ND):
    return (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def items():
    random = np.random.default_rng(1)
    centres = random.normal(size=(80, 16))
    return unit(centres[random.integers(len(centres), size=NUM_ITEMS)] + 0.6 * random.normal(size=(NUM_ITEMS, 16)))


def users(num, *, seed):
    """Users are not where items are: they all lean one way, and some dimensions of items say nothing to them."""
    random = np.random.default_rng(seed)
    return unit(random.normal(size=(num, 16)) * np.geomspace(3, 0.1, 16) + np.eye(16)[3])


LEARNED_FROM = users(2000, seed=2)


def build(items, learn_from, *specs, seed=1):
    return build_searcher(items, widths=WIDTHS, seed=seed, indexes=specs or [SPEC], learn_from=learn_from)


def share_found(searcher, queries, rung):
    best = np.argsort(-(queries @ searcher.store_ND.T), axis=1)[:, :50]
    found = searcher.search(queries, k=50, rung=rung).rows_BK
    return np.mean([len(set(one) & set(other)) / 50 for one, other in zip(best.tolist(), found.tolist(), strict=True)])


@pytest.mark.parametrize("code", ["float32", "sq8", "pq2", "rabitq"])
@pytest.mark.parametrize("routing", [0, 8])
def test_other_users_find_more_in_as_many_cells(items, code: Code, routing):
    spec = IndexSpec(engine="ivf", width=16, cells=64, code=code, routing=routing)
    rung = RungSpec(engine="ivf", width=16, cells=64, code=code, routing=routing, nprobe=8, rerank=400)
    missed = [1 - share_found(build(items, asked, spec), users(500, seed=3), rung) for asked in (None, LEARNED_FROM)]
    assert missed[1] < 0.75 * missed[0]


def test_all_cells_hold_all_items(items):
    rung = RungSpec(engine="ivf", width=16, cells=64, nprobe=64)
    searchers = [build(items, asked) for asked in (None, LEARNED_FROM)]
    one, other = (searcher.search(users(50, seed=3), k=20, rung=rung) for searcher in searchers)
    assert (one.rows_BK == other.rows_BK).all()


def test_too_few_queries_are_not_learned_from(items):
    rung, asked = RungSpec(engine="ivf", width=16, cells=64, nprobe=8), users(MIN_LEARNED_FROM, seed=2)
    not_learned, few, enough = (
        share_found(build(items, queries), users(500, seed=3), rung) for queries in (None, asked[1:], asked)
    )
    assert not_learned == few < enough
    assert share_found(build(items, asked[:0]), users(500, seed=3), rung) == not_learned


@pytest.mark.parametrize(
    ("queries", "num_items", "looked_at"),
    [
        (MIN_LEARNED_FROM - 1, 1000, 0),
        (MIN_LEARNED_FROM, 1000, MIN_LEARNED_FROM),
        (10**6, 1000, MAX_LEARNED_FROM),
        (10**6, 10**6, 25769),
        (10**6, 10**7, 2576),
        (10**6, 10**8, 1024),
        (600, 10**8, 600),
    ],
)
def test_the_larger_the_catalogue_the_fewer_queries_are_looked_at(queries, num_items, looked_at):
    assert num_learned_from(queries, num_items=num_items) == looked_at


def test_lessons_are_exact_answers(items):
    lessons = Lessons.find(items, LEARNED_FROM, widths=WIDTHS)
    assert (lessons.query_QU == LEARNED_FROM).all()
    assert lessons.rows_QK.shape == (len(LEARNED_FROM), BEST)
    assert (lessons.rows_QK[:, 0] == (LEARNED_FROM @ items.T).argmax(axis=1)).all()


@pytest.mark.parametrize("head", ["tied", "per_width"])
def test_where_all_products_would_take_long_a_prefix_says_which_are_made(items, monkeypatch, head):
    widths = WidthLadder([4, 8, 16], head=head)
    queries = LEARNED_FROM[:600]
    if head == "per_width":  # as many parts, each of unit length
        queries = np.hstack([unit(queries[:, :4]), unit(queries[:, :8]), queries])
    exact = Lessons.find(items, queries, widths=widths)
    monkeypatch.setattr(learned_cells, "_MAX_EXACT_SCORES", 600 * len(items) - 1)
    found = Lessons.find(items, queries, widths=widths)
    assert found.rows_QK.shape == exact.rows_QK.shape
    scores = np.take_along_axis(LEARNED_FROM[:600] @ items.T, found.rows_QK, axis=1)
    assert (np.diff(scores, axis=1) <= 1e-6).all()
    shared = [np.isin(*both).mean() for both in zip(exact.rows_QK, found.rows_QK, strict=True)]
    assert 0.4 < np.mean(shared) < 1  # 200 of 4,000 items, drawn at random, would have .05


def test_a_small_catalogue_has_fewer_best_items():
    few = users(30, seed=1)
    assert Lessons.find(few, users(600, seed=2), widths=WIDTHS).rows_QK.shape == (600, 30)


def test_queries_that_no_search_would_take_are_refused(items):
    longer = np.where(np.arange(600) == 7, 2, 1)[:, None].astype(np.float32)
    with pytest.raises(WidthError, match="query: row 7: got L2 norm"):
        build(items, users(600, seed=2) * longer)


def test_items_move_to_where_those_who_ask_for_them_look_first():
    # Two far cells, and an item between them, nearer to the first, which only those ask for who look into the second.
    vectors = unit(np.array([[1, 0.1], [1, -0.1], [0.1, 1], [-0.1, 1], [0.8, 0.7]]))
    cells = np.array([0, 0, 1, 1, 0])
    first, second = unit(np.array([[1, 0.0]])), unit(np.array([[0, 1.0]]))
    queries = np.concatenate([np.repeat(first, 2000, axis=0), np.repeat(second, 2000, axis=0)])
    rows = np.concatenate([np.tile([0, 1], (2000, 1)), np.tile([2, 4], (2000, 1))])
    _, moved = learn_cells(queries, rows, vectors, cells, unit(np.eye(2)), seed=1)
    assert moved.cell_N.tolist() == [0, 0, 1, 1, 1]
    # Too few ask for it to make up for the distance.
    _, moved = learn_cells(queries[::400], rows[::400], vectors, cells, unit(np.eye(2)), seed=1)
    assert moved.cell_N.tolist() == cells.tolist()


@pytest.mark.parametrize("first_place_in", [0, 1])
def test_whoever_likes_an_item_best_counts_most_where_it_is_looked_for(first_place_in):
    # As near to one cell as to the other, and asked for by as many of either: in the first place here, last there.
    others = 20
    vectors = unit(np.concatenate([np.tile([1, 0.0], (others, 1)), np.tile([0, 1.0], (others, 1)), [[1, 1]]]))
    cells = np.repeat([0, 1, 1 - first_place_in], [others, others, 1])
    liked, ranked = [2 * others], [np.arange(others), np.arange(others, 2 * others)]
    ranked[first_place_in] = np.concatenate([liked, ranked[first_place_in]])
    ranked[1 - first_place_in] = np.concatenate([ranked[1 - first_place_in], liked])
    rows = np.repeat(np.array(ranked), 2000, axis=0)
    queries = np.repeat(unit(np.eye(2)), 2000, axis=0)
    _, moved = learn_cells(queries, rows, vectors, cells, unit(np.eye(2)), seed=1)
    assert moved.cell_N[-1] == first_place_in


def test_many_askers_are_read_in_pages(items, monkeypatch):
    lessons = Lessons.find(items, LEARNED_FROM[:600], widths=WIDTHS)
    cells = np.random.default_rng(1).integers(8, size=len(items))
    centres = learned_cells.cell_means(items, cells, num=8)
    given = lessons.query_QU, lessons.rows_QK, items, cells, centres
    whole = learn_cells(*given, seed=1)
    monkeypatch.setattr(learned_cells, "_PAGE", 50)
    paged = learn_cells(*given, seed=1)
    np.testing.assert_array_equal(whole[0], paged[0])
    for one, other in zip(astuple(whole[1]), astuple(paged[1]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_queries_and_seed_make_the_same_cells(items, tmp_path):
    content = []
    for place, (seed, asked) in enumerate([(1, LEARNED_FROM), (1, LEARNED_FROM), (2, LEARNED_FROM), (1, None)]):
        folder = tmp_path / str(place)
        folder.mkdir()
        write_indexes(build(items, asked, seed=seed), folder)
        content.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert content[0] == content[1]
    assert content[0] != content[2]
    assert content[0] != content[3]


def test_a_loaded_searcher_finds_the_same(items, tmp_path):
    built = build(items, LEARNED_FROM)
    write_indexes(built, tmp_path)
    loaded = load_searcher(tmp_path, items, widths=WIDTHS)
    rung = RungSpec(engine="ivf", width=16, cells=64, nprobe=4)
    one, other = (searcher.search(users(20, seed=3), k=10, rung=rung) for searcher in (built, loaded))
    assert (one.rows_BK == other.rows_BK).all()
    assert built.size_bytes(rung) == loaded.size_bytes(rung)


TWICE = [
    RungSpec(engine="ivf", width=16, cells=64, code="float32", nprobe=8),
    RungSpec(engine="ivf", width=16, cells=64, code="sq8", nprobe=8, rerank=60),
    RungSpec(engine="ivf", width=16, cells=64, code="pq2", nprobe=8),
    RungSpec(engine="ivf", width=16, cells=64, code="pq4", nprobe=8, rerank=120),
    RungSpec(engine="ivf", width=16, cells=64, code="rabitq", nprobe=8, rerank=120),
]


@pytest.fixture(scope="module")
def twice(items):
    """Indexes in which some items are in two cells."""
    indexes = list(dict.fromkeys(rung.index for rung in TWICE))
    return build_searcher(items, widths=WIDTHS, seed=1, indexes=indexes, learn_from=LEARNED_FROM)


def test_items_that_many_ask_for_are_in_a_second_cell(items):
    lessons = Lessons.find(items, LEARNED_FROM, widths=WIDTHS)
    cells = np.random.default_rng(1).integers(64, size=len(items))
    centres = learned_cells.cell_means(items, cells, num=64)
    _, found = learn_cells(lessons.query_QU, lessons.rows_QK, items, cells, centres, seed=1)
    often = np.flatnonzero(np.bincount(lessons.rows_QK.ravel(), minlength=len(items)) >= 0.03 * len(LEARNED_FROM))
    assert 0 < len(found.twice_T) <= len(often)
    assert np.isin(found.twice_T, often).all()


def test_so_other_users_find_more(items, monkeypatch):
    rung = RungSpec(engine="ivf", width=16, cells=64, nprobe=4)
    missed = []
    for often in (2.0, 0.03):  # nothing is among the best of everybody twice
        monkeypatch.setattr(learned_cells, "_OFTEN", often)
        missed.append(1 - share_found(build(items, LEARNED_FROM), users(500, seed=3), rung))
    assert missed[1] < 0.95 * missed[0]


@pytest.mark.parametrize("rung", TWICE, ids=lambda rung: rung.name)
@pytest.mark.parametrize("k", [1, 20, 50])
def test_an_item_in_two_cells_is_returned_once(twice, rung, k):
    index = twice.indexes[rung.index]
    assert index._num_twice > 0
    queries = users(50, seed=3)
    found = twice.search(queries, k=k, rung=rung)
    assert all(len(set(rows)) == k for rows in found.rows_BK.tolist())
    assert (found.rows_BK >= 0).all()
    assert (np.diff(found.scores_BK, axis=1) <= 0).all()
    hurried = index.search_until(queries, k, effort=rung, allowed=None, until_s=0.0)
    assert all(
        len(set(rows)) == len(rows) for rows in ([r for r in rows if r >= 0] for rows in hurried.rows_BC.tolist())
    )


@pytest.mark.parametrize("rung", TWICE, ids=lambda rung: rung.name)
def test_all_items_are_found_though_more_than_expected_are_found_twice(twice, rung, monkeypatch):
    monkeypatch.setattr(ivf, "_MANY_REPEATS", 10**9)
    everywhere = replace(rung, nprobe=64, rerank=0)
    k = NUM_ITEMS - 50  # of fast scan, some round to the lowest score of all
    found = twice.search(users(3, seed=3), k=k, rung=everywhere)
    assert all(len(set(rows)) == k for rows in found.rows_BK.tolist())


def test_second_cells_are_kept_in_files(items, twice, tmp_path):
    write_indexes(twice, tmp_path)
    loaded = load_searcher(tmp_path, items, widths=WIDTHS)
    for rung in TWICE:
        given = [one.search(users(20, seed=3), k=30, rung=rung) for one in (loaded, twice)]
        np.testing.assert_array_equal(given[0].rows_BK, given[1].rows_BK)


def test_a_filter_holds_for_both_cells_of_an_item(twice):
    allowed = ItemSet.of(np.arange(0, NUM_ITEMS, 2), NUM_ITEMS)
    for rung in TWICE:
        rows = twice.search(users(20, seed=3), k=10, rung=replace(rung, nprobe=64), allowed=allowed).rows_BK
        assert (rows % 2 == 0).all()
        assert all(len(set(one)) == 10 for one in rows.tolist())


def test_as_many_candidates_are_asked_for_as_it_takes():
    for num in range(1, 2000):
        assert ivf.fewest_candidates(ivf.enough_candidates(num)) >= num
        assert ivf.fewest_candidates(ivf.enough_candidates(num) - 1) < num


def test_k_come_of_few_candidates_though_some_are_found_twice(items, monkeypatch):
    monkeypatch.setattr(learned_cells, "_OFTEN", 0.2)  # three items here, so that a scan is not repeated
    monkeypatch.setattr(ivf, "_FEW_REPEATS", 10**9)  # nor looks for more because of them
    searcher = build(items, LEARNED_FROM, IndexSpec(engine="ivf", width=16, cells=64, code="sq8"))
    for depth in (1, 40, 50, 60):
        rung = RungSpec(engine="ivf", width=16, cells=64, code="sq8", nprobe=16, rerank=depth)
        found = searcher.search(users(200, seed=4), k=50, rung=rung).rows_BK
        assert all(len(set(rows)) == 50 and min(rows) >= 0 for rows in found.tolist())
