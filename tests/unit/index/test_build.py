import faiss
import numpy as np
import pytest

from recsys.errors import WidthError
from recsys.index.build import build_searcher
from recsys.index.cells import MIN_ITEMS_FOR_IVF, MIN_ITEMS_PER_CELL, num_cells
from recsys.widths import WidthLadder

WIDTHS = WidthLadder([4, 8, 16])


def unit(num, width, seed):
    vector = np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


def test_vectors_that_cannot_be_right_are_refused():
    good = unit(10, 16, seed=1)
    zero_prefix, nan = good.copy(), good.copy()
    zero_prefix[3, :4] = 0
    nan[3, 15] = np.nan
    for bad in (good[:, :8], good[:0], good.astype(np.float64), np.asfortranarray(good), zero_prefix, nan, good * 3):
        with pytest.raises(WidthError):
            build_searcher(bad, widths=WIDTHS, seed=1)


@pytest.mark.parametrize("num_items", [1, 623, 624, 1682, 3706, 10_000, 1_000_000, 10_000_000])
def test_cells_are_few_enough_to_train(num_items):
    cells = num_cells(num_items)
    assert cells == 0 if num_items < MIN_ITEMS_FOR_IVF else cells >= 16
    assert cells * MIN_ITEMS_PER_CELL <= num_items
    assert cells <= 4 * num_items**0.5


def test_cells_depend_on_the_seed_alone():
    store = unit(700, 16, seed=1)
    once, again, other = (build_searcher(store, widths=WIDTHS, seed=seed).indexes["ivf", 8] for seed in (1, 1, 2))
    as_bytes = [faiss.serialize_index(index).tobytes() for index in (once, again, other)]
    assert as_bytes[0] == as_bytes[1] != as_bytes[2]
