"""Search over the item vectors at any rung: scan at one width, then score the candidates again at full width.

The full-width vectors are stored once: the exact scan at full width and every rerank read that one array, usually
mapped from the bundle's safetensors file. Each narrower width has its own contiguous copy of truncated vectors, because
a scan of prefixes inside wide rows moves as much memory as a scan of the wide rows; what they and queries are there,
`recsys.widths` says. Where the catalogue is large enough, each width also has an inverted file (IVF): cells of near
vectors, of which a search visits the nearest few.

FAISS checks little and fails quietly (a NaN query finds nothing, a filter on the outer parameters of a refining index
is ignored), so queries are checked first, filters are given to the scan itself, and the rerank is done here.

Shapes: ``query_BU`` (batch, query size), ``query_Bw`` (batch, width), ``store_ND`` (items, full width), ``rows_BC``
(batch, candidates), ``rows_BK`` (batch, k).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float, Int64

from recsys.errors import RequestError, WidthError
from recsys.index.exact import NOTHING
from recsys.index.specs import Engine, RungSpec
from recsys.widths import WidthLadder, query_at

_UNIT_TOLERANCE = 1e-3
_TINY = 1e-12  # squares below it may have lost digits to float32's underflow


@dataclass(frozen=True)
class SearchResult:
    """The best items per query, best first.

    Args:
        rows_BK: int64 item rows, `NOTHING` where no item was left.
        scores_BK: float32 inner products of query and item at the rung's width, or at full width where it reranks;
            minus infinity where no item was left.
        scan_ms: time in the index, for the whole batch.
        rerank_ms: time scoring candidates again, for the whole batch.
    """

    rows_BK: Int64[np.ndarray, "batch k"]
    scores_BK: Float[np.ndarray, "batch k"]
    scan_ms: float
    rerank_ms: float


class Searcher:
    """Answers queries at any rung; safe for concurrent searches, since nothing in it changes after it is made.

    Args:
        store_ND: float32, C-contiguous, unit rows: the one full-width copy of the item vectors.
        widths: the trained widths.
        indexes: the FAISS index of each engine and width. An exact scan at full width needs none: it reads the store.
    """

    def __init__(
        self,
        store_ND: Float[np.ndarray, "items full"],
        *,
        widths: WidthLadder,
        indexes: Mapping[tuple[Engine, int], Any],
    ) -> None:
        check_shape(store_ND, widths)
        self.widths = widths
        self.store_ND = store_ND
        self.indexes = dict(indexes)
        flat = {width: _vectors_of(index) for (engine, width), index in self.indexes.items() if engine == "exact"}
        self._flat: dict[int, np.ndarray] = {**flat, widths.full: store_ND}

    @property
    def num_items(self) -> int:
        """Items in the catalogue."""
        return len(self.store_ND)

    def supports(self, spec: RungSpec) -> bool:
        """Whether there is an index for the rung."""
        return spec.width in self._flat if spec.engine == "exact" else ("ivf", spec.width) in self.indexes

    def size_bytes(self, spec: RungSpec) -> int:
        """Bytes that a search at the rung may read: its index, and the full-width store where that is read too."""
        store = self.store_ND.nbytes if spec.rerank or (spec.engine, spec.width) == ("exact", self.widths.full) else 0
        index = self.indexes.get((spec.engine, spec.width))
        return store + (_index_bytes(index) if index is not None else 0)

    def search(
        self,
        query_BU: np.ndarray,
        *,
        k: int,
        rung: RungSpec,
        exclude: np.ndarray | None = None,
    ) -> SearchResult:
        """Return each query's best items at a rung.

        A rung that reranks scans for ``max(k, rerank)`` candidates with the query of its width and answers with their
        scores by the full-width query; any other answers with scores at its own width. An exact rung finds ``k`` items
        whenever that many are not excluded; an IVF rung finds as many as its probed cells hold.

        Args:
            query_BU: ``(batch, query size)`` float32 unit vectors, as `recsys.widths.unit_queries` gives them.
            k: items to return per query, at least 1.
            rung: how to search.
            exclude: int64 item rows that no query of the batch may get; rows outside the catalogue exclude nothing.

        Raises:
            WidthError: the queries are not of the query size, not finite or not unit vectors, what is to be scaled at
                the rung's width is all zeros, or that width was not trained.
            RequestError: ``k`` or ``exclude`` is out of range, or the bundle has no index for the rung.
        """
        self._check(query_BU, k=k, rung=rung, exclude=exclude)
        started = time.perf_counter()
        num_candidates = min(max(k, rung.rerank), self.num_items)
        rows_BC, scores_BC = self._scan(query_BU, num_candidates, rung, exclude)
        scanned = time.perf_counter()
        if rung.rerank:
            rows_BC, scores_BC = self._rerank(query_BU, rows_BC, k)
        rows_BK, scores_BK = _pad(rows_BC, scores_BC, k)
        finished = time.perf_counter()
        return SearchResult(rows_BK, scores_BK, scan_ms=1e3 * (scanned - started), rerank_ms=1e3 * (finished - scanned))

    def _scan(
        self, query_BU: np.ndarray, num: int, rung: RungSpec, exclude: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        # FAISS keeps bare pointers to selectors: these names must outlive the search.
        excluded = None if exclude is None or not len(exclude) else faiss.IDSelectorBatch(np.ascontiguousarray(exclude))
        selector = None if excluded is None else faiss.IDSelectorNot(excluded)
        query_Bw = _query_at(query_BU, rung.width, self.widths)
        if rung.engine == "exact":
            rows_BC, scores_BC = _scan_flat(query_Bw, self._flat[rung.width], num, selector)
        else:
            effort = {"nprobe": rung.nprobe} if selector is None else {"nprobe": rung.nprobe, "sel": selector}
            parameters = faiss.SearchParametersIVF(**effort)
            scores_BC, rows_BC = self.indexes["ivf", rung.width].search(query_Bw, num, params=parameters)
        scores_BC[rows_BC == NOTHING] = -np.inf
        return rows_BC, scores_BC

    def _rerank(self, query_BU: np.ndarray, rows_BC: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores_BC = self.score(query_BU, rows_BC)
        if k < rows_BC.shape[1]:
            best_BK = np.argpartition(scores_BC, -k, axis=1)[:, -k:]
            rows_BC, scores_BC = np.take_along_axis(rows_BC, best_BK, 1), np.take_along_axis(scores_BC, best_BK, 1)
        order_BK = np.lexsort((rows_BC, -scores_BC), axis=1)
        return np.take_along_axis(rows_BC, order_BK, 1), np.take_along_axis(scores_BC, order_BK, 1)

    def score(
        self, query_BU: Float[np.ndarray, "batch query"], rows_BC: Int64[np.ndarray, "batch candidates"]
    ) -> Float[np.ndarray, "batch candidates"]:
        """Return full-width cosines of unit queries with chosen items, minus infinity where a row is `NOTHING`.

        Reads the rows where they lie: no copy of the candidates' vectors is made.
        """
        query_BD = _query_at(query_BU, self.widths.full, self.widths)
        rows_BC = np.ascontiguousarray(rows_BC)
        scores_BC = np.empty(rows_BC.shape, dtype=np.float32)
        faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]
            faiss.swig_ptr(scores_BC),
            faiss.swig_ptr(query_BD),
            faiss.swig_ptr(self.store_ND),
            faiss.swig_ptr(rows_BC),
            self.widths.full,
            *rows_BC.shape,
        )
        return scores_BC

    def _check(self, query_BU: np.ndarray, *, k: int, rung: RungSpec, exclude: np.ndarray | None) -> None:
        self.widths.require(rung.width)
        if not self.supports(rung):
            have = sorted(f"{engine}{width}" for engine, width in self.indexes)
            raise RequestError(
                "rung", f"got {rung.name}, expected one with an index: exact{self.widths.full} or one of {have}"
            )
        check_queries(query_BU, self.widths)
        if k < 1:
            raise RequestError("k", f"got {k}, expected at least 1")
        if exclude is not None and (exclude.ndim != 1 or exclude.dtype != np.int64):
            raise RequestError(
                "exclude", f"got shape {exclude.shape} of {exclude.dtype}, expected one dimension of int64 item rows"
            )


def _vectors_of(index: Any) -> np.ndarray:
    """View a flat index's vectors; the view holds no reference, so the index must live as long."""
    shape = (int(index.ntotal), int(index.d))
    vector_Nw: np.ndarray = faiss.rev_swig_ptr(index.get_xb(), shape[0] * shape[1]).reshape(shape)
    return vector_Nw


def _scan_flat(query_Bw: np.ndarray, vector_Nw: np.ndarray, num: int, selector: Any) -> tuple[np.ndarray, np.ndarray]:
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


def _query_at(query_BU: np.ndarray, width: int, widths: WidthLadder) -> np.ndarray:
    """Do what `query_at` does, contiguously, without repeating its checks for unit vectors that passed them."""
    if widths.head == "per_width":
        return np.ascontiguousarray(query_BU[:, widths.query_blocks[widths.index(width)]])
    prefix_Bw = query_BU[:, :width]
    if width == widths.full or widths.norm == "full":
        return np.ascontiguousarray(prefix_Bw)
    square_B1 = np.einsum("bw,bw->b", prefix_Bw, prefix_Bw)[:, None]
    if square_B1.min(initial=1.0) < _TINY:
        return np.ascontiguousarray(query_at(query_BU, width, widths))
    unit_Bw: np.ndarray = prefix_Bw / np.sqrt(square_B1)
    return unit_Bw


def _index_bytes(index: Any) -> int:
    """Return the bytes of an index's vectors, ids and cell centres."""
    num, width = int(index.ntotal), int(index.d)
    if isinstance(index, faiss.IndexIVF):
        return num * (4 * width + 8) + int(index.nlist) * 4 * width
    return num * 4 * width


def use_one_thread() -> None:
    """Make FAISS search on the calling thread alone.

    OpenMP's thread count belongs to each calling thread: call it in the initialiser of a thread pool, so that the
    pool's size is the number of threads that compute. More of those than cores ruins the tail of the latency.
    """
    faiss.omp_set_num_threads(1)


def check_shape(vector_ND: np.ndarray, widths: WidthLadder) -> None:
    """Raise `WidthError` unless these are float32, C-contiguous, of full width and at least one."""
    if vector_ND.ndim != 2 or vector_ND.shape[1] != widths.full or not len(vector_ND):
        raise WidthError(f"vectors: got shape {vector_ND.shape}, expected (n, {widths.full}) with n at least 1")
    if vector_ND.dtype != np.float32 or not vector_ND.flags.c_contiguous:
        layout = "" if vector_ND.flags.c_contiguous else ", not C-contiguous"
        raise WidthError(f"vectors: got {vector_ND.dtype}{layout}, expected C-contiguous float32")


def check_queries(query_BU: np.ndarray, widths: WidthLadder) -> None:
    """Raise `WidthError` unless these are finite float32 queries whose vectors all have unit length."""
    if query_BU.ndim != 2 or query_BU.shape[1] != widths.query_size or query_BU.dtype != np.float32:
        raise WidthError(
            f"query: got shape {query_BU.shape} of {query_BU.dtype}, expected (batch, {widths.query_size}) of float32"
        )
    _refuse_non_unit([query_BU[:, block] for block in widths.query_blocks], "query")


def check_unit(vector_BD: np.ndarray, what: str) -> None:
    """Raise `WidthError`, naming ``what`` and the first row at fault, unless all rows are finite and of L2 norm 1."""
    _refuse_non_unit([vector_BD], what)


def _refuse_non_unit(parts: list[np.ndarray], what: str) -> None:
    square_LB = np.array([np.einsum("bd,bd->b", part_Bw, part_Bw) for part_Bw in parts])
    unit_LB = np.abs(square_LB - 1) < _UNIT_TOLERANCE  # false for NaN
    if not unit_LB.all():
        place, row = np.argwhere(~unit_LB)[0]
        raise WidthError(f"{what}: row {row}: got L2 norm {square_LB[place, row] ** 0.5}, expected 1")


def _pad(rows_BC: np.ndarray, scores_BC: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    short = k - rows_BC.shape[1]
    if short <= 0:
        return rows_BC[:, :k], scores_BC[:, :k]
    wider = ((0, 0), (0, short))
    return np.pad(rows_BC, wider, constant_values=NOTHING), np.pad(scores_BC, wider, constant_values=-np.inf)
