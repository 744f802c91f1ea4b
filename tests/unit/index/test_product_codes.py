"""Codes of groups of coordinates that lie far apart, in which each weighs what it does in inner products."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from recsys.errors import ArtifactError
from recsys.index import product_codes
from recsys.index.assignment import Assignment
from recsys.index.build import build_searcher
from recsys.index.files import load_searcher, write_indexes
from recsys.index.product_codes import grouped, order
from recsys.index.specs import Code, IndexSpec, RungSpec
from recsys.widths import WidthLadder

WIDTH, CELLS, NUM_ITEMS = 32, 16, 4000
WIDTHS = WidthLadder([8, WIDTH])


def compact(num, *, seed):
    """Unit vectors whose energy fades from one coordinate to the next."""
    vector_NW = np.random.default_rng(seed).normal(size=(num, WIDTH)) * np.geomspace(1, 0.1, WIDTH)
    return (vector_NW / np.linalg.norm(vector_NW, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def items():
    return compact(NUM_ITEMS, seed=1)


def test_coordinates_of_a_group_come_from_all_parts_of_the_vector():
    assert order(8, 2).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert order(8, 4).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert order(8, 1).tolist() == list(range(8))


@pytest.mark.parametrize("group", [1, 2, 4])
def test_vectors_are_put_in_that_order(items, group):
    np.testing.assert_array_equal(grouped(items, group), items[:, order(WIDTH, group)])
    assert grouped(items, group).flags.c_contiguous


@pytest.mark.parametrize(("code", "group"), [("pq2", 2), ("pq4", 4)])
def test_more_is_found_than_with_neighbours_in_a_group(items, code: Code, group):
    rung = RungSpec(engine="ivf", width=WIDTH, cells=CELLS, code=code, nprobe=CELLS)
    searcher = build_searcher(items, widths=WIDTHS, seed=1, indexes=[rung.index])
    plain = faiss.index_factory(WIDTH, f"IVF{CELLS},PQ{WIDTH // group}x4fs", faiss.METRIC_INNER_PRODUCT)
    plain.train(items)
    plain.add(items)
    plain.nprobe = CELLS
    queries = compact(200, seed=2)
    best = np.argsort(-(queries @ items.T), axis=1)[:, :50]

    def missed(rows_QK):
        return 1 - np.mean([np.isin(one, other).mean() for one, other in zip(best, rows_QK, strict=True)])

    ours = missed(searcher.search(queries, k=75, rung=rung).rows_BK)
    assert ours < 0.6 * missed(plain.search(queries, 75)[1])


def test_what_codes_stand_for_is_not_weighted(items):
    """Weights say which code is chosen; a product with what it stands for is that with the vector, but for an error."""
    cells = Assignment.once(np.arange(NUM_ITEMS) % CELLS)
    means = np.zeros((CELLS, WIDTH), dtype=np.float32)
    index = product_codes.build(items, means, cells, group=2)
    index.nprobe = CELLS
    queries = compact(20, seed=2)
    scores, rows = index.search(grouped(queries, 2), 100)
    exact = np.take_along_axis(queries @ items.T, rows, axis=1)
    assert np.abs(scores - exact).mean() < 0.06
    assert abs(scores.sum() / exact.sum() - 1) < 0.1


def test_the_file_is_one_that_faiss_alone_searches_alike(items, tmp_path):
    rung = RungSpec(engine="ivf", width=WIDTH, cells=CELLS, code="pq2", nprobe=CELLS)
    searcher = build_searcher(items, widths=WIDTHS, seed=1, indexes=[rung.index])
    write_indexes(searcher, tmp_path)
    queries = compact(20, seed=2)
    file = faiss.read_index(str(tmp_path / f"{rung.index.name}.faiss"))
    faiss.extract_index_ivf(file).nprobe = CELLS
    scores, _ = file.search(queries, 10)
    for one in (searcher, load_searcher(tmp_path, items, widths=WIDTHS)):
        np.testing.assert_allclose(one.search(queries, k=10, rung=rung).scores_BK, scores, atol=0.02)


def test_a_coordinate_that_is_always_zero_does_no_harm(items):
    items = items.copy()
    items[:, [3, 20]] = 0
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    rung = RungSpec(engine="ivf", width=WIDTH, cells=CELLS, code="pq2", nprobe=CELLS)
    found = build_searcher(items, widths=WIDTHS, seed=1, indexes=[rung.index]).search(items[:50], k=3, rung=rung)
    assert np.isfinite(found.scores_BK).all()
    assert np.mean(found.rows_BK[:, 0] == np.arange(50)) > 0.9


@pytest.mark.parametrize("group", [0, 4])
def test_a_file_without_that_order_is_refused(items, tmp_path, group):
    spec = IndexSpec(engine="ivf", width=WIDTH, cells=CELLS, code="pq2")
    write_indexes(build_searcher(items, widths=WIDTHS, seed=1, indexes=[spec]), tmp_path)
    path = tmp_path / f"{spec.name}.faiss"
    file = faiss.read_index(str(path))
    inner = faiss.downcast_index(file.index)
    faiss.write_index(product_codes.with_order(inner, group) if group else inner, str(path))
    with pytest.raises(ArtifactError, match=rf"{spec.name}\.faiss: got a .*publish again"):
        load_searcher(tmp_path, items, widths=WIDTHS)


@pytest.mark.parametrize("width", [8, 64, 256, 1024])
@pytest.mark.parametrize("group", [2, 4])
def test_the_order_in_a_file_is_that_of_the_codes(width, group):
    index = faiss.IndexFlatIP(width)
    for _ in range(50):  # whatever else memory is used for meanwhile
        file = product_codes.with_order(index, group)
        remap = faiss.downcast_VectorTransform(file.chain.at(0))
        np.testing.assert_array_equal(faiss.vector_to_array(remap.map), order(width, group))
