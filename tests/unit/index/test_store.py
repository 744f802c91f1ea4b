"""Copies of the item vectors, made some rows at a time."""

import numpy as np
import pytest

from recsys.index import store
from recsys.index.learned_cells import cell_means
from recsys.index.store import make_store, pages, prefix_norms, prefixes
from recsys.widths import WidthLadder, truncate

WIDTHS = WidthLadder((8, 16))
NUM_ITEMS = 100


@pytest.fixture
def items():
    vector_NW = np.random.default_rng(1).standard_normal((NUM_ITEMS, 16)).astype(np.float32)
    return vector_NW / np.linalg.norm(vector_NW, axis=1, keepdims=True)


@pytest.fixture(params=[7, NUM_ITEMS, NUM_ITEMS + 1])
def paged(request, monkeypatch):
    monkeypatch.setattr(store, "_PAGE", request.param)


@pytest.mark.parametrize("num", [0, 1, 6, 7, 8, 100])
def test_pages_hold_every_row_once_and_in_order(num, monkeypatch):
    monkeypatch.setattr(store, "_PAGE", 7)
    rows = np.arange(num)
    assert [row for page in pages(num) for row in rows[page].tolist()] == rows.tolist()


@pytest.mark.usefixtures("paged")
def test_halves_and_bytes_are_those_of_all_rows_at_once(items):
    halves = make_store(items, "fp16", norm_of={})
    np.testing.assert_array_equal(halves.code_ND, items.astype(np.float16).view(np.uint16))
    coded = make_store(items, "sq8", norm_of={})
    np.testing.assert_allclose(coded.scale_D, np.abs(items).max(axis=0) / 127)
    np.testing.assert_array_equal(coded.code_ND, np.rint(items / coded.scale_D))
    assert coded.code_ND.dtype == np.int8


@pytest.mark.usefixtures("paged")
def test_norms_of_prefixes_are_those_of_all_rows_at_once(items):
    norm_of = prefix_norms(items, WIDTHS)
    assert list(norm_of) == [8]
    np.testing.assert_array_equal(norm_of[8], np.linalg.norm(items[:, :8], axis=1))


@pytest.mark.usefixtures("paged")
def test_means_of_cells_are_those_of_all_rows_at_once_and_of_empty_ones_zero(items):
    cells = np.random.default_rng(2).choice([0, 2, 3, 5], size=NUM_ITEMS)
    means = cell_means(items, cells, num=7)
    for cell in range(7):
        own = items[cells == cell]
        np.testing.assert_allclose(means[cell], own.mean(axis=0) if len(own) else 0, atol=1e-6)


@pytest.mark.usefixtures("paged")
@pytest.mark.parametrize("norm", ["prefix", "full"])
def test_prefixes_are_those_of_all_rows_at_once_and_the_full_width_is_not_copied(items, norm):
    widths = WidthLadder((8, 16), norm=norm)
    found = prefixes(items, 8, widths)
    np.testing.assert_array_equal(found, truncate(items, 8, widths))
    assert found.flags.c_contiguous
    assert prefixes(items, 16, widths) is items
