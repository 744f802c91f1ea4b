"""Exact scans at a width: of contiguous vectors, or with Panorama, of blocks that stop early.

Each narrow width has its own contiguous copy of truncated vectors, because a scan of prefixes inside wide rows moves as
much memory as a scan of the wide rows. The scan at full width reads the shared store and needs no copy.

Panorama (Ramani et al., arXiv 2510.00566) keeps vectors in equal levels and leaves an item as soon as Cauchy-Schwarz
shows that it cannot be among the best. Its copy need not begin with a trained prefix, so it is turned to where most
energy comes first (`recsys.index.panorama`).

Shapes: ``vector_Nw`` (items, width), ``query_Bw`` (batch, width).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from recsys.errors import ArtifactError, RequestError
from recsys.index.checks import checked_query_at
from recsys.index.engines.protocol import Found
from recsys.index.faiss_files import check_index, check_vectors_of, read_index, write_index
from recsys.index.item_set import ItemSet
from recsys.index.panorama import turned_panorama
from recsys.index.specs import IndexSpec, RungSpec
from recsys.index.store import prefixes
from recsys.widths import WidthLadder


class FlatIndex:
    """Scans all items.

    Args:
        spec: engine ``exact``.
        vector_Nw: contiguous vectors at its width, where they lie; unused by Panorama.
        index: the FAISS index that owns them, None for the shared store.
        widths: the trained widths.
    """

    def __init__(self, spec: IndexSpec, *, store_ND: np.ndarray, index: Any, widths: WidthLadder) -> None:
        self.spec = spec
        self._index = index
        self._widths = widths
        self._panorama: Any = faiss.downcast_index(index.index) if spec.levels else None
        self._vector_Nw = store_ND if index is None else None if spec.levels else _vectors_of(index)

    @classmethod
    def build(cls, spec: IndexSpec, store_ND: np.ndarray, *, widths: WidthLadder) -> FlatIndex:
        """Copy the vectors that the scan reads."""
        index = None
        if spec.width < widths.full or spec.levels:
            vector_Nw = prefixes(store_ND, spec.width, widths)
            if spec.levels:
                index = turned_panorama(vector_Nw, spec.levels)
            else:
                index = faiss.IndexFlatIP(spec.width)
                index.add(vector_Nw)
        return cls(spec, store_ND=store_ND, index=index, widths=widths)

    @classmethod
    def load(cls, folder: Path, spec: IndexSpec, store_ND: np.ndarray, *, widths: WidthLadder) -> FlatIndex:
        """Open what `save` wrote for these vectors, or raise `ArtifactError`."""
        index = None
        if spec.width < widths.full or spec.levels:
            path = folder / f"{spec.name}.faiss"
            index = read_index(path)
            kind = faiss.IndexPreTransform if spec.levels else faiss.IndexFlatIP
            check_index(path, index, kind=kind, width=spec.width, num_items=len(store_ND))
            if spec.levels:
                _check_panorama(path, index, spec, num_items=len(store_ND))
            check_vectors_of(path, index, spec.width, store_ND, widths)
        return cls(spec, store_ND=store_ND, index=index, widths=widths)

    @property
    def size_bytes(self) -> int:
        """Bytes of the copy, and of Panorama's norms; 0 for the shared store."""
        if self._index is None:
            return 0
        num = int(self._index.ntotal)
        if not self.spec.levels:
            return 4 * num * self.spec.width
        batch = self._panorama.batch_size
        return int(4 * (-(-num // batch) * batch * (self.spec.width + self.spec.levels + 1) + self.spec.width**2))

    def search(self, query_BU: np.ndarray, num: int, *, effort: RungSpec, allowed: ItemSet | None) -> Found:
        """Scan everything: exact at this width.

        Raises:
            RequestError: Panorama is asked for more candidates than it keeps at a time.
        """
        query_Bw = checked_query_at(query_BU, effort.width, self._widths)
        selector = None if allowed is None else allowed.selector
        if self._vector_Nw is not None:
            return Found(*_scan(query_Bw, self._vector_Nw, num, selector))
        if num > (most := self._panorama.batch_size):
            raise RequestError("k", f"got {num} candidates of {effort.name}, expected at most {most} with Panorama")
        parameters = None
        if selector is not None:
            inner = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
            parameters = faiss.SearchParametersPreTransform(index_params=inner)  # type: ignore[call-arg]
        scores_BC, rows_BC = self._index.search(query_Bw, num, params=parameters)
        return Found(rows_BC, scores_BC)

    def save(self, folder: Path) -> None:
        """Write the copy, if there is one."""
        if self._index is not None:
            write_index(self._index, folder / f"{self.spec.name}.faiss")


def _check_panorama(path: Path, index: Any, spec: IndexSpec, *, num_items: int) -> None:
    """Raise `ArtifactError` unless what is turned, and how, is what `turned_panorama` makes."""
    turns: list[Any] = [faiss.downcast_VectorTransform(index.chain.at(place)) for place in range(index.chain.size())]
    kinds = [type(turn).__name__ for turn in turns]
    inner = faiss.downcast_index(index.index)
    levels = getattr(inner, "n_levels", 0), spec.levels
    of = {"turns": (kinds, ["LinearTransform"]), "levels": levels}
    check_index(path, inner, kind=faiss.IndexFlatIPPanorama, width=spec.width, num_items=num_items, **of)
    turns[0].set_is_orthonormal()  # which looks at it, whatever the file says
    if not turns[0].is_orthonormal:
        raise ArtifactError(f"{path}: turn: got a matrix that changes inner products, expected an orthonormal one")


def _vectors_of(index: Any) -> np.ndarray:
    """View a flat index's vectors; the view holds no reference, so the index must live as long."""
    shape = (int(index.ntotal), int(index.d))
    vector_Nw: np.ndarray = faiss.rev_swig_ptr(index.get_xb(), shape[0] * shape[1]).reshape(shape)
    return vector_Nw


def _scan(query_Bw: np.ndarray, vector_Nw: np.ndarray, num: int, selector: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scan vectors where they lie: what ``IndexFlatIP.search`` does, for an array that FAISS need not own."""
    rows_BC = np.empty((len(query_Bw), num), dtype=np.int64)
    scores_BC = np.empty((len(query_Bw), num), dtype=np.float32)
    faiss.knn_inner_product(
        faiss.swig_ptr(query_Bw),
        faiss.swig_ptr(vector_Nw),
        vector_Nw.shape[1],
        len(query_Bw),
        len(vector_Nw),
        num,
        faiss.swig_ptr(scores_BC),
        faiss.swig_ptr(rows_BC),
        selector,
    )
    return rows_BC, scores_BC
