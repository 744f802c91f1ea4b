"""Inverted files: cells of near vectors, of which a search scans the nearest few.

Three widths' worth of choice: cells are made and chosen at the routing width, their vectors are kept and scanned at the
index's width, in the index's code. Cells are chosen by `recsys.index.routing` and handed to FAISS
(``search_preassigned``), so routing may be narrower or wider than the scan, and a query with a head per width asks each
with its own vector.

RaBitQ (Gao and Long, arXiv 2405.12497) keeps one bit per coordinate of the difference from the cell's base, PQ 4 bits
for every 2 or 4 coordinates of it (`recsys.index.product_codes`). The base is the mean of the cell's vectors in bytes,
which is what a search reads of it. Both are scanned 32 at a time in registers ("fast scan"), with scores rounded to 16
bits: items that round to the lowest score of all are never found, which tells only where nearly every item is asked
for.

An item that is in two cells is found in either, and returned once. A scan for candidates may so return up to a fifth
less than it was asked for; one for answers does not.

With a deadline, cells are chosen once and then scanned nearest first, some at a time, into one heap per query, until
all are scanned or the time is up: what was found until then is the answer.

Shapes: ``vector_Nw`` (items, width), ``cell_N`` (items,), ``cell_BP`` (batch, probes).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from recsys.index import product_codes
from recsys.index.assignment import Assignment
from recsys.index.cells import Cells
from recsys.index.deadline import Pace
from recsys.index.engines.protocol import Found
from recsys.index.faiss_files import check_index, read_index, write_index
from recsys.index.item_set import ItemSet
from recsys.index.kernels import keep_each_once
from recsys.index.learned_cells import cell_means
from recsys.index.routing import Router
from recsys.index.specs import Code, IndexSpec, RungSpec
from recsys.index.store import decoded, make_store, prefixes
from recsys.widths import WidthLadder

_KINDS: dict[Code, Any] = {
    "float32": faiss.IndexIVFFlat,
    "fp16": faiss.IndexIVFScalarQuantizer,
    "sq8": faiss.IndexIVFScalarQuantizer,
    "rabitq": faiss.IndexIVFRaBitQFastScan,
    "pq2": faiss.IndexIVFPQFastScan,
    "pq4": faiss.IndexIVFPQFastScan,
}
_Parameters: Any = faiss.SearchParametersIVF
"""FAISS's Python layer takes arguments that its stubs do not know."""
_OF_DIFFERENCES: tuple[Code, ...] = ("rabitq", "pq2", "pq4")
_FAST_SCAN_BLOCK = 32
_PANORAMA_BLOCK = 64  # cells are filled up to whole blocks; by default to 1,024 items, more than most hold
_NEAREST_FIRST = 11
"""FAISS's number of the fast scan that takes each query's cells in their order, so that the bar of what is good enough
rises soon. Its own choice takes them by number, for many queries at a time; by hand it was a fifth slower for one."""
_FEW_REPEATS, _MANY_REPEATS = 8, 2
"""One more vector is found for so many: of candidates, and of answers, of which none may be missing. Where that was too
few, the scan is repeated for as many more as can be found twice."""
_FIRST = 8
"""Cells that are scanned whatever the time."""


class IvfIndex:
    """Scans the nearest cells.

    Args:
        spec: engine ``ivf``.
        cells: at its routing width.
        index: the FAISS index of the cells' vectors.
        num_items: how many items there are, which is fewer than vectors where some are in a second cell.
        widths: the trained widths.
    """

    def __init__(self, spec: IndexSpec, *, cells: Cells, index: Any, num_items: int, widths: WidthLadder) -> None:
        self.spec = spec
        self.cells = cells
        self._index = index
        if isinstance(index, faiss.IndexIVFFastScan):
            index.implem = _NEAREST_FIRST
        self._num_items, self._num_twice = num_items, int(index.ntotal) - num_items
        self._lists_bytes = _lists_bytes(index)
        self._group = _group(spec.code)
        of_differences = spec.code in _OF_DIFFERENCES
        self._router = Router(
            cells,
            width=spec.width,
            widths=widths,
            order_w=product_codes.order(spec.width, self._group) if self._group else None,
            base_Cw=index.quantizer.reconstruct_n(0, cells.key[1]) if of_differences else None,
        )

    @classmethod
    def build(
        cls, spec: IndexSpec, store_ND: np.ndarray, *, cells: Cells, assignment: Assignment, widths: WidthLadder
    ) -> IvfIndex:
        """Encode the vectors into their cells."""
        vector_Nw, group = prefixes(store_ND, spec.width, widths), _group(spec.code)
        mean_Cw = cell_means(vector_Nw, assignment.cell_N, num=cells.key[1])
        mean_Cw = decoded(make_store(mean_Cw, "sq8", norm_of={}), slice(None))
        if group:
            index = product_codes.build(vector_Nw, mean_Cw, assignment, group=group)
            return cls(spec, cells=cells, index=index, num_items=len(store_ND), widths=widths)
        bases: Any = faiss.IndexFlatIP(spec.width)
        bases.add(mean_Cw)
        index = _empty(spec, bases, cells.key[1])
        index.train(vector_Nw)
        for rows, in_cells in assignment.pages():
            vector_Pw = vector_Nw[rows]
            index.add_core(len(rows), *map(faiss.swig_ptr, (vector_Pw, rows, in_cells)))
        if spec.code == "rabitq":
            index = faiss.IndexIVFRaBitQFastScan(index, _FAST_SCAN_BLOCK)
        bases.this.disown()
        index.own_fields = True
        return cls(spec, cells=cells, index=index, num_items=len(store_ND), widths=widths)

    @classmethod
    def load(cls, folder: Path, spec: IndexSpec, *, num_items: int, cells: Cells, widths: WidthLadder) -> IvfIndex:
        """Open what `save` wrote, or raise `ArtifactError`."""
        path = folder / f"{spec.name}.faiss"
        index, group = read_index(path), _group(spec.code)
        if group:
            index = product_codes.without_order(path, index, group=group)
        others: dict[str, tuple[object, object]] = {}
        if isinstance(index, faiss.IndexIVF):
            others["cells"] = int(index.nlist), cells.key[1]
        if spec.levels and isinstance(index, faiss.IndexIVFFlatPanorama):
            others["levels"] = int(index.n_levels), spec.levels
        if isinstance(index, faiss.IndexIVFScalarQuantizer):
            others["code"] = int(index.sq.qtype), _scalar_type(spec.code)
        if isinstance(index, faiss.IndexIVFPQFastScan):
            others["coordinates per code"] = spec.width // int(index.pq.M), group
        kind = faiss.IndexIVFFlatPanorama if spec.levels else _KINDS[spec.code]
        # Any number of the items may be in a second cell.
        num_entries = index.ntotal if num_items <= index.ntotal <= 2 * num_items else num_items
        check_index(path, index, kind=kind, width=spec.width, num_items=num_entries, **others)
        return cls(spec, cells=cells, index=index, num_items=num_items, widths=widths)

    @property
    def size_bytes(self) -> int:
        """Bytes of codes, ids and norms with their padding, of the cells, and of their bases both ways."""
        return self._lists_bytes + 4 * self.spec.width * self.cells.key[1] + self._router.size_bytes

    def search(self, query_BU: np.ndarray, num: int, *, effort: RungSpec, allowed: ItemSet | None) -> Found:
        """Scan each query's ``effort.nprobe`` nearest cells; finds as many items as they hold."""
        query_Bw, cell_BP, score_BP = self._router.route(query_BU, effort.nprobe)
        found, more = self._each_once(
            *self._scan(query_Bw, cell_BP, score_BP, num + self._repeats(num, effort), allowed), num, effort
        )
        if more:
            most = num + self._num_twice
            found, _ = self._each_once(*self._scan(query_Bw, cell_BP, score_BP, most, allowed), num, effort)
        return found

    def search_until(
        self, query_BU: np.ndarray, num: int, *, effort: RungSpec, allowed: ItemSet | None, until_s: float
    ) -> Found:
        """Scan as many of those cells as there is time for, the nearest first; some are always scanned.

        Where all are, the answer is that of `search`, but for which of several equal scores come last, and for the
        rounding of fast-scan codes, which depends on the cells that are scanned together.

        Args:
            query_BU: as `search`.
            num: as `search`.
            effort: as `search`.
            allowed: as `search`.
            until_s: when to stop, on the clock of `time.perf_counter`.
        """
        query_Bw, cell_BP, score_BP = self._router.route(query_BU, effort.nprobe)
        num_scanned = num + self._repeats(num, effort)
        best = faiss.ResultHeap(len(query_Bw), num_scanned, keep_max=True)
        pace = Pace(cell_BP.shape[1], first=_FIRST, until_s=until_s)
        while part := pace.next():
            rows_BC, scores_BC = self._scan(query_Bw, cell_BP[:, part], score_BP[:, part], num_scanned, allowed)
            best.add_result(scores_BC, rows_BC)
        best.finalize()
        found, _ = self._each_once(best.I, best.D, num, effort)
        return replace(found, done_share=pace.share)

    def _repeats(self, num: int, effort: RungSpec) -> int:
        """Return how many more vectors to find for so many items, since some are found twice."""
        return min(self._num_twice, num // (_FEW_REPEATS if num <= effort.depth else _MANY_REPEATS))

    def _each_once(self, rows_BC: np.ndarray, scores_BC: np.ndarray, num: int, effort: RungSpec) -> tuple[Found, bool]:
        """Return the best ``num`` items, each at the better of its scores, and whether more have to be found."""
        if not self._num_twice:
            return Found(rows_BC, scores_BC), False
        least = fewest_candidates(num) if num <= effort.depth and num < self._num_items else num
        more = keep_each_once(rows_BC, scores_BC, least, num)
        return Found(rows_BC[:, :num], scores_BC[:, :num]), more

    def _scan(
        self, query_Bw: np.ndarray, cell_BP: np.ndarray, score_BP: np.ndarray, num: int, allowed: ItemSet | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and scores of the best items of the cells."""
        cell_BP, score_BP = np.ascontiguousarray(cell_BP), np.ascontiguousarray(score_BP)
        rows_BC = np.empty((len(query_Bw), num), dtype=np.int64)
        scores_BC = np.empty((len(query_Bw), num), dtype=np.float32)
        nprobe = cell_BP.shape[1]
        parameters = _probing(nprobe) if allowed is None else _Parameters(nprobe=nprobe, sel=allowed.selector)
        self._index.search_preassigned_c(
            len(query_Bw),
            faiss.swig_ptr(query_Bw),
            num,
            faiss.swig_ptr(cell_BP),
            faiss.swig_ptr(score_BP),
            faiss.swig_ptr(scores_BC),
            faiss.swig_ptr(rows_BC),
            False,  # rows, not places in lists
            parameters,
        )
        return rows_BC, scores_BC

    def save(self, folder: Path) -> None:
        """Write the vectors; the cells have a file of their own."""
        index = product_codes.with_order(self._index, self._group) if self._group else self._index
        write_index(index, folder / f"{self.spec.name}.faiss")


def fewest_candidates(num: int) -> int:
    """Return how many candidates there are at least, where so many are asked for and not all items are."""
    return -(-4 * num // 5)


def enough_candidates(num: int) -> int:
    """Return how many candidates to ask for so that there are at least so many: the fewest that do."""
    return (5 * num - 1) // 4


@lru_cache(maxsize=1024)
def _probing(nprobe: int) -> Any:
    """Return what FAISS is told of a search without a filter; it only reads that, so threads may share it."""
    return _Parameters(nprobe=nprobe)


def _empty(spec: IndexSpec, bases: Any, num: int) -> Any:
    """Return an index to be filled cell by cell; RaBitQ's fast scan can only be made from such a one."""
    width, metric = spec.width, faiss.METRIC_INNER_PRODUCT
    if spec.levels:
        return faiss.IndexIVFFlatPanorama(bases, width, num, spec.levels, metric, True, _PANORAMA_BLOCK)
    if spec.code == "float32":
        return faiss.IndexIVFFlat(bases, width, num, metric)
    if spec.code == "rabitq":
        return faiss.IndexIVFRaBitQ(bases, width, num, metric)
    return faiss.IndexIVFScalarQuantizer(bases, width, num, _scalar_type(spec.code), metric, False)


def _group(code: Code) -> int:
    """Return how many coordinates share a product code, 0 for all other codes."""
    return int(code[2:]) if code.startswith("pq") else 0


def _scalar_type(code: Code) -> int:
    kind = faiss.ScalarQuantizer.QT_fp16 if code == "fp16" else faiss.ScalarQuantizer.QT_8bit
    return int(kind)


def _lists_bytes(index: Any) -> int:
    """Return the bytes of all cells' codes and ids; fast-scan pads each to whole blocks, Panorama adds norms."""
    size_C = np.array([index.invlists.list_size(cell) for cell in range(int(index.nlist))], dtype=np.int64)
    if isinstance(index, faiss.IndexIVFFastScan):
        blocks_C, stride = -(-size_C // _FAST_SCAN_BLOCK), index.get_block_stride()  # type: ignore[attr-defined]
        return int(stride * blocks_C.sum() + 8 * size_C.sum())
    if isinstance(index, faiss.IndexIVFFlatPanorama):
        padded = -(-size_C // index.batch_size) * index.batch_size
        return int((padded * (index.code_size + 4 * (index.n_levels + 1))).sum() + 8 * size_C.sum())
    return int(size_C.sum()) * (int(index.code_size) + 8)
