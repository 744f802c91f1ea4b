"""Search over the item vectors at any rung: scan at one width, then score the candidates again at wider ones.

The full-width vectors are stored once: the exact scan at full width and every rerank read that one array, usually
mapped from the bundle's safetensors file, or a smaller copy of it in another code. What vectors and queries are at a
width, `recsys.widths` says; how each engine scans, `recsys.index.engines`.

Filters are given to the scan itself: an answer never lacks an item because one that may not be given took its place.

Shapes: ``query_BU`` (batch, query size), ``store_ND`` (items, full width), ``rows_BC`` (batch, candidates), ``rows_BK``
(batch, k).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from jaxtyping import Float, Int64

from recsys.errors import RequestError
from recsys.index.checks import check_queries, check_shape, checked_query_at
from recsys.index.deadline import Deadline, Pace
from recsys.index.engines.ivf import IvfIndex, enough_candidates
from recsys.index.engines.protocol import Index
from recsys.index.exact import NOTHING
from recsys.index.item_set import ItemSet
from recsys.index.products import products_with_rows
from recsys.index.rerank import Rescorer
from recsys.index.specs import IndexSpec, RungSpec, StoreCode
from recsys.index.store import Store
from recsys.widths import WidthLadder

_FIRST_SCORED = 4096
"""Items that are scored one by one whatever the time."""
_MOST_WAYS = 4096
"""Rungs and ks that are remembered: a request may name any k."""


@dataclass(slots=True)
class SearchResult:
    """The best items per query, best first.

    Args:
        rows_BK: int64 item rows, `NOTHING` at the end where no item was left.
        scores_BK: float32 inner products of query and item at the rung's width, or at the width of its last stage (as
            good as the code that was read); minus infinity where no item was left.
        scan_ms: time in the index, for the whole batch.
        rerank_ms: time scoring candidates again, for the whole batch.
        touched_share: bytes that a certified search read, as a share of those of all vectors; None for other engines.
        num_scored: allowed items per query that were scored at full width one by one, where that took the place of the
            rung; else 0.
        done_share: share of the cells, or of the items to be scored, that there was time for; 1 where all were done.
    """

    rows_BK: Int64[np.ndarray, "batch k"]
    scores_BK: Float[np.ndarray, "batch k"]
    scan_ms: float
    rerank_ms: float
    touched_share: float | None = None
    num_scored: int = 0
    done_share: float = 1.0


@dataclass(frozen=True, slots=True)
class _Way:
    """What a rung means here for one k.

    Args:
        index: what is scanned.
        num_scanned: items that the scan finds.
        rescorer: what scores them again.
        stages: the width that each stage finds scored, the width that it scores at, and how many it leaves.
    """

    index: Index
    num_scanned: int
    rescorer: Rescorer
    stages: tuple[tuple[int, int, int], ...]


class Searcher:
    """Answers queries at any rung; safe for concurrent searches: all that changes is what is known of rungs.

    Args:
        store_ND: float32, C-contiguous, unit rows: the one full-width copy of the item vectors.
        widths: the trained widths.
        indexes: by what they are.
        stores: what candidates are scored from, by code; float32 among them, which is ``store_ND`` itself.
    """

    def __init__(
        self,
        store_ND: Float[np.ndarray, "items full"],
        *,
        widths: WidthLadder,
        indexes: Mapping[IndexSpec, Index],
        stores: Mapping[StoreCode, Store],
    ) -> None:
        check_shape(store_ND, widths)
        self.widths = widths
        self.store_ND = store_ND
        self.indexes = dict(indexes)
        self.stores = dict(stores)
        self._rescorers = {code: Rescorer(store, widths=widths) for code, store in stores.items()}
        self._ways: dict[tuple[str, int], _Way] = {}

    @property
    def num_items(self) -> int:
        """Items in the catalogue."""
        return len(self.store_ND)

    def supports(self, spec: RungSpec) -> bool:
        """Whether there is an index for the rung, and the store that it reads."""
        return spec.index in self.indexes and spec.store in self.stores

    def only(self, specs: Sequence[RungSpec]) -> Searcher:
        """Return a searcher with what these rungs need and no more; it shares everything with this one."""
        kept, codes = {spec.index for spec in specs}, {"float32", *(spec.store for spec in specs)}
        return Searcher(
            self.store_ND,
            widths=self.widths,
            indexes={spec: index for spec, index in self.indexes.items() if spec in kept},
            stores={code: store for code, store in self.stores.items() if code in codes},
        )

    def size_bytes(self, spec: RungSpec) -> int:
        """Bytes that a search at the rung may read: its index, and the store and norms where those are read too."""
        size = self.indexes[spec.index].size_bytes
        whole = spec.engine == "exact" and spec.width == self.widths.full and not spec.levels
        if spec.depth or whole or spec.engine == "certified":
            size += self.stores[spec.store].size_bytes
        if spec.depth:
            # Prefixes' norms undo the scan's scaling, where its scores are of use, and scale those of the funnel.
            read = {width for width, _ in spec.funnel} | ({spec.width} if self._known_width(spec) else set())
            size += sum(norm_N.nbytes for width, norm_N in self.stores[spec.store].norm_of.items() if width in read)
        return size

    def search(
        self,
        query_BU: np.ndarray,
        *,
        k: int,
        rung: RungSpec,
        allowed: ItemSet | None = None,
        deadline: Deadline | None = None,
    ) -> SearchResult:
        """Return each query's best items at a rung.

        A rung that scores candidates again scans for at least ``k`` of them, and for as many as its first stage takes,
        with the query of its width; each stage scores with the query of its own. An exact or certified rung finds ``k``
        items whenever that many are allowed; others find as many as their effort reaches.

        Args:
            query_BU: ``(batch, query size)`` float32 unit vectors, as `recsys.widths.unit_queries` gives them.
            k: items to return per query, at least 1.
            rung: how to search.
            allowed: what queries of the batch may get, None for everything.
            deadline: by when an inverted file has to have ended, with fewer cells if need be; others do all they
                have to. With time to spare nothing is done otherwise than without one.

        Raises:
            WidthError: the queries are not of the query size, not finite or not unit vectors, what is to be scaled at
                one of the rung's widths is all zeros, or such a width was not trained.
            RequestError: ``k`` is out of range, ``allowed`` is of another catalogue, or the bundle has no index for the
                rung.
        """
        self._check_question(query_BU, k=k, allowed=allowed)
        way = self._ways.get((rung.name, k)) or self._way(rung, k)
        started = time.perf_counter()
        if deadline is not None and isinstance(way.index, IvfIndex) and not deadline.spare:
            found = way.index.search_until(
                query_BU, way.num_scanned, effort=rung, allowed=allowed, until_s=deadline.scan_until_s
            )
        else:
            found = way.index.search(query_BU, way.num_scanned, effort=rung, allowed=allowed)
        rows_BC, scores_BC = found.rows_BC, found.scores_BC
        if not way.stages:  # a stage does so itself
            scores_BC[rows_BC == NOTHING] = -np.inf
        scanned = time.perf_counter()
        for known, width, kept in way.stages:
            rows_BC, scores_BC = way.rescorer.best(
                query_BU, rows_BC, scores_BC, known=known, width=width, num=min(kept, rows_BC.shape[1])
            )
        rows_BK, scores_BK = _pad(rows_BC, scores_BC, k)
        finished = time.perf_counter()
        return SearchResult(
            rows_BK,
            scores_BK,
            scan_ms=1e3 * (scanned - started),
            rerank_ms=1e3 * (finished - scanned),
            touched_share=found.touched_share,
            done_share=found.done_share,
        )

    def score_all(
        self, query_BU: np.ndarray, *, k: int, allowed: ItemSet, deadline: Deadline | None = None
    ) -> SearchResult:
        """Return each query's best allowed items at full width, from the scores of all of them.

        With a deadline, of as many as there is time for, in the order of their rows; of some in any case.

        Raises:
            WidthError: the queries are not what `search` takes.
            RequestError: ``k`` is out of range, or ``allowed`` is of another catalogue.
        """
        self._check_question(query_BU, k=k, allowed=allowed)
        started = time.perf_counter()
        if deadline is None or deadline.spare:
            pace = Pace(len(allowed), first=len(allowed), until_s=math.inf)
        else:
            pace = Pace(len(allowed), first=_FIRST_SCORED, until_s=deadline.until_s)
        rows_BK = np.full((len(query_BU), k), NOTHING, dtype=np.int64)
        scores_BK = np.full(rows_BK.shape, -np.inf, dtype=np.float32)
        while part := pace.next():
            some_BC, score_BC = self._best_of(query_BU, allowed.rows[part], k)
            rows_BK, scores_BK = (
                (some_BC, score_BC) if not part.start else _merged(rows_BK, scores_BK, some_BC, score_BC)
            )
        scan_ms = 1e3 * (time.perf_counter() - started)
        return SearchResult(
            rows_BK, scores_BK, scan_ms=scan_ms, rerank_ms=0.0, num_scored=pace.done, done_share=pace.share
        )

    def score(
        self, query_BU: Float[np.ndarray, "batch query"], rows_BC: Int64[np.ndarray, "batch candidates"]
    ) -> Float[np.ndarray, "batch candidates"]:
        """Return full-width cosines of unit queries with chosen items, minus infinity where a row is `NOTHING`.

        Reads the rows where they lie: no copy of the candidates' vectors is made.
        """
        query_BD = checked_query_at(query_BU, self.widths.full, self.widths)
        return products_with_rows(query_BD, self.store_ND, rows_BC)

    def _best_of(self, query_BU: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return each query's best of the same rows by scores at full width."""
        rows_BC = np.broadcast_to(rows, (len(query_BU), len(rows)))
        scores_BC = np.full(rows_BC.shape, -np.inf, dtype=np.float32)
        rows_BC, scores_BC = self._rescorers["float32"].best(
            query_BU, rows_BC, scores_BC, known=0, width=self.widths.full, num=min(k, len(rows))
        )
        return _pad(rows_BC, scores_BC, k)

    def _way(self, rung: RungSpec, k: int) -> _Way:
        """Return how a rung finds k items, which is found out once; or raise what `search` does of the rung."""
        self._check_rung(rung)
        widths = [width for width, _ in rung.funnel] + ([self.widths.full] if rung.rerank else [])
        taken = [depth for _, depth in rung.funnel] + ([rung.rerank] if rung.rerank else [])
        kept = [max(k, left) for left in [*taken[1:], k][: len(widths)]]
        known = [self._known_width(rung), *widths]
        way = _Way(
            index=self.indexes[rung.index],
            num_scanned=min(_num_scanned(k, rung), self.num_items),
            rescorer=self._rescorers[rung.store],
            stages=tuple(zip(known, widths, kept, strict=False)),
        )
        if len(self._ways) < _MOST_WAYS:
            self._ways[rung.name, k] = way
        return way

    def _known_width(self, rung: RungSpec) -> int:
        """Return the width at which the scan's scores are exact and the beginning of wider ones, 0 for none."""
        return rung.width if rung.code == "float32" and self.widths.head == "tied" else 0

    def _check_rung(self, rung: RungSpec) -> None:
        for width in (rung.width, rung.routing_width, *(width for width, _ in rung.funnel)):
            self.widths.require(width)
        if rung.funnel and rung.funnel[-1][0] == self.widths.full:
            raise RequestError("rung", f"got {rung.name}, expected a funnel below the full width, which rerank is for")
        if not self.supports(rung):
            have = sorted(index.name for index in self.indexes), sorted(self.stores)
            raise RequestError("rung", f"got {rung.name}, expected one of indexes {have[0]} and stores {have[1]}")

    def _check_question(self, query_BU: np.ndarray, *, k: int, allowed: ItemSet | None) -> None:
        check_queries(query_BU, self.widths)
        if k < 1:
            raise RequestError("k", f"got {k}, expected at least 1")
        if allowed is not None and allowed.num_items != self.num_items:
            raise RequestError("allowed", f"got a set of {allowed.num_items} items, expected one of {self.num_items}")


def _num_scanned(k: int, rung: RungSpec) -> int:
    """Return how many items to scan for: those that are scored again, but enough that k come of them."""
    least = enough_candidates(k) if rung.engine == "ivf" and rung.depth else k
    return max(least, rung.depth)


def use_one_thread() -> None:
    """Make FAISS search on the calling thread alone.

    OpenMP's thread count belongs to each calling thread: call it in the initialiser of a thread pool, so that the
    pool's size is the number of threads that compute. More of those than cores ruins the tail of the latency.
    """
    faiss.omp_set_num_threads(1)


def _merged(
    rows_BK: np.ndarray, scores_BK: np.ndarray, more_BK: np.ndarray, score_BK: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best of two answers of the same size to the same queries, ties by row; `NOTHING` stays at the end."""
    k = rows_BK.shape[1]
    rows_BC, scores_BC = np.concatenate([rows_BK, more_BK], axis=1), np.concatenate([scores_BK, score_BK], axis=1)
    order_BK = np.lexsort((rows_BC, -scores_BC), axis=1)[:, :k]
    return np.take_along_axis(rows_BC, order_BK, axis=1), np.take_along_axis(scores_BC, order_BK, axis=1)


def _pad(rows_BC: np.ndarray, scores_BC: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    short = k - rows_BC.shape[1]
    if not short:
        return rows_BC, scores_BC
    if short < 0:
        return rows_BC[:, :k], scores_BC[:, :k]
    wider = ((0, 0), (0, short))
    return np.pad(rows_BC, wider, constant_values=NOTHING), np.pad(scores_BC, wider, constant_values=-np.inf)
