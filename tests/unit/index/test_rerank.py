from itertools import product

import numpy as np
import pytest

from recsys.index.exact import NOTHING
from recsys.index.rerank import Rescorer
from recsys.index.store import make_store, prefix_norms
from recsys.widths import WidthLadder, query_at, truncate, unit_queries

WIDTHS = (4, 12, 40)


@pytest.fixture(scope="module", params=product(("prefix", "full"), ("tied", "per_width")), ids="-".join)
def world(request):
    widths = WidthLadder(WIDTHS, norm=request.param[0], head=request.param[1])
    random = np.random.default_rng(1)
    items = np.ascontiguousarray(truncate(random.normal(size=(300, 40)).astype(np.float32), 40, widths))
    queries = unit_queries(random.normal(size=(6, widths.query_size)).astype(np.float32), widths)
    rows = np.stack([random.permutation(300)[:50] for _ in range(6)])
    return widths, items, queries, rows


def rescorer(widths, items, code):
    return Rescorer(make_store(items, code, norm_of=prefix_norms(items, widths)), widths=widths)


def scores_at(widths, items, queries, rows, width):
    """Scores in float64."""
    query, item = (
        part.astype(np.float64) for part in (query_at(queries, width, widths), truncate(items, width, widths))
    )
    return np.take_along_axis(query @ item.T, rows, axis=1)


@pytest.mark.parametrize("num", [1, 3, 10, 100])
@pytest.mark.parametrize("num_candidates", [100, 801, 4096, 4097, 9000])
def test_of_however_many_the_best_are_kept_in_order(num, num_candidates):
    """Of items that are one of five vectors, so that most scores tie, also across what is scored at a time."""
    widths, random = WidthLadder((4, 8)), np.random.default_rng(num_candidates)
    kinds = np.ascontiguousarray(truncate(random.normal(size=(5, 8)).astype(np.float32), 8, widths))
    kind = random.choice(5, size=9000, p=[0.0004, 0.0096, 0.09, 0.4, 0.5])
    queries = unit_queries(random.normal(size=(2, 8)).astype(np.float32), widths)
    rows = np.stack([random.permutation(9000)[:num_candidates] for _ in queries])
    rows[:, 7] = NOTHING
    found, scores = rescorer(widths, kinds[kind], "float32").best(
        queries, rows, np.zeros(rows.shape, dtype=np.float32), known=0, width=8, num=num
    )
    for query, candidates, answer, score in zip(queries, rows, found, scores, strict=True):
        of_kind = kinds.astype(np.float64) @ query
        there = candidates[candidates != NOTHING]
        expected = there[np.lexsort((there, -of_kind[kind[there]]))][:num]
        answer_there = answer[answer != NOTHING]
        assert answer_there.tolist() == expected.tolist()
        np.testing.assert_allclose(score[: len(expected)], of_kind[kind[expected]], atol=1e-6)


@pytest.mark.parametrize(("code", "tolerance"), [("float32", 1e-6), ("fp16", 1e-3), ("sq8", 2e-2)])
@pytest.mark.parametrize(("known", "width"), [(0, 4), (0, 12), (0, 40), (4, 12), (4, 40), (12, 40), (40, 40)])
def test_scores_are_those_of_the_width_however_much_is_known(world, code, tolerance, known, width):
    widths, items, queries, rows = world
    before = scores_at(widths, items, queries, rows, known) if known else np.full(rows.shape, np.nan)
    found, scores = rescorer(widths, items, code).best(
        queries, rows, before.astype(np.float32), known=known, width=width, num=50
    )
    assert (np.sort(found, axis=1) == np.sort(rows, axis=1)).all()
    np.testing.assert_allclose(scores, scores_at(widths, items, queries, found, width), atol=tolerance)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_the_best_are_kept(world):
    widths, items, queries, rows = world
    unknown, whole = np.zeros(rows.shape, dtype=np.float32), rescorer(widths, items, "float32")
    every, _ = whole.best(queries, rows, unknown, known=0, width=40, num=50)
    for num in (1, 2, 7, 49):
        some, _ = whole.best(queries, rows, unknown, known=0, width=40, num=num)
        assert (some == every[:, :num]).all()


def test_equal_candidates_come_in_order_of_rows_and_places_without_one_last():
    widths = WidthLadder((4, 8))
    items = np.tile(np.eye(8, dtype=np.float32)[:1] * 0.6 + np.eye(8, dtype=np.float32)[5:6] * 0.8, (9, 1))
    rows = np.array([[8, NOTHING, 3, 5, NOTHING, 0]])
    found, scores = rescorer(widths, items, "float32").best(
        items[:1], rows, np.zeros((1, 6), np.float32), known=0, width=8, num=6
    )
    assert found.tolist() == [[0, 3, 5, 8, NOTHING, NOTHING]]
    np.testing.assert_allclose(scores[0], [1, 1, 1, 1, -np.inf, -np.inf])


def test_a_column_of_zeros_can_be_kept_in_bytes():
    items = np.eye(4, dtype=np.float32)[:2]
    store = make_store(items, "sq8", norm_of={})
    np.testing.assert_allclose(store.code_ND * store.scale_D, items, atol=1e-6)
