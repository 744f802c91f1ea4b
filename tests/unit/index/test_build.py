import numpy as np
import pytest

from recsys.errors import ConfigError, WidthError
from recsys.index.build import build_searcher
from recsys.index.cells import MIN_ITEMS_FOR_IVF, MIN_ITEMS_PER_CELL, num_cells
from recsys.index.files import write_indexes
from recsys.index.specs import IndexSpec
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
    assert cells <= 2 * num_items**0.5


@pytest.mark.parametrize("engine", ["ivf", "hnsw", "certified"])
def test_files_depend_on_the_seed_alone(tmp_path, engine):
    store, spec = unit(700, 16, seed=1), IndexSpec(engine=engine, width=16)
    content = []
    for place, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(place)
        folder.mkdir()
        write_indexes(build_searcher(store, widths=WIDTHS, seed=seed, indexes=[spec]), folder)
        content.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert content[0] == content[1]
    # Nothing of certified search is drawn.
    assert (content[0] != content[2]) == (engine != "certified")


def test_indexes_that_route_alike_share_their_cells():
    specs = [
        IndexSpec(engine="ivf", width=width, routing=4, code=code) for width in (8, 16) for code in ("float32", "sq8")
    ]
    searcher = build_searcher(unit(700, 16, seed=1), widths=WIDTHS, seed=1, indexes=specs)
    assert len({id(index.cells) for index in searcher.indexes.values()}) == 1


def test_what_cannot_be_built_is_refused():
    store = unit(700, 16, seed=1)
    ivf = IndexSpec(engine="ivf", width=8)
    for specs, error, message in (
        ([ivf, ivf], ConfigError, "expected each once"),
        (
            [IndexSpec(engine="ivf", width=8, cells=20)],
            ConfigError,
            "got 700 items to train them on, expected at least 780",
        ),
        ([IndexSpec(engine="ivf", width=8, routing=5)], WidthError, "got 5, expected a trained width"),
        ([IndexSpec(engine="hnsw", width=5)], WidthError, "got 5, expected a trained width"),
    ):
        with pytest.raises(error, match=message):
            build_searcher(store, widths=WIDTHS, seed=1, indexes=specs)
    with pytest.raises(ConfigError, match="ivf8: cells: got 623 items to train them on, expected at least 624"):
        build_searcher(store[:623], widths=WIDTHS, seed=1, indexes=[ivf])
