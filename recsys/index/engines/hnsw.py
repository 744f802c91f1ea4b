"""A navigable graph over a prefix (Malkov and Yashunin, arXiv 1603.09320): each item keeps links to near ones.

A walk passes through items that are not allowed but never answers with them.

Shapes: ``vector_Nw`` (items, width), ``query_Bw`` (batch, width).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from recsys.index.checks import checked_query_at
from recsys.index.engines.protocol import Found
from recsys.index.faiss_files import check_index, check_vectors_of, read_index, write_index
from recsys.index.item_set import ItemSet
from recsys.index.specs import IndexSpec, RungSpec
from recsys.index.store import prefixes
from recsys.widths import WidthLadder

_NUM_LINKS = 32
_EF_CONSTRUCTION = 80


class HnswIndex:
    """Walks a graph.

    Args:
        spec: engine ``hnsw``.
        index: the FAISS index.
        widths: the trained widths.
    """

    def __init__(self, spec: IndexSpec, *, index: Any, widths: WidthLadder) -> None:
        self.spec = spec
        self._index = index
        self._widths = widths

    @classmethod
    def build(cls, spec: IndexSpec, store_ND: np.ndarray, *, widths: WidthLadder, seed: int) -> HnswIndex:
        """Link the items. FAISS draws levels from a generator of the index, so one thread gives one graph."""
        index = faiss.IndexHNSWFlat(spec.width, _NUM_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _EF_CONSTRUCTION
        index.hnsw.rng = faiss.RandomGenerator(seed)  # type: ignore[attr-defined]
        index.add(prefixes(store_ND, spec.width, widths))
        return cls(spec, index=index, widths=widths)

    @classmethod
    def load(cls, folder: Path, spec: IndexSpec, store_ND: np.ndarray, *, widths: WidthLadder) -> HnswIndex:
        """Open what `save` wrote for these vectors, or raise `ArtifactError`."""
        path = folder / f"{spec.name}.faiss"
        index = read_index(path)
        check_index(path, index, kind=faiss.IndexHNSWFlat, width=spec.width, num_items=len(store_ND))
        check_vectors_of(path, index, spec.width, store_ND, widths)
        return cls(spec, index=index, widths=widths)

    @property
    def size_bytes(self) -> int:
        """Bytes of vectors and links."""
        hnsw, num = self._index.hnsw, int(self._index.ntotal)
        links = 4 * hnsw.neighbors.size() + 8 * hnsw.offsets.size() + 4 * hnsw.levels.size()
        return int(4 * num * self.spec.width + links)

    def search(self, query_BU: np.ndarray, num: int, *, effort: RungSpec, allowed: ItemSet | None) -> Found:
        """Walk towards each query with a list of ``effort.ef`` items, of ``num`` where that is more."""
        query_Bw = checked_query_at(query_BU, self.spec.width, self._widths)
        wanted = {"efSearch": max(effort.ef, num)} | ({} if allowed is None else {"sel": allowed.selector})
        parameters = faiss.SearchParametersHNSW(**wanted)  # type: ignore[attr-defined]
        scores_BC, rows_BC = self._index.search(query_Bw, num, params=parameters)
        return Found(rows_BC, scores_BC)

    def save(self, folder: Path) -> None:
        """Write graph and vectors."""
        write_index(self._index, folder / f"{self.spec.name}.faiss")
