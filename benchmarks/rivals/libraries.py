"""Libraries other than FAISS (extra ``scale``), each imported only when it is asked to build."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.rivals import DEPTHS, LENGTHS, SHARES, Index, Rival, Settings, SlowRival


class _Graph(SlowRival):
    """What libraries of navigable graphs have in common: degree and building effort, then a list's length."""

    kinds: ClassVar[tuple[str, ...]] = ("float32",)

    def builds(self, num_items: int, width: int) -> Sequence[Settings]:
        """Vary precision and degree."""
        return [
            {"degree": degree, "ef_construction": 200, "kind": kind}
            for degree, kind in itertools.product((64, 32), self.kinds)
        ]

    def efforts(self, num_items: int, k: int) -> Sequence[Settings]:
        """Vary the length of the list, from k on."""
        return [{"ef": round(k * multiple)} for multiple in LENGTHS if k * multiple <= num_items]


class _HnswlibIndex(Index):
    def __init__(self, index: Any) -> None:
        self.index = index

    def search(self, query_1D: np.ndarray, k: int, **effort: Any) -> np.ndarray:
        self.index.set_ef(effort["ef"])
        rows_1K, _ = self.index.knn_query(query_1D, k, num_threads=1)
        return np.asarray(rows_1K[0], dtype=np.int64)

    def save(self, path: Path) -> None:
        self.index.save_index(str(path))


class Hnswlib(_Graph):
    """The HNSW authors' own."""

    name: ClassVar[str] = "hnswlib"
    module: ClassVar[str] = "hnswlib"

    def build(self, item_ND: np.ndarray, settings: Settings, *, seed: int) -> Index:
        """Build a graph of inner products."""
        import hnswlib

        index = hnswlib.Index(space="ip", dim=item_ND.shape[1])
        index.init_index(
            max_elements=len(item_ND),
            M=settings["degree"] // 2,
            ef_construction=settings["ef_construction"],
            random_seed=seed,
        )
        index.add_items(item_ND, num_threads=os.cpu_count() or 1)
        return _HnswlibIndex(index)

    def load(self, path: Path, *, width: int) -> Index:
        """Read its own format."""
        import hnswlib

        index = hnswlib.Index(space="ip", dim=width)
        index.load_index(str(path))
        return _HnswlibIndex(index)


class _UsearchIndex(Index):
    def __init__(self, index: Any) -> None:
        self.index = index

    def search(self, query_1D: np.ndarray, k: int, **effort: Any) -> np.ndarray:
        self.index.expansion_search = effort["ef"]
        return _padded(np.asarray(self.index.search(query_1D[0], k, threads=1).keys), k)

    def save(self, path: Path) -> None:
        self.index.save(str(path))


class Usearch(_Graph):
    """HNSW over several precisions."""

    name: ClassVar[str] = "usearch"
    module: ClassVar[str] = "usearch"
    kinds: ClassVar[tuple[str, ...]] = ("f32", "bf16", "i8")

    def build(self, item_ND: np.ndarray, settings: Settings, *, seed: int) -> Index:
        """Build a graph of inner products."""
        from usearch.index import Index as Graph

        index = Graph(
            ndim=item_ND.shape[1],
            metric="ip",
            dtype=settings["kind"],
            connectivity=settings["degree"] // 2,
            expansion_add=settings["ef_construction"],
        )
        index.add(np.arange(len(item_ND)), item_ND, threads=os.cpu_count() or 1)
        return _UsearchIndex(index)

    def load(self, path: Path, *, width: int) -> Index:
        """Read its own format."""
        from usearch.index import Index as Graph

        return _UsearchIndex(Graph.restore(str(path)))


class _VoyagerIndex(Index):
    def __init__(self, index: Any) -> None:
        self.index = index

    def search(self, query_1D: np.ndarray, k: int, **effort: Any) -> np.ndarray:
        rows_K, _ = self.index.query(query_1D[0], k, num_threads=1, query_ef=effort["ef"])
        return np.asarray(rows_K, dtype=np.int64)

    def save(self, path: Path) -> None:
        self.index.save(str(path))


class Voyager(_Graph):
    """Spotify's HNSW."""

    name: ClassVar[str] = "voyager"
    module: ClassVar[str] = "voyager"
    kinds: ClassVar[tuple[str, ...]] = ("Float32", "E4M3")

    def build(self, item_ND: np.ndarray, settings: Settings, *, seed: int) -> Index:
        """Build a graph of cosines, which are the inner products of unit vectors."""
        import voyager

        index = voyager.Index(
            voyager.Space.Cosine,
            num_dimensions=item_ND.shape[1],
            M=settings["degree"] // 2,
            ef_construction=settings["ef_construction"],
            random_seed=seed,
            max_elements=len(item_ND),
            storage_data_type=getattr(voyager.StorageDataType, settings["kind"]),
        )
        index.add_items(item_ND, num_threads=os.cpu_count() or 1)
        return _VoyagerIndex(index)

    def load(self, path: Path, *, width: int) -> Index:
        """Read its own format."""
        import voyager

        return _VoyagerIndex(voyager.Index.load(str(path)))


class _ScannIndex(Index):
    def __init__(self, searcher: Any) -> None:
        self.searcher = searcher

    def search(self, query_1D: np.ndarray, k: int, **effort: Any) -> np.ndarray:
        found, _ = self.searcher.search(
            query_1D[0],
            final_num_neighbors=k,
            pre_reorder_num_neighbors=effort["depth"],
            leaves_to_search=effort["leaves"],
        )
        return _padded(np.asarray(found), k)

    def save(self, path: Path) -> None:
        path.mkdir()
        self.searcher.serialize(str(path))


class Scann(Rival):
    """Google's tree with anisotropic quantisation, rescored from whole vectors or bfloat16."""

    name: ClassVar[str] = "scann"
    module: ClassVar[str] = "scann"

    def builds(self, num_items: int, width: int) -> Sequence[Settings]:
        """Vary the leaves and the quantiser."""
        leaves = max(1, round(2 * num_items**0.5))
        return [
            {"leaves": number, "threshold": threshold, "reorder": reorder}
            for threshold, number, reorder in itertools.product(
                (0.2, 0.0), (leaves, max(1, leaves // 2)), ("BFLOAT16", "FLOAT32")
            )
        ]

    def efforts(self, num_items: int, k: int) -> Sequence[Settings]:
        """Vary leaves and depth."""
        leaves = max(1, round(2 * num_items**0.5))
        opened = sorted({max(1, round(leaves * share)) for share in SHARES})
        return [{"leaves": number, "depth": round(depth * k)} for number, depth in itertools.product(opened, DEPTHS)]

    def build(self, item_ND: np.ndarray, settings: Settings, *, seed: int) -> Index:
        """Build the tree, the quantiser and the rescoring."""
        import scann
        from scann.scann_ops.py import scann_builder

        builder = scann.scann_ops_pybind.builder(item_ND, 100, "dot_product")
        builder = builder.tree(
            num_leaves=settings["leaves"],
            num_leaves_to_search=settings["leaves"],
            training_sample_size=min(len(item_ND), 250_000),
        )
        builder = builder.score_ah(2, anisotropic_quantization_threshold=settings["threshold"])
        builder = builder.reorder(100, quantize=getattr(scann_builder.ReorderType, settings["reorder"]))
        return _ScannIndex(builder.build())


class _SvsIndex(Index):
    def __init__(self, index: Any) -> None:
        self.index = index
        self.index.num_threads = 1
        self._window = 0

    def search(self, query_1D: np.ndarray, k: int, **effort: Any) -> np.ndarray:
        if effort["ef"] != self._window:
            self._window = self.index.search_window_size = effort["ef"]
        rows_1K, _ = self.index.search(query_1D, k)
        return np.asarray(rows_1K[0], dtype=np.int64)

    def save(self, path: Path) -> None:
        path.mkdir()
        self.index.save(*(str(path / part) for part in ("config", "graph", "data")))


class ScalableVS(_Graph):
    """Intel's Vamana graph over whole vectors or halves."""

    name: ClassVar[str] = "scalable-vs"
    module: ClassVar[str] = "svs"
    kinds: ClassVar[tuple[str, ...]] = ("float32", "float16")

    def build(self, item_ND: np.ndarray, settings: Settings, *, seed: int) -> Index:
        """Build a graph of inner products."""
        import svs

        parameters = svs.VamanaBuildParameters(
            alpha=0.95, graph_max_degree=settings["degree"], window_size=settings["ef_construction"]
        )
        vector_ND = item_ND.astype(settings["kind"])
        index = svs.Vamana.build(parameters, vector_ND, svs.DistanceType.MIP, num_threads=os.cpu_count() or 1)
        return _SvsIndex(index)

    def load(self, path: Path, *, width: int) -> Index:
        """Read its own format."""
        import svs

        config, graph, data = (str(path / part) for part in ("config", "graph", "data"))
        index = svs.Vamana(config, svs.GraphLoader(graph), svs.VectorDataLoader(data), svs.DistanceType.MIP)
        return _SvsIndex(index)


def _padded(rows_F: np.ndarray, k: int) -> np.ndarray:
    """Return k rows, -1 in the places for which the library found none."""
    rows_K = np.full(k, -1, dtype=np.int64)
    rows_K[: len(rows_F)] = rows_F[:k]
    return rows_K
