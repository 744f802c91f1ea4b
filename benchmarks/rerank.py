"""What scoring candidates again costs: our kernel, FAISS's own ways and NumPy, on the same rows of the same vectors.

One thread, one query at a time, candidates drawn anew for every call, so that vectors come from memory as they do
in a server. All ways answer every query before the next one comes, in an order drawn each time; p50 over queries. The
vectors are simulated: scoring costs the same whatever they are.

Shapes: ``item_ND`` (items, width), ``query_QD`` (queries, width), ``rows_1C`` (1, candidates).
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._harness import finish, parser
from recsys.index.rerank import Rescorer
from recsys.index.store import make_store, prefix_norms
from recsys.index.timing import undisturbed
from recsys.widths import WidthLadder, truncate

_WIDTHS = WidthLadder((16, 32, 64, 128, 256))
_K = 100
Way = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""From a query (1, D), candidates (1, C) and their scores at the known width to the best rows."""


def main() -> None:
    """Time every way."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--items", type=int, help="items of the store (500,000; 20,000 if --quick)")
    arguments.add_argument("--candidates", type=int, default=1000, help="scored per query (1,000)")
    arguments.add_argument("--queries", type=int, help="calls of each way (300; 20 if --quick)")
    given = arguments.parse_args()
    num_items = given.items or (20_000 if given.quick else 500_000)
    num_queries = given.queries or (20 if given.quick else 300)
    random = np.random.default_rng(1)
    item_ND, query_QD = (
        np.ascontiguousarray(truncate(random.standard_normal((num, 256), dtype=np.float32), 256, _WIDTHS))
        for num in (num_items, num_queries)
    )
    ms_p50 = _time(_ways(item_ND), query_QD, random, num_items=num_items, num_candidates=given.candidates)
    _print(ms_p50, given.candidates)
    figures = {"num_items": num_items, "num_candidates": given.candidates, "width": 256, "k": _K, "p50_ms": ms_p50}
    finish("rerank", figures | {"quick": given.quick}, record=given.record)


def _ways(item_ND: np.ndarray) -> dict[str, Way]:
    norm_of = prefix_norms(item_ND, _WIDTHS)
    ways: dict[str, Way] = {}
    for code in ("float32", "fp16", "sq8"):
        rescorer = Rescorer(make_store(item_ND, code, norm_of=norm_of), widths=_WIDTHS)
        for known in (0, 64, 128):
            ways[f"{code}, {known or 'nothing'} known"] = _rescore(rescorer, known)
    ways["NumPy"] = _numpy(item_ND)
    ways["FAISS by rows, then NumPy"] = _faiss_by_rows(item_ND)
    flat = faiss.IndexFlatIP(256)
    flat.add(item_ND)
    ways["FAISS compute_distance_subset, then NumPy"] = _faiss_subset(flat)
    return ways


def _rescore(rescorer: Rescorer, known: int) -> Way:
    def best(query_1D: np.ndarray, rows_1C: np.ndarray, scores_1C: np.ndarray) -> np.ndarray:
        return rescorer.best(query_1D, rows_1C, scores_1C, known=known, width=256, num=_K)[0]

    return best


def _numpy(item_ND: np.ndarray) -> Way:
    def best(query_1D: np.ndarray, rows_1C: np.ndarray, _scores_1C: np.ndarray) -> np.ndarray:
        return _top(rows_1C, item_ND[rows_1C[0]] @ query_1D[0])

    return best


def _faiss_by_rows(item_ND: np.ndarray) -> Way:
    def best(query_1D: np.ndarray, rows_1C: np.ndarray, _scores_1C: np.ndarray) -> np.ndarray:
        scores_1C = np.empty(rows_1C.shape, dtype=np.float32)
        arrays = (faiss.swig_ptr(array) for array in (scores_1C, query_1D, item_ND, rows_1C))
        faiss.fvec_inner_products_by_idx(*arrays, 256, *rows_1C.shape)  # type: ignore[attr-defined]
        return _top(rows_1C, scores_1C[0])

    return best


def _faiss_subset(index: Any) -> Way:
    def best(query_1D: np.ndarray, rows_1C: np.ndarray, _scores_1C: np.ndarray) -> np.ndarray:
        scores_1C = np.empty(rows_1C.shape, dtype=np.float32)
        query, scores, rows = (faiss.swig_ptr(array) for array in (query_1D, scores_1C, rows_1C))
        index.compute_distance_subset(1, query, rows_1C.shape[1], scores, rows)
        return _top(rows_1C, scores_1C[0])

    return best


def _top(rows_1C: np.ndarray, scores_C: np.ndarray) -> np.ndarray:
    best_K = np.argpartition(scores_C, -_K)[-_K:]
    rows: np.ndarray = rows_1C[:, best_K[np.lexsort((rows_1C[0, best_K], -scores_C[best_K]))]]
    return rows


def _time(
    ways: dict[str, Way], query_QD: np.ndarray, random: np.random.Generator, *, num_items: int, num_candidates: int
) -> dict[str, float]:
    names = list(ways)
    ms_QW = np.empty((len(query_QD), len(names)))
    scores_1C = np.zeros((1, num_candidates), dtype=np.float32)
    with undisturbed():
        for query in range(len(query_QD)):
            for place in random.permutation(len(names)):
                rows_1C = random.integers(num_items, size=(1, num_candidates))
                started = perf_counter()
                ways[names[place]](query_QD[query : query + 1], rows_1C, scores_1C)
                ms_QW[query, place] = 1e3 * (perf_counter() - started)
    return {name: float(ms) for name, ms in zip(names, np.median(ms_QW, axis=0), strict=True)}


def _print(ms_p50: dict[str, float], num_candidates: int) -> None:
    table = Table("way", "ms", title=f"{num_candidates} candidates at 256-d, best {_K}")
    for name, ms in sorted(ms_p50.items(), key=lambda entry: entry[1]):
        table.add_row(name, f"{ms:.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()
