"""Which cells a query is sent to."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from recsys.index.cells import Cells


def unit(num, width, *, seed):
    vectors = np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cells_of(centre_Cr):
    index = faiss.IndexFlatIP(centre_Cr.shape[1])
    index.add(centre_Cr)
    return Cells(index)


@pytest.mark.parametrize("width", [1, 7, 32, 100])
def test_the_nearest_cells_are_those_of_the_centres_but_for_what_bytes_cannot_tell(width):
    centres, queries = unit(300, width, seed=1), unit(20, width, seed=2)
    # Columns of very different sizes, as where the energy is in the first of them: each has its own scale.
    centres *= np.geomspace(1, 1e-3, width, dtype=np.float32)
    scores = queries.astype(np.float64) @ centres.T
    cells = cells_of(centres)
    found, products = cells.nearest(queries, 10)
    tenth = np.sort(scores, axis=1)[:, -10]
    step = np.abs(centres).max(axis=0) / 127
    worst = np.abs(queries) @ step + np.abs(queries * step).max(axis=1) * width * 127 / 2**13
    assert (np.take_along_axis(scores, found, axis=1) >= (tenth - worst)[:, None]).all()
    assert all(len(set(row)) == 10 for row in found.tolist())
    np.testing.assert_allclose(products, np.take_along_axis(queries @ cells.routes.T, found, axis=1), atol=worst.max())


def test_all_cells_are_found_best_first_however_many_are_asked_for():
    centres, queries = unit(50, 16, seed=1), unit(3, 16, seed=2)
    found, _ = cells_of(centres).nearest(queries, 1000)
    assert (np.sort(found, axis=1) == np.arange(50)).all()
    scores = np.take_along_axis(queries @ centres.T, found, axis=1)
    assert (np.diff(scores, axis=1) <= 0.01).all()


def test_centres_of_zeros_are_equally_near():
    found, products = cells_of(np.zeros((4, 8), dtype=np.float32)).nearest(unit(1, 8, seed=1), 3)
    assert found.tolist() == [[0, 1, 2]]
    assert products.tolist() == [[0, 0, 0]]


def test_products_of_very_wide_vectors_stay_within_their_bits():
    # All columns alike: every byte and every weight is the largest, and all of them add up.
    width = 20_000
    centres = np.full((3, width), width**-0.5, dtype=np.float32) * np.array([[0.5], [1], [-1]], dtype=np.float32)
    found, products = cells_of(centres).nearest(centres[1:2], 3)
    assert found.tolist() == [[1, 0, 2]]
    np.testing.assert_allclose(products, [[1, 0.5, -1]], atol=0.01)
