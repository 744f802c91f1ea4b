"""Searches that may return only some items, and return k of them wherever there are k.

A rung finds what its effort reaches. Where few items are allowed that may be less than k, or cost more than to score
each of them; so what an attempt reads is compared with what scoring all allowed items at full width reads. While the
index reads less, it is searched, an inverted file with twice the cells each time that too little was found; when it
no longer does, the allowed items are all scored, which is exact.

Shapes: ``query_BU`` (batch, query size), ``rows_BC`` (batch, candidates).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from jaxtyping import Float
from numpy import ndarray

from recsys.index.cells import num_cells
from recsys.index.exact import NOTHING
from recsys.index.item_set import ItemSet
from recsys.index.searcher import Searcher, SearchResult
from recsys.index.specs import RungSpec

_SCATTERED = 2
"""What a column of an item that lies anywhere costs, in columns that are read one after another."""
_LINKS = 64
"""Items that a walk over a graph scores for each that it keeps."""


def search_filtered(
    searcher: Searcher, query_BU: Float[ndarray, "batch query"], *, k: int, rung: RungSpec, allowed: ItemSet
) -> SearchResult:
    """Return each query's best allowed items: ``k`` of them, or all where there are fewer.

    Where the allowed items were scored one by one, ``num_scored`` says how many, the answer is exact and its scores are
    those at full width, whatever the rung. Times are those of all attempts together; more than one is made only where
    the rung alone finds too little, which then costs more than was measured for it.

    Args:
        searcher: what to search with.
        query_BU: as `Searcher.search` takes them.
        k: items to return per query, at least 1.
        rung: how to search where that is cheaper.
        allowed: what may be returned.

    Raises:
        WidthError, RequestError: as `Searcher.search`.
    """
    wanted, scan_ms, rerank_ms = min(k, len(allowed)), 0.0, 0.0
    unfiltered = len(allowed) == searcher.num_items
    for effort in _efforts(rung, searcher.num_items):
        if not unfiltered and _SCATTERED * len(allowed) * searcher.widths.full <= _columns(effort, searcher):
            break
        result = searcher.search(query_BU, k=k, rung=effort, allowed=None if unfiltered else allowed)
        scan_ms, rerank_ms = scan_ms + result.scan_ms, rerank_ms + result.rerank_ms
        if (result.rows_BK[:, :wanted] != NOTHING).all():
            return replace(result, scan_ms=scan_ms, rerank_ms=rerank_ms)
    result = searcher.score_all(query_BU, k=k, allowed=allowed)
    return replace(result, scan_ms=scan_ms + result.scan_ms, rerank_ms=rerank_ms)


def _efforts(rung: RungSpec, num_items: int) -> Iterator[RungSpec]:
    """Yield the rung, and with twice the cells each time until all are scanned."""
    yield rung
    while rung.engine == "ivf" and rung.nprobe < (most := rung.cells or num_cells(num_items)):
        rung = replace(rung, nprobe=min(2 * rung.nprobe, most))
        yield rung


def _columns(rung: RungSpec, searcher: Searcher) -> float:
    """Return about how many columns of items a search of the index reads."""
    num_items, full = searcher.num_items, searcher.widths.full
    if rung.engine == "ivf":
        cells = rung.cells or num_cells(num_items)
        scanned = cells * rung.routing_width + num_items * min(1.0, rung.nprobe / cells) * rung.width
    elif rung.engine == "hnsw":
        scanned = min(_LINKS * rung.ef, num_items) * rung.width
    else:
        scanned = num_items * (rung.routing_width if rung.engine == "certified" else rung.width)
    return scanned + _SCATTERED * full * min(rung.depth, num_items)
