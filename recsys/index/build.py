"""Index a catalogue: build the indexes that rungs need, and the stores that their candidates are scored from.

Shapes: ``store_ND`` is ``(items, full width)``, ``cell_N`` ``(items,)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float

from recsys.errors import ConfigError
from recsys.index.assignment import Assignment
from recsys.index.cells import Cells, Key, cells_key, num_cells
from recsys.index.checks import check_shape, check_unit
from recsys.index.engines.certified import CertifiedIndex
from recsys.index.engines.flat import FlatIndex
from recsys.index.engines.hnsw import HnswIndex
from recsys.index.engines.ivf import IvfIndex
from recsys.index.engines.protocol import Index
from recsys.index.learned_cells import Lessons
from recsys.index.searcher import Searcher
from recsys.index.specs import IndexSpec, RungSpec, StoreCode
from recsys.index.store import Store, make_store, prefix_norms
from recsys.widths import WidthLadder


def default_indexes(widths: WidthLadder, num_items: int) -> list[IndexSpec]:
    """Return an exact scan at every width, and cells at every width where there are enough items."""
    indexes = [IndexSpec(engine="exact", width=width) for width in widths]
    return indexes + ([IndexSpec(engine="ivf", width=width) for width in widths] if num_cells(num_items) else [])


def build_searcher(
    store_ND: Float[np.ndarray, "items full"],
    *,
    widths: WidthLadder,
    seed: int,
    indexes: Sequence[IndexSpec] | None = None,
    stores: Sequence[StoreCode] = (),
    learn_from: np.ndarray | None = None,
) -> Searcher:
    """Index the item vectors.

    Args:
        store_ND: float32 unit rows.
        widths: the trained widths.
        seed: fixes cells and graphs.
        indexes: what to build, each once; None for `default_indexes`. Those that route alike share their cells.
        stores: codes of the stores to make beside float32, which there always is.
        learn_from: ``(queries, query size)`` unit queries like those to come, in an order that says nothing: cells are
            learned from them too (`recsys.index.learned_cells`), if they are enough.

    Raises:
        WidthError: the vectors are not float32 unit rows of full width, a prefix that is to be scaled is all zeros, or
            a width was not trained.
        ConfigError: there are fewer items than an index's cells need, or an index comes twice.
    """
    check_shape(store_ND, widths)
    check_unit(store_ND, "item vectors")
    wanted = default_indexes(widths, len(store_ND)) if indexes is None else list(indexes)
    if len(set(wanted)) != len(wanted):
        raise ConfigError(f"indexes: got {[spec.name for spec in wanted]}, expected each once")
    catalogue = _Catalogue(store_ND, widths=widths, seed=seed, learn_from=learn_from)
    built = {spec: catalogue.index(spec) for spec in wanted}
    return Searcher(store_ND, widths=widths, indexes=built, stores=build_stores(store_ND, widths, stores))


def build_for(
    store_ND: Float[np.ndarray, "items full"],
    specs: Sequence[RungSpec],
    *,
    widths: WidthLadder,
    seed: int,
    learn_from: np.ndarray | None = None,
) -> Searcher:
    """Build all that some rungs need; see `build_searcher`."""
    indexes = sorted({spec.index for spec in specs}, key=lambda index: index.name)
    stores = sorted({spec.store for spec in specs})
    return build_searcher(store_ND, widths=widths, seed=seed, indexes=indexes, stores=stores, learn_from=learn_from)


def build_stores(
    store_ND: Float[np.ndarray, "items full"], widths: WidthLadder, codes: Sequence[StoreCode]
) -> dict[StoreCode, Store]:
    """Return the store of float32 and one of each other code; they share the prefixes' norms."""
    norm_of = prefix_norms(store_ND, widths)
    every: list[StoreCode] = ["float32", *(code for code in codes if code != "float32")]
    return {code: make_store(store_ND, code, norm_of=norm_of) for code in every}


class _Catalogue:
    """Vectors to index, and the cells that were made of them so far."""

    def __init__(self, store_ND: np.ndarray, *, widths: WidthLadder, seed: int, learn_from: np.ndarray | None) -> None:
        self._store_ND = store_ND
        self._widths = widths
        self._seed = seed
        self._learn_from = learn_from
        self._cells: dict[Key, tuple[Cells, Assignment]] = {}

    def index(self, spec: IndexSpec) -> Index:
        """Build one index."""
        self._widths.require(spec.width)
        self._widths.require(spec.routing_width)
        if spec.engine == "exact":
            return FlatIndex.build(spec, self._store_ND, widths=self._widths)
        if spec.engine == "hnsw":
            return HnswIndex.build(spec, self._store_ND, widths=self._widths, seed=self._seed)
        if spec.engine == "certified":
            return CertifiedIndex.build(spec, self._store_ND, widths=self._widths)
        cells, assignment = self._cells_of(cells_key(spec, len(self._store_ND)))
        return IvfIndex.build(spec, self._store_ND, cells=cells, assignment=assignment, widths=self._widths)

    def _cells_of(self, key: Key) -> tuple[Cells, Assignment]:
        if key not in self._cells:
            self._cells[key] = Cells.train(
                self._store_ND, key, widths=self._widths, seed=self._seed, lessons=self._lessons
            )
        return self._cells[key]

    @cached_property
    def _lessons(self) -> Lessons | None:
        if self._learn_from is None:
            return None
        return Lessons.find(self._store_ND, self._learn_from, widths=self._widths)
