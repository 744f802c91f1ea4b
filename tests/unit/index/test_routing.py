"""Which cells a query is sent to, and what it brings along."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from recsys.errors import WidthError
from recsys.index.cells import Cells
from recsys.index.product_codes import order
from recsys.index.routing import Router
from recsys.widths import WidthLadder, query_at, unit_queries


def unit(num, width, *, seed):
    vectors = np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cells_of(centre_Cr):
    index = faiss.IndexFlatIP(centre_Cr.shape[1])
    index.add(centre_Cr)
    return Cells(index)


def nearest(cells, queries, num):
    """Cells of queries of the routing width alone, and products with their routes."""
    width = queries.shape[1]
    return Router(cells, width=width, widths=WidthLadder((width,))).route(queries, num)[1:]


@pytest.mark.parametrize("width", [1, 7, 32, 100])
def test_the_nearest_cells_are_those_of_the_centres_but_for_what_bytes_cannot_tell(width):
    centres, queries = unit(300, width, seed=1), unit(20, width, seed=2)
    # Columns of very different sizes, as where the energy is in the first of them: each has its own scale.
    centres *= np.geomspace(1, 1e-3, width, dtype=np.float32)
    scores = queries.astype(np.float64) @ centres.T
    cells = cells_of(centres)
    found, products = nearest(cells, queries, 10)
    tenth = np.sort(scores, axis=1)[:, -10]
    step = np.abs(centres).max(axis=0) / 127
    worst = np.abs(queries) @ step + np.abs(queries * step).max(axis=1) * width * 127 / 2**13
    assert (np.take_along_axis(scores, found, axis=1) >= (tenth - worst)[:, None]).all()
    assert all(len(set(row)) == 10 for row in found.tolist())
    np.testing.assert_allclose(products, np.take_along_axis(queries @ cells.routes.T, found, axis=1), atol=worst.max())


def test_all_cells_are_found_best_first_however_many_are_asked_for():
    centres, queries = unit(50, 16, seed=1), unit(3, 16, seed=2)
    found, _ = nearest(cells_of(centres), queries, 1000)
    assert (np.sort(found, axis=1) == np.arange(50)).all()
    scores = np.take_along_axis(queries @ centres.T, found, axis=1)
    assert (np.diff(scores, axis=1) <= 0.01).all()


def test_centres_of_zeros_are_equally_near():
    found, products = nearest(cells_of(np.zeros((4, 8), dtype=np.float32)), unit(1, 8, seed=1), 3)
    assert found.tolist() == [[0, 1, 2]]
    assert products.tolist() == [[0, 0, 0]]


def test_products_of_very_wide_vectors_stay_within_their_bits():
    # All columns alike: every byte and every weight is the largest, and all of them add up.
    width = 20_000
    centres = np.full((3, width), width**-0.5, dtype=np.float32) * np.array([[0.5], [1], [-1]], dtype=np.float32)
    found, products = nearest(cells_of(centres), centres[1:2], 3)
    assert found.tolist() == [[1, 0, 2]]
    np.testing.assert_allclose(products, [[1, 0.5, -1]], atol=0.01)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 31, 32, 33, 40, 63, 64, 100, 128, 136])
def test_bytes_are_multiplied_exactly_at_any_width(width):
    random = np.random.default_rng(width)
    code_Cr = random.integers(-127, 128, size=(50, width)).astype(np.int8)
    code_Cr[0] = 127  # so that a step of each column's bytes is worth one
    whole_Br = random.integers(-32_766, 32_767, size=(3, width))
    whole_Br[:, 0] = 32_767  # the largest of a query's weights becomes this whole number, and all others stay
    cell_BP, score_BP = nearest(cells_of(code_Cr.astype(np.float32)), whole_Br.astype(np.float32), 50)
    product_BC = whole_Br @ code_Cr.astype(np.int64).T
    np.testing.assert_array_equal(cell_BP, np.argsort(-product_BC, axis=1, kind="stable"))
    np.testing.assert_array_equal(score_BP, -np.sort(-product_BC, axis=1).astype(np.float32))


@pytest.mark.parametrize("norm", ["prefix", "full"])
@pytest.mark.parametrize("head", ["tied", "per_width"])
@pytest.mark.parametrize(("routing", "width"), [(8, 16), (16, 8), (16, 16), (40, 8), (8, 40), (40, 40)])
def test_what_is_scanned_with_is_the_query_of_the_width_and_its_products_with_the_bases(norm, head, routing, width):
    widths = WidthLadder((8, 16, 40), norm=norm, head=head)
    queries = unit_queries(np.random.default_rng(1).normal(size=(5, widths.query_size)).astype(np.float32), widths)
    cells, places = cells_of(unit(30, routing, seed=2)), order(width, 2)
    bases = unit(30, width, seed=3)
    router = Router(cells, width=width, widths=widths, order_w=places, base_Cw=bases)
    scanned, found, products = router.route(queries, 7)
    wanted = query_at(queries, width, widths)[:, places]
    np.testing.assert_allclose(scanned, wanted, atol=1e-6)
    np.testing.assert_allclose(products, np.einsum("bw,bpw->bp", wanted, bases[found]), atol=0.02)
    scores = query_at(queries, routing, widths) @ cells.routes.T
    seventh = np.sort(scores, axis=1)[:, -7:]
    np.testing.assert_allclose(np.take_along_axis(scores, found, axis=1)[:, ::-1], seventh, atol=0.01)


def test_a_prefix_too_small_for_squares_in_float32_still_has_a_direction():
    query = np.array([[3e-30, 4e-30, 0, 1]], dtype=np.float32)
    router = Router(cells_of(np.eye(2, dtype=np.float32)), width=2, widths=WidthLadder((2, 4)))
    scanned, found, products = router.route(query, 2)
    np.testing.assert_allclose(scanned, [[0.6, 0.8]], atol=1e-6)
    assert found.tolist() == [[1, 0]]
    np.testing.assert_allclose(products, [[0.8, 0.6]], atol=1e-3)


@pytest.mark.parametrize(("routing", "width"), [(2, 4), (4, 2)])
def test_a_prefix_of_zeros_is_refused(routing, width):
    router = Router(cells_of(unit(3, routing, seed=1)), width=width, widths=WidthLadder((2, 4)))
    with pytest.raises(WidthError, match="prefix of 2 zeros"):
        router.route(np.array([[0.6, 0.8, 0, 0], [0, 0, 0, 1]], dtype=np.float32), 2)
