"""FAISS's own indexes at full width: what one would use without trained prefixes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np

from benchmarks.rivals import DEPTHS, LENGTHS, SHARES, Index, Rival, Settings, SlowRival
from recsys.index.cells import num_cells

_faiss: Any = faiss
"""FAISS's Python layer adds arguments and functions that its stubs do not know."""


_BITS = 4
_OPQ_ROUNDS, _OPQ_POINTS = 10, 1 << 14


class FaissIndex(Index):
    """An index of FAISS, searched with parameters made of an effort."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self._rotates = isinstance(_unrefined(index), faiss.IndexPreTransform)

    def search(self, query_1D: np.ndarray, k: int, **effort: Any) -> np.ndarray:
        """Search with ``nprobe`` or ``efSearch``, and ``k_factor`` times k candidates to refine."""
        k_factor = effort.pop("k_factor", None)
        kind = _faiss.SearchParametersHNSW if "efSearch" in effort else _faiss.SearchParametersIVF
        inner = kind(**effort) if effort else None
        if inner is not None and self._rotates:
            inner = _faiss.SearchParametersPreTransform(index_params=inner)
        if k_factor is None:
            parameters = inner
        else:
            parameters = _faiss.IndexRefineSearchParameters(k_factor=k_factor, base_index_params=inner)
        rows_K: np.ndarray = self.index.search(query_1D, k, params=parameters)[1][0]
        return rows_K

    def save(self, path: Path) -> None:
        """Write FAISS's format."""
        faiss.write_index(self.index, str(path))


class FlatView(Index):
    """An exact scan of vectors where they lie: what everybody is timed in turns with."""

    def __init__(self, item_ND: np.ndarray) -> None:
        self.item_ND = np.asarray(item_ND)

    def search(self, query_1D: np.ndarray, k: int, **effort: Any) -> np.ndarray:
        """Scan everything."""
        rows_1K, scores_1K = np.empty((1, k), dtype=np.int64), np.empty((1, k), dtype=np.float32)
        pointers = [_faiss.swig_ptr(one) for one in (query_1D, self.item_ND, scores_1K, rows_1K)]
        num_items, width = self.item_ND.shape
        _faiss.knn_inner_product(*pointers[:2], width, 1, num_items, k, *pointers[2:], None)
        rows_K: np.ndarray = rows_1K[0]
        return rows_K

    def save(self, path: Path) -> None:
        """Write the vectors."""
        np.save(path.with_suffix(".npy"), self.item_ND)

    def size_bytes(self) -> int:
        """Return the vectors' own bytes: nothing needs to be written to count them."""
        return self.item_ND.nbytes


class _FaissRival(Rival):
    module = "faiss"

    def build(self, item_ND: np.ndarray, settings: Settings, *, seed: int) -> FaissIndex:
        """Train and fill an index that the factory makes."""
        index = faiss.index_factory(item_ND.shape[1], settings["factory"], faiss.METRIC_INNER_PRODUCT)
        _seed(index, seed, settings)
        _learn_rotation_for_scan(index)
        if not index.is_trained:
            index.train(item_ND)
        index.add(item_ND)
        _scan_nearest_first(index)
        return FaissIndex(index)


class Flat(_FaissRival):
    """Scans everything."""

    name: ClassVar[str] = "faiss flat"

    def builds(self, num_items: int, width: int) -> Sequence[Settings]:
        """Return the one there is."""
        return [{"factory": "Flat"}]

    def efforts(self, num_items: int, k: int) -> Sequence[Settings]:
        """Return the one there is."""
        return [{}]


class HNSW(_FaissRival, SlowRival):
    """A graph over whole vectors, or over halves."""

    name: ClassVar[str] = "faiss hnsw"

    def builds(self, num_items: int, width: int) -> Sequence[Settings]:
        """Vary the graph's degree and the vectors' precision."""
        return [
            {"factory": factory, "ef_construction": 200}
            for factory in ("HNSW32,Flat", "HNSW32,SQfp16", "HNSW16,Flat", "HNSW48,Flat")
        ]

    def efforts(self, num_items: int, k: int) -> Sequence[Settings]:
        """Vary the length of the list, from k on."""
        return [{"efSearch": round(k * multiple)} for multiple in LENGTHS]

    def load(self, path: Path, *, width: int) -> FaissIndex:
        """Read FAISS's format."""
        return FaissIndex(faiss.read_index(str(path)))


class _IVF(_FaissRival):
    codes: ClassVar[tuple[str, ...]]
    refines: ClassVar[tuple[str, ...]] = (",RFlat", ",Refine(SQfp16)")
    rotations: ClassVar[tuple[str, ...]] = ("", "RR{all}")
    """What vectors go through before: nothing, or a random rotation too, which spreads energy evenly over dimensions.
    Quantisers may need that."""

    def builds(self, num_items: int, width: int) -> Sequence[Settings]:
        """Vary the cells, the code and what refines."""
        cells = num_cells(num_items)
        numbers = [cells, cells // 2] if cells else []
        parts = {"all": width, "half": width // 2, "quarter": width // 4}
        rotated = [(rotation + "," if rotation else "", code) for rotation in self.rotations for code in self.codes]
        return [
            {"factory": f"{rotation}IVF{number},{code}{refine}".format(**parts)}
            for number, refine, (rotation, code) in itertools.product(numbers, self.refines, rotated)
        ]

    def efforts(self, num_items: int, k: int) -> Sequence[Settings]:
        """Vary cells and depth."""
        cells = num_cells(num_items)
        probes = sorted({max(1, round(cells * share)) for share in SHARES})
        return [{"nprobe": nprobe, "k_factor": depth} for nprobe, depth in itertools.product(probes, DEPTHS)]


class RaBitQ(_IVF):
    """One bit for each coordinate, scanned with SIMD, then refined."""

    name: ClassVar[str] = "faiss ivf rabitq"
    codes: ClassVar[tuple[str, ...]] = ("RaBitQfs",)


class PQ(_IVF):
    """4 bits for every 2 or 4 coordinates, scanned with SIMD, then refined; rotations at random, and learned (OPQ)."""

    name: ClassVar[str] = "faiss ivf pq"
    rotations: ClassVar[tuple[str, ...]] = ("", "RR{all}", "OPQ{half}")
    codes: ClassVar[tuple[str, ...]] = ("PQ{half}x4fs", "PQ{quarter}x4fs")


class Panorama(_IVF):
    """Whole vectors in levels, each given up as soon as it cannot be among the best."""

    name: ClassVar[str] = "faiss ivf panorama"
    codes: ClassVar[tuple[str, ...]] = ("FlatPanorama8",)
    refines: ClassVar[tuple[str, ...]] = ("",)
    rotations: ClassVar[tuple[str, ...]] = ("",)

    def efforts(self, num_items: int, k: int) -> Sequence[Settings]:
        """Vary cells."""
        return [{"nprobe": nprobe} for nprobe in sorted({effort["nprobe"] for effort in super().efforts(num_items, k)})]


def _unrefined(index: Any) -> Any:
    """Return what is searched before anything is refined."""
    return faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else index


def _scanned(index: Any) -> Any:
    """Return what is scanned, after any rotation and before anything is refined."""
    inner = _unrefined(index)
    return faiss.downcast_index(inner.index) if isinstance(inner, faiss.IndexPreTransform) else inner


def _scan_nearest_first(index: Any) -> None:
    """Let a fast scan take the nearest cells first: for one query at a time it is faster than FAISS's own choice."""
    inner = _scanned(index)
    if isinstance(inner, faiss.IndexIVFFastScan):
        inner.implem = 11


def _learn_rotation_for_scan(index: Any) -> None:
    """Let OPQ learn the rotation for the code that is scanned; for one of bytes, as FAISS does, it takes minutes."""
    inner = _unrefined(index)
    if not isinstance(inner, faiss.IndexPreTransform):
        return
    transform: Any = faiss.downcast_VectorTransform(inner.chain.at(0))  # type: ignore[attr-defined]
    if isinstance(transform, faiss.OPQMatrix):
        transform.pq = faiss.ProductQuantizer(transform.d_in, transform.M, _BITS)
        transform.niter, transform.max_train_points = _OPQ_ROUNDS, _OPQ_POINTS


def _seed(index: Any, seed: int, settings: Settings) -> None:
    inner = _scanned(index)
    if isinstance(inner, faiss.IndexIVF):
        inner.cp.seed = seed
    if isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efConstruction = settings["ef_construction"]
