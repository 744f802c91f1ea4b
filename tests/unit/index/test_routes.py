"""Which cells queries are sent to, where that is learned from queries."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recsys.errors import ArtifactError, WidthError
from recsys.index.build import build_searcher
from recsys.index.cells import file_names
from recsys.index.files import load_searcher, write_indexes
from recsys.index.routes import MAX_LEARNED_FROM, MIN_LEARNED_FROM, Lessons
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
    by_centres, by_routes = (build(items, learn_from, spec) for learn_from in (None, users(1000, seed=2)))
    assert (by_centres.learned_routes, by_routes.learned_routes) == (False, True)
    rung = RungSpec(engine="ivf", width=16, cells=64, code=code, routing=routing, nprobe=8, rerank=400)
    queries = users(500, seed=3)
    missed_by_routes, missed_by_centres = (1 - share_found(one, queries, rung) for one in (by_routes, by_centres))
    assert missed_by_routes < 0.9 * missed_by_centres


def test_all_cells_hold_what_they_held(items):
    rung = RungSpec(engine="ivf", width=16, cells=64, nprobe=64)
    queries = users(50, seed=3)
    one, other = (
        build(items, learn_from).search(queries, k=20, rung=rung) for learn_from in (None, users(300, seed=2))
    )
    assert (one.rows_BK == other.rows_BK).all()


def test_too_few_queries_are_not_learned_from_and_too_many_are_not_looked_at(items):
    assert not build(items, users(MIN_LEARNED_FROM - 1, seed=2)).learned_routes
    assert not build(items, users(0, seed=2)).learned_routes
    assert build(items, users(MIN_LEARNED_FROM, seed=2)).learned_routes
    lessons = Lessons.find(items, users(MAX_LEARNED_FROM + 5, seed=2), widths=WIDTHS)
    assert len(lessons.query_QU) == len(lessons.rows_QK) == MAX_LEARNED_FROM
    assert (lessons.rows_QK[:, 0] == (lessons.query_QU @ items.T).argmax(axis=1)).all()


def test_a_small_catalogue_has_fewer_best_items():
    few = users(30, seed=1)
    assert Lessons.find(few, users(300, seed=2), widths=WIDTHS).rows_QK.shape == (300, 30)


def test_queries_that_no_search_would_take_are_refused(items):
    with pytest.raises(WidthError, match="query: row 7: got L2 norm"):
        build(items, users(300, seed=2) * np.where(np.arange(300) == 7, 2, 1)[:, None].astype(np.float32))


def test_the_same_queries_and_seed_make_the_same_routes(items):
    one, other, third = (build(items, users(300, seed=2), seed=seed).cells[16, 64].routes for seed in (1, 1, 2))
    assert (one == other).all()
    assert (one != third).any()


def test_files_hold_routes_beside_the_centres(items, tmp_path):
    built = build(items, users(300, seed=2))
    write_indexes(built, tmp_path)
    queries, rung = users(20, seed=3), RungSpec(engine="ivf", width=16, cells=64, nprobe=4)
    loaded = load_searcher(tmp_path, items, widths=WIDTHS)
    assert loaded.learned_routes
    one, other = (searcher.search(queries, k=10, rung=rung) for searcher in (built, loaded))
    assert (one.rows_BK == other.rows_BK).all()
    assert built.size_bytes(rung) == loaded.size_bytes(rung) > build(items, None).size_bytes(rung)


def test_routes_that_are_missing_or_of_other_cells_are_refused(items, tmp_path):
    folder, other = tmp_path / "index", tmp_path / "other"
    for path, spec in ((folder, SPEC), (other, IndexSpec(engine="ivf", width=8, cells=32))):
        path.mkdir()
        write_indexes(build(items, users(300, seed=2), spec), path)
    routes = folder / file_names((16, 64), learned=True)[1]
    routes.write_bytes((other / file_names((8, 32), learned=True)[1]).read_bytes())
    with pytest.raises(ArtifactError, match=routes.name):
        load_searcher(folder, items, widths=WIDTHS)
    routes.unlink()
    with pytest.raises(ArtifactError, match=routes.name):
        load_searcher(folder, items, widths=WIDTHS)


def test_a_list_that_does_not_say_has_cells_of_centres(items, tmp_path):
    write_indexes(build(items, None), tmp_path)
    path = tmp_path / "indexes.json"
    content = json.loads(path.read_text())
    assert content.pop("learned_routes") is False
    path.write_text(json.dumps(content))
    assert not load_searcher(tmp_path, items, widths=WIDTHS).learned_routes
