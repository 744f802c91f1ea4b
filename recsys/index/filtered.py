"""Searches that may return only some items, and return k of them wherever there are k.

A rung was measured without a filter. Of the items that a filter leaves, the best k lie as far from the query as the
best ``k / share`` of all, so an inverted file scans that many more cells (a graph keeps a list that much longer), which
keeps the rung's overlap about as it was measured. Where that reads more than to score each allowed item at full width,
the allowed items are all scored, which is exact. A filter that leaves most items leaves the rung the first attempt
whatever it reads. Where too little was found, twice the cells are scanned while that is the cheaper way.

With a deadline each of these ways stops in time, and what was found until then is returned, fewer than k if need be.

Shapes: ``query_BU`` (batch, query size), ``rows_BC`` (batch, candidates).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from jaxtyping import Float
from numpy import count_nonzero, ndarray

from recsys.index.cells import num_cells
from recsys.index.deadline import Deadline
from recsys.index.exact import NOTHING
from recsys.index.item_set import ItemSet
from recsys.index.searcher import Searcher, SearchResult
from recsys.index.specs import RungSpec

_SCATTERED = 2
"""What a column of an item that lies anywhere costs, in columns that are read one after another."""
_ASKED = 20
"""What it costs to ask whether an item is allowed, in the same columns."""
_LINKS = 64
"""Items that a walk over a graph scores for each that it keeps."""
_NO_TIME = (0.0, 0.0)


def search_filtered(
    searcher: Searcher,
    query_BU: Float[ndarray, "batch query"],
    *,
    k: int,
    rung: RungSpec,
    allowed: ItemSet,
    deadline: Deadline | None = None,
) -> SearchResult:
    """Return each query's best allowed items: ``k`` of them, or all where there are fewer.

    Where the allowed items were scored one by one, ``num_scored`` says how many, the answer is exact (of those that
    there was time for) and its scores are those at full width, whatever the rung. Times are those of all attempts
    together; more than one is made only where the first finds too little.

    Args:
        searcher: what to search with.
        query_BU: as `Searcher.search` takes them.
        k: items to return per query, at least 1.
        rung: how to search where that is cheaper.
        allowed: what may be returned.
        deadline: by when to have ended, as the rung does without a filter; where that cut something short,
            ``done_share`` is less than 1.

    Raises:
        WidthError, RequestError: as `Searcher.search`.
    """
    best, spent_ms = None, _NO_TIME
    num_allowed, num_items = len(allowed), searcher.num_items
    mostly, wanted = 2 * num_allowed > num_items, min(k, num_allowed)
    # What a rung usually takes was measured with the few items left out that somebody has seen, if with any.
    usual_allowed = num_items - (num_allowed < num_items)
    all_columns = _SCATTERED * num_allowed * searcher.widths.full
    for effort in _efforts(rung, wanted, num_allowed, num_items):
        given = deadline
        if not (mostly and effort is rung):  # that reads about as much as ever
            columns = _columns(effort, searcher, num_allowed)
            if num_allowed < num_items and not (mostly and best is None) and all_columns <= columns:
                break
            if deadline is not None:
                given = deadline.times(columns / _columns(rung, searcher, usual_allowed))
        result = searcher.search(
            query_BU, k=k, rung=effort, allowed=None if num_allowed == num_items else allowed, deadline=given
        )
        # What is not there is at the end.
        enough = result.done_share < 1 or not wanted or NOTHING not in result.rows_BK[:, wanted - 1].tolist()
        if enough and best is None:
            return result
        spent_ms = spent_ms[0] + result.scan_ms, spent_ms[1] + result.rerank_ms
        best = _fuller(best, result)
        if enough:
            return replace(best, scan_ms=spent_ms[0], rerank_ms=spent_ms[1])
    if deadline is not None:
        deadline = deadline.times(all_columns / _columns(rung, searcher, usual_allowed))
    result = searcher.score_all(query_BU, k=k, allowed=allowed, deadline=deadline)
    spent_ms = spent_ms[0] + result.scan_ms, spent_ms[1]
    best = result if result.done_share == 1 else _fuller(best, result)
    return replace(best, scan_ms=spent_ms[0], rerank_ms=spent_ms[1])


def _num_found(result: SearchResult) -> int:
    return int(count_nonzero(result.rows_BK != NOTHING))


def _fuller(before: SearchResult | None, after: SearchResult) -> SearchResult:
    """Return the answer that holds more, the later one of two; how much of it was done is the later one's share."""
    if before is None or _num_found(after) >= _num_found(before):
        return after
    return replace(before, done_share=after.done_share)


def _efforts(rung: RungSpec, wanted: int, num_allowed: int, num_items: int) -> Iterator[RungSpec]:
    """Yield the rung with the effort that a filter takes, then with twice the cells each time until all are scanned."""
    growth = num_items / max(1, num_allowed)
    if rung.engine == "ivf":
        most = rung.cells or num_cells(num_items)
        # In cells of one size, `most * wanted / num_allowed` of them hold as many allowed items as are wanted.
        least = max(rung.nprobe, math.ceil(most * wanted / max(1, num_allowed)))
        nprobe = min(most, max(least, round(rung.nprobe * growth)))
        yield rung if nprobe == rung.nprobe else replace(rung, nprobe=nprobe)
        while nprobe < most:
            nprobe = min(2 * nprobe, most)
            yield replace(rung, nprobe=nprobe)
    elif rung.engine == "hnsw":
        yield replace(rung, ef=min(num_items, max(rung.ef, round(rung.ef * growth))))
    else:
        yield rung


def _columns(rung: RungSpec, searcher: Searcher, num_allowed: int) -> float:
    """Return about how many columns of items a search of the index reads where only some items are allowed."""
    num_items = searcher.num_items
    share, asked = num_allowed / num_items, _ASKED if num_allowed < num_items else 0
    if rung.engine == "ivf":
        cells = rung.cells or num_cells(num_items)
        scanned = cells * rung.routing_width + num_items * min(1.0, rung.nprobe / cells) * (asked + share * rung.width)
    elif rung.engine == "hnsw":
        scanned = min(_LINKS * rung.ef, num_items) * rung.width
    else:
        width = rung.routing_width if rung.engine == "certified" else rung.width
        scanned = num_items * (asked + share * width)
    return scanned + _SCATTERED * searcher.widths.full * min(rung.depth, num_allowed)
