"""Exact search at full width that reads only as much of each item as it takes to rule it out.

The inner product of a query with an item is that of their prefixes plus that of what is left, which is at most the
product of the norms of what is left (Cauchy-Schwarz, as in Panorama, arXiv 2510.00566). An item whose bound is below the
k-th best score so far is left there, at whichever trained width that happens. Each block of columns is stored on its
own, so what is not needed is not read either; the first block lies transposed, 16 items side by side, for vector units.

Items lie cell by cell, and each query begins with the cells nearest to it: good items early make high bars. The order
never changes the answer.

No item is lost to rounding. Sums of D float32 products of vectors of norms a and b are off by at most D u a b, u = 2^-24
(Higham, Accuracy and Stability of Numerical Algorithms, 3.1), whatever the order of summing. Norms are rounded up, and an
item is left only if its bound is below the bar by more than four such errors: then no order of summing could have
put it among the best. Ties go to the lower row, as everywhere.

Shapes: ``query_BD`` (batch, full width), ``row_P`` (places), ``tail_TP`` (bounds per item, places), ``start_C1`` (cells
+ 1,), ``block_X`` all blocks one after another; a place is an item or padding, which fills cells up to multiples of 16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numba import types

from recsys.errors import ArtifactError, ConfigError
from recsys.index.cells import Cells
from recsys.index.checks import checked_query_at
from recsys.index.compiled import array, compiled, offer, part, sort_heap
from recsys.index.engines.protocol import Excluded, Found
from recsys.index.exact import NOTHING
from recsys.index.specs import IndexSpec, RungSpec
from recsys.index.store import map_tensors, save_tensors
from recsys.widths import WidthLadder

_LANES = 16
_NUM_FIRST_CELLS = 32
_UNIT_ROUNDOFF = 2.0**-24
_LARGEST_NORM = 1.001
_UP = 1 + 2.0**-20
_NOBODY = np.empty(0, dtype=np.int64)
_NAMES = ["rows", "starts", "tails", "blocks"]


class CertifiedIndex:
    """Finds the exact best items at full width.

    Args:
        spec: engine ``certified``, of full width.
        cells: at its routing width.
        tensors: ``rows``, ``starts``, ``tails`` and ``blocks``, as `build` lays them out.
        widths: the trained widths.
    """

    def __init__(
        self, spec: IndexSpec, *, cells: Cells, tensors: dict[str, np.ndarray], widths: WidthLadder
    ) -> None:
        self.spec = spec
        self.cells = cells
        self._tensors = tensors
        self._widths = widths
        self._edges = np.array([0, *widths], dtype=np.int64)

    @classmethod
    def build(
        cls, spec: IndexSpec, store_ND: np.ndarray, *, cells: Cells, cell_N: np.ndarray, widths: WidthLadder
    ) -> CertifiedIndex:
        """Lay the vectors out by cell and block.

        Raises:
            ConfigError: the index is not of full width.
        """
        if spec.width != widths.full:
            raise ConfigError(f"{spec.name}: width: got {spec.width}, expected the full width {widths.full}")
        row_P, start_C1 = _places(cell_N, num_cells=cells.key[1])
        placed_PD = np.where((row_P != NOTHING)[:, None], store_ND[row_P], np.float32(0))
        first, *later = (placed_PD[:, block] for block in widths.blocks)
        lanes = first.reshape(-1, _LANES, first.shape[1]).transpose(0, 2, 1)
        tensors = {
            "rows": row_P,
            "starts": start_C1,
            "tails": _tail_norms(placed_PD, widths),
            "blocks": np.concatenate([np.ascontiguousarray(block).ravel() for block in (lanes, *later)]),
        }
        return cls(spec, cells=cells, tensors=tensors, widths=widths)

    @classmethod
    def load(
        cls, folder: Path, spec: IndexSpec, store_ND: np.ndarray, *, cells: Cells, widths: WidthLadder
    ) -> CertifiedIndex:
        """Open what `save` wrote for these vectors, or raise `ArtifactError`."""
        path = folder / f"{spec.name}.safetensors"
        tensors, _ = map_tensors(path, names=_NAMES)
        places = len(tensors["rows"])
        wanted = {"rows": (places,), "starts": (cells.key[1] + 1,), "tails": (len(widths) - 1, places)}
        for name, shape in (wanted | {"blocks": (places * widths.full,)}).items():
            if tensors[name].shape != shape:
                raise ArtifactError(f"{path}: {name}: got shape {tensors[name].shape}, expected {shape}")
        if (num := int((tensors["rows"] != NOTHING).sum())) != len(store_ND):
            raise ArtifactError(f"{path}: items: got {num}, expected {len(store_ND)}")
        return cls(spec, cells=cells, tensors=tensors, widths=widths)

    @property
    def size_bytes(self) -> int:
        """Bytes of vectors, norms, rows and cells."""
        return sum(tensor.nbytes for tensor in self._tensors.values()) + self.cells.size_bytes

    def search(self, query_BU: np.ndarray, num: int, *, effort: RungSpec, excluded: Excluded | None) -> Found:
        """Find the exact best items; counts what it reads."""
        query_BD = checked_query_at(query_BU, effort.width, self._widths)
        rows_BK = np.full((len(query_BD), num), NOTHING, dtype=np.int64)
        scores_BK = np.full((len(query_BD), num), -np.inf, dtype=np.float32)
        num_read = _search(
            query_BD,
            self.cells.nearest(query_BU, _NUM_FIRST_CELLS)[0],
            self._edges,
            *(self._tensors[name] for name in _NAMES),
            _NOBODY if excluded is None else excluded.rows,
            4 * self._widths.full * _UNIT_ROUNDOFF * _LARGEST_NORM**2,
            rows_BK,
            scores_BK,
        )
        num_all = max(1, len(query_BD)) * len(self._tensors["rows"]) * self._widths.full
        return Found(rows_BK, scores_BK, touched_share=num_read / num_all)

    def save(self, folder: Path) -> None:
        """Write the layout; the cells have a file of their own."""
        save_tensors(self._tensors, folder / f"{self.spec.name}.safetensors")


def _places(cell_N: np.ndarray, *, num_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the row at each place and the place where each cell begins, cells filled up to whole lanes."""
    size_C = np.bincount(cell_N, minlength=num_cells)
    start_C1 = np.concatenate([[0], np.cumsum(-(-size_C // _LANES) * _LANES)])
    order_N = np.argsort(cell_N, kind="stable")
    within_N = np.arange(len(cell_N)) - np.repeat(np.cumsum(size_C) - size_C, size_C)
    row_P = np.full(start_C1[-1], NOTHING, dtype=np.int64)
    row_P[start_C1[cell_N[order_N]] + within_N] = order_N
    return row_P, start_C1.astype(np.int64)


def _tail_norms(placed_PD: np.ndarray, widths: WidthLadder) -> np.ndarray:
    """Return the norms of what lies beyond each width but the full one, rounded up."""
    tails = [np.linalg.norm(placed_PD[:, width:].astype(np.float64), axis=1) for width in widths.widths[:-1]]
    tail_TP = np.array(tails).reshape(len(tails), len(placed_PD)).astype(np.float32)
    return np.nextafter(tail_TP, np.float32(np.inf))


@part
def _reaches(query_D: Any, edge_L1: Any, reach: Any) -> None:
    """Write the norm of what is left of the query at each edge, rounded up."""
    square = 0.0
    reach[len(edge_L1) - 1] = 0.0
    for level in range(len(edge_L1) - 2, -1, -1):
        for column in range(edge_L1[level], edge_L1[level + 1]):
            square += float(query_D[column]) * float(query_D[column])
        reach[level] = np.float32(np.sqrt(square) * _UP)


@part
def _search_group(
    query_D: Any,
    group: int,
    edge_L1: Any,
    reach: Any,
    row_P: Any,
    tail_TP: Any,
    block_X: Any,
    excluded: Any,
    slack: float,
    rows_K: Any,
    scores_K: Any,
    score_16: Any,
) -> int:
    """Score 16 places block by block; return how many coordinates were read."""
    num_levels, width = len(edge_L1) - 1, edge_L1[1]
    score_16[:] = 0
    base = group * width
    for column in range(width):
        weight = query_D[column]
        for lane in range(_LANES):
            score_16[lane] += weight * block_X[base + column * _LANES + lane]
    num_read = width * _LANES
    for lane in range(_LANES):
        place, score = group + lane, score_16[lane]
        level = 1
        while level < num_levels and score + reach[level] * tail_TP[level - 1, place] >= scores_K[0] - slack:
            score += _block_product(query_D, block_X, place, edge_L1[level], edge_L1[level + 1], len(row_P))
            num_read += edge_L1[level + 1] - edge_L1[level]
            level += 1
        row = row_P[place]
        if level == num_levels and row >= 0 and not _holds(excluded, row):
            offer(score, row, scores_K, rows_K)
    return num_read


@part
def _block_product(query_D: Any, block_X: Any, place: int, start: int, stop: int, num_places: int) -> Any:
    base = num_places * start + place * (stop - start)
    total = np.float32(0)
    for column in range(stop - start):
        total += query_D[start + column] * block_X[base + column]
    return total


@part
def _holds(sorted_rows: Any, row: int) -> bool:
    place = np.searchsorted(sorted_rows, row)
    return place < len(sorted_rows) and sorted_rows[place] == row


_FLOATS, _WHOLES = array(types.float32, 1), array(types.int64, 1)


@compiled(
    types.int64(
        array(types.float32, 2),
        array(types.int64, 2),
        _WHOLES,
        _WHOLES,
        _WHOLES,
        array(types.float32, 2),
        _FLOATS,
        _WHOLES,
        types.float64,
        array(types.int64, 2, writable=True),
        array(types.float32, 2, writable=True),
    )
)
def _search(
    query_BD: np.ndarray,
    first_BF: np.ndarray,
    edge_L1: np.ndarray,
    row_P: np.ndarray,
    start_C1: np.ndarray,
    tail_TP: np.ndarray,
    block_X: np.ndarray,
    excluded: np.ndarray,
    slack: float,
    rows_BK: np.ndarray,
    scores_BK: np.ndarray,
) -> int:
    num_read, num_cells = 0, len(start_C1) - 1
    reach = np.empty(len(edge_L1), dtype=np.float32)  # norms of what is left of the query, rounded up
    score_16 = np.empty(_LANES, dtype=np.float32)
    for query in range(len(query_BD)):
        _reaches(query_BD[query], edge_L1, reach)
        visited = np.zeros(num_cells, dtype=np.bool_)
        for turn in range(first_BF.shape[1] + num_cells):
            cell = first_BF[query, turn] if turn < first_BF.shape[1] else turn - first_BF.shape[1]
            if visited[cell]:
                continue
            visited[cell] = True
            for group in range(start_C1[cell], start_C1[cell + 1], _LANES):
                num_read += _search_group(
                    query_BD[query],
                    group,
                    edge_L1,
                    reach,
                    row_P,
                    tail_TP,
                    block_X,
                    excluded,
                    slack,
                    rows_BK[query],
                    scores_BK[query],
                    score_16,
                )
        sort_heap(scores_BK[query], rows_BK[query])
    return num_read
